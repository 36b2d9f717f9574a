"""The data sets, laid out as their archives unpack, and the pictures of a run among them."""

import csv
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from .. import world

NAMES = ("world", "ilsvrc2012", "voc2007", "voc2012", "cub", "folder")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# Scenes that neither the training, nor the tests, nor the tables of evidence have.
FIRST_SEED, SEEDS_A_RUN = 80_000_000, 100_000
SCENES = 100

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Truth:
    """What is known about one picture. target: the annotated class, None where it is not known.

    boxes: of that class, (x0, y0, x1, y1) half-open as in `metrics.box_masks`. every: of all objects.
    """

    target: int | None
    boxes: tuple[Box, ...]
    every: tuple[Box, ...]


@dataclass(frozen=True)
class DataSet:
    """photos: file name → path, or → seed of a scene. classes: how many, None where nobody says.

    boxes: whether objects have boxes. truth: what is known about a photo of that name.
    """

    name: str
    photos: dict[str, str | int]
    classes: int | None
    boxes: bool
    truth: Callable[[str], Truth]


@dataclass(frozen=True)
class Item:
    """A picture of a run. photo: path or seed. target: the class to explain, None for the network's top-1.

    boxes: in which the object is to be found.
    """

    name: str
    photo: str | int
    target: int | None
    boxes: tuple[Box, ...]


def load(name: str, root: Path, *, images: int | None = None, seed: int = 0) -> DataSet:
    """A data set by its name, one of `NAMES`, below the folder root; "folder" is root itself.

    world         `images` scenes with one class (None: 100), others for every seed
    ilsvrc2012    ILSVRC2012/val/*.JPEG; boxes from ILSVRC2012/bbox/val/*.xml; classes in torchvision's order
                  from ILSVRC2012/labels/val.txt (lines "NAME.JPEG NUMBER"), else from all the boxes' files
    voc2007       VOCdevkit/VOC2007, the pictures of ImageSets/Main/test.txt
    voc2012       VOCdevkit/VOC2012, those of val.txt
    cub           CUB_200_2011, the pictures that are not for training
    folder        all pictures below root, without labels; with them if there is an index.csv with the columns
                  file, class and boxes_xyxy (a JSON list)

    A picture of VOC has several classes, and one map: that of the class which covers most. Objects that are
    all marked difficult do not count (as in TorchRay's code). These are our choices.
    Raises FileNotFoundError where the data set is not there, ValueError where it is damaged.
    """
    readers = {
        "ilsvrc2012": _ilsvrc2012,
        "voc2007": functools.partial(_voc, year="2007", split="test", fetch="voc2007_test"),
        "voc2012": functools.partial(_voc, year="2012", split="val", fetch="voc2012"),
        "cub": _cub,
        "folder": _folder,
    }
    if name == "world":
        return _world(SCENES if images is None else images, seed)
    if name not in readers:
        raise ValueError(f"There is no data set {name!r}: choose one of {', '.join(NAMES)}.")
    found = readers[name](Path(root))
    if not found.photos:
        raise FileNotFoundError(f"There are no pictures of {name} in {root}: check --data.")
    return found


def choose(
    data: DataSet, *, images: int | None = None, seed: int = 0, names: Sequence[str] | None = None
) -> list[str]:
    """File names of the pictures to take: `images` of them, drawn by the seed; None takes all.

    names: draw from these only. The first pictures of a longer draw are those of a shorter one. ValueError
    for more pictures than there are, and names that are not there.
    """
    listed = sorted(data.photos) if names is None else list(names)
    missing = [name for name in listed if name not in data.photos]
    if missing:
        raise ValueError(
            f"{len(missing)} of the {len(listed)} pictures that the recipe lists are not in {data.name}, the "
            f"first is {missing[0]}: complete the data set, or take another one with --data-set."
        )
    if images is None:
        return listed
    if not 1 <= images <= len(listed):
        raise ValueError(
            f"{data.name} has {len(listed)} pictures to choose from, so --images {images} cannot be."
        )
    drawn = np.random.default_rng(seed).permutation(len(listed))[:images]
    return [listed[number] for number in sorted(drawn)]


def items(data: DataSet, names: Sequence[str], *, annotated: bool) -> list[Item]:
    """The pictures of these names, for the annotated class or for what the network takes them for.

    Where the network chooses the class, it need be none of the annotated ones: the boxes are those of all
    objects then. ValueError where the annotated class is wanted and not known.
    """
    found = []
    for name in names:
        truth = data.truth(name)
        if annotated and truth.target is None:
            raise ValueError(
                f"The class of {name} is not known: explain the network's own with --target top1."
            )
        boxes = truth.boxes if annotated else truth.every
        found.append(Item(name, data.photos[name], truth.target if annotated else None, boxes))
    return found


def _world(count: int, seed: int) -> DataSet:
    first = FIRST_SEED + SEEDS_A_RUN * seed
    photos = {f"scene_{first + number}.png": first + number for number in range(count)}

    def truth(name: str) -> Truth:
        scene = world.scene(photos[name])
        boxes = tuple(thing.box for thing in scene.objects)
        return Truth(scene.label, boxes, boxes)

    return DataSet("world", photos, len(world.CLASSES), True, truth)


def _ilsvrc2012(root: Path) -> DataSet:
    folder = root / "ILSVRC2012"
    photos = _photos(_there(folder / "val", "imagenet_val"))
    boxes = folder / "bbox" / "val"

    @functools.cache    # only when somebody asks for a class
    def numbers() -> dict[str, int]:
        """Class numbers by picture or by wnid, whichever is known."""
        labels = folder / "labels" / "val.txt"
        if labels.is_file():
            lines = (line.split() for line in labels.read_text(encoding="utf-8").splitlines())
            return {name: int(number) for name, number in lines}
        wnids = sorted({thing[0] for file in boxes.glob("*.xml") for thing in _objects(file)})
        # torchvision numbers the classes in the order of their wnids, so all thousand must be there.
        return {wnid: number for number, wnid in enumerate(wnids)} if len(wnids) == 1000 else {}

    def truth(name: str) -> Truth:
        file = boxes / f"{Path(name).stem}.xml"
        objects = _objects(file) if file.is_file() else []
        known = [key for key in (name, *(thing[0] for thing in objects)) if key in numbers()]
        every = tuple(box for _, box, _ in objects)
        return Truth(numbers()[known[0]] if known else None, every, every)

    return DataSet("ilsvrc2012", photos, 1000, boxes.is_dir(), truth)


def _voc(root: Path, *, year: str, split: str, fetch: str) -> DataSet:
    folder = _there(root / "VOCdevkit" / f"VOC{year}", fetch)
    listed = _there(folder / "ImageSets" / "Main" / f"{split}.txt", fetch).read_text(encoding="utf-8").split()
    photos = {f"{name}.jpg": str(folder / "JPEGImages" / f"{name}.jpg") for name in listed}

    def truth(name: str) -> Truth:
        objects = _objects(folder / "Annotations" / f"{Path(name).stem}.xml", first=1)
        by_class: dict[str, list[Box]] = {}
        for label, box, _ in objects:
            by_class.setdefault(label, []).append(box)
        easy = {label for label, _, difficult in objects if not difficult}
        every = tuple(box for label, box, _ in objects if label in easy)
        if not easy:
            return Truth(None, (), ())
        largest = max(sorted(easy), key=lambda label: sum(map(_area, by_class[label])))
        return Truth(VOC_CLASSES.index(largest), tuple(by_class[largest]), every)

    return DataSet(f"voc{year}", photos, len(VOC_CLASSES), True, truth)


def _cub(root: Path) -> DataSet:
    folder = _there(root / "CUB_200_2011", "cub")

    def column(file: str) -> dict[str, list[str]]:
        lines = _there(folder / file, "cub").read_text(encoding="utf-8").splitlines()
        return {number: rest for number, *rest in (line.split() for line in lines)}

    paths, labels = column("images.txt"), column("image_class_labels.txt")
    boxes, split = column("bounding_boxes.txt"), column("train_test_split.txt")
    numbers = {Path(path).name: number for number, (path,) in paths.items() if split[number] == ["0"]}
    photos = {name: str(folder / "images" / paths[number][0]) for name, number in numbers.items()}

    def truth(name: str) -> Truth:
        x, y, width, height = map(float, boxes[numbers[name]])
        box = (x, y, x + width, y + height)
        return Truth(int(labels[numbers[name]][0]) - 1, (box,), (box,))

    return DataSet("cub", photos, 200, True, truth)


def _folder(root: Path) -> DataSet:
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}: name one with --data.")
    photos, index = _photos(root), root / "index.csv"
    rows = {}
    if index.is_file():
        with index.open(encoding="utf-8", newline="") as file:
            rows = {row["file"]: row for row in csv.DictReader(file)}

    def truth(name: str) -> Truth:
        row = rows.get(name, {})
        boxes = tuple(map(tuple, json.loads(row.get("boxes_xyxy") or "[]")))
        return Truth(int(row["class"]) if row.get("class") else None, boxes, boxes)

    boxed = any(row.get("boxes_xyxy") for row in rows.values())
    return DataSet("folder", photos, None, boxed, truth)


def _there(path: Path, fetch: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}: `python -m data_download get {fetch}` puts it there, or says how to; "
            "another place is named with --data."
        )
    return path


def _photos(folder: Path) -> dict[str, str]:
    """All pictures below the folder by their file names, which must differ: maps are kept under them."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            if path.name in found:
                raise ValueError(
                    f"Two pictures are called {path.name}, {found[path.name]} and {path}: rename one."
                )
            found[path.name] = str(path)
    return found


def _objects(file: Path, first: int = 0) -> list[tuple[str, Box, bool]]:
    """Name, box and whether it is marked difficult, of each object in an annotation of VOC's form.

    first: the number of the first pixel; VOC counts from 1 and includes the last one.
    """
    try:
        found = []
        for thing in ElementTree.parse(file).getroot().iter("object"):
            sides = ("xmin", "ymin", "xmax", "ymax")
            x0, y0, x1, y1 = (float(thing.findtext(f"bndbox/{side}")) for side in sides)
            box = (x0 - first, y0 - first, x1, y1)
            found.append((thing.findtext("name"), box, thing.findtext("difficult") == "1"))
        return found
    except (OSError, ElementTree.ParseError, TypeError, ValueError) as error:
        raise ValueError(
            f"The annotation {file} cannot be read ({error}): fetch the data set again."
        ) from error


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
