"""`python -m cambook evaluate` without a cluster: data sets, plans, recipes, costs, and what is refused."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from cambook import files, methods, metrics, models, world
from cambook.__main__ import main
from cambook.evaluate import cluster, cost, datasets, networks, plan, shards
from cambook.evaluate.plan import Plan, change, read_recipe

RECIPES = sorted(plan.RECIPES.glob("*.toml"))


def picture(path, width=60, height=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)


def annotation(path, *objects):
    """objects: (name, (xmin, ymin, xmax, ymax), difficult)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    things = "".join(
        f"<object><name>{name}</name><difficult>{int(difficult)}</difficult><bndbox><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1), difficult in objects
    )
    path.write_text(f"<annotation>{things}</annotation>")


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    picture(folder / "JPEGImages" / "000001.jpg")
    picture(folder / "JPEGImages" / "000002.jpg")
    annotation(
        folder / "Annotations" / "000001.xml",
        ("dog", (1, 1, 10, 10), False), ("person", (11, 1, 25, 10), False), ("dog", (1, 11, 10, 20), True),
        ("sofa", (1, 1, 60, 40), True),
    )  # fmt: skip
    annotation(folder / "Annotations" / "000002.xml", ("cat", (1, 1, 10, 10), True))
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "test.txt").write_text("000001\n000002\n")
    return tmp_path


class TestDataSets:
    def test_voc(self, voc):
        """The dogs together cover most of what is not only difficult; VOC counts pixels from 1."""
        data = datasets.load("voc2007", voc)
        assert list(data.photos) == ["000001.jpg", "000002.jpg"] and data.classes == 20
        (one,) = datasets.items(data, ["000001.jpg"], annotated=True)
        assert datasets.VOC_CLASSES[one.target] == "dog"
        assert one.boxes == ((0, 0, 10, 10), (0, 10, 10, 20))
        (one,) = datasets.items(data, ["000001.jpg"], annotated=False)
        assert one.target is None and one.boxes == ((0, 0, 10, 10), (10, 0, 25, 10), (0, 10, 10, 20))
        with pytest.raises(ValueError, match="class of 000002.jpg is not known.*--target top1"):
            datasets.items(data, ["000002.jpg"], annotated=True)

    def test_ilsvrc2012(self, tmp_path):
        folder = tmp_path / "ILSVRC2012"
        for number in (1, 2):
            picture(folder / "val" / f"ILSVRC2012_val_0000000{number}.JPEG")
        boxes = folder / "bbox" / "val" / "ILSVRC2012_val_00000001.xml"
        annotation(boxes, ("n01440764", (3, 4, 30, 20), False))
        data = datasets.load("ilsvrc2012", tmp_path)
        names = list(data.photos)
        one, two = datasets.items(data, names, annotated=False)
        assert one.boxes == ((3, 4, 30, 20),) and two.boxes == () and data.boxes
        with pytest.raises(ValueError, match="is not known"):
            datasets.items(data, names, annotated=True)
        (folder / "labels").mkdir()
        (folder / "labels" / "val.txt").write_text(f"{names[0]} 65\n{names[1]} 970\n")
        one, two = datasets.items(datasets.load("ilsvrc2012", tmp_path), names, annotated=True)
        assert (one.target, two.target) == (65, 970)

    def test_ilsvrc2012_classes_from_the_boxes(self, tmp_path):
        """Where there are files of all thousand classes, their wnids in order are torchvision's numbers."""
        folder = tmp_path / "ILSVRC2012"
        picture(folder / "val" / "a.JPEG")
        for number in range(1000):
            name = "a" if number == 7 else f"b{number}"
            annotation(folder / "bbox" / "val" / f"{name}.xml", (f"n{number:08d}", (0, 0, 2, 2), False))
        (one,) = datasets.items(datasets.load("ilsvrc2012", tmp_path), ["a.JPEG"], annotated=True)
        assert one.target == 7

    def test_cub(self, tmp_path):
        folder = tmp_path / "CUB_200_2011"
        picture(folder / "images" / "001.Albatross" / "Albatross_1.jpg")
        picture(folder / "images" / "002.Auk" / "Auk_1.jpg")
        for name, lines in {
            "images": "1 001.Albatross/Albatross_1.jpg\n2 002.Auk/Auk_1.jpg",
            "image_class_labels": "1 1\n2 2", "bounding_boxes": "1 0 0 1 1\n2 5.0 6.0 20.0 10.0",
            "train_test_split": "1 1\n2 0",
        }.items():  # fmt: skip
            (folder / f"{name}.txt").write_text(lines)
        data = datasets.load("cub", tmp_path)
        (one,) = datasets.items(data, list(data.photos), annotated=True)
        assert (one.name, one.target, one.boxes) == ("Auk_1.jpg", 1, ((5, 6, 25, 16),))

    def test_world(self):
        data = datasets.load("world", None, images=3, seed=2)
        names = datasets.choose(data, images=3, seed=2)
        first = datasets.items(data, names, annotated=True)[0]
        assert first.photo == 80_200_000 and first.target == world.scene(first.photo).label
        assert not set(names) & set(datasets.load("world", None, images=3, seed=1).photos)

    def test_folder_and_its_index(self, tmp_path):
        picture(tmp_path / "deep" / "one.PNG")
        picture(tmp_path / "two.jpg")
        assert not datasets.load("folder", tmp_path).boxes
        (tmp_path / "index.csv").write_text('file,class,boxes_xyxy\ntwo.jpg,4,"[[1, 2, 3, 4]]"\n')
        data = datasets.load("folder", tmp_path)
        one, two = datasets.items(data, ["one.PNG", "two.jpg"], annotated=False)
        assert one.boxes == () and two.boxes == ((1, 2, 3, 4),) and data.boxes
        picture(tmp_path / "deep" / "two.jpg")
        with pytest.raises(ValueError, match="Two pictures are called two.jpg"):
            datasets.load("folder", tmp_path)

    @pytest.mark.parametrize(
        "name, fetch",
        [("ilsvrc2012", "imagenet_val"), ("voc2007", "voc2007_test"), ("voc2012", "voc2012"), ("cub", "cub")],
    )
    def test_what_is_not_there_can_be_fetched(self, tmp_path, name, fetch):
        with pytest.raises(FileNotFoundError, match=f"python -m data_download get {fetch}` .* --data"):
            datasets.load(name, tmp_path)

    def test_a_damaged_annotation(self, voc):
        file = voc / "VOCdevkit" / "VOC2007" / "Annotations" / "000001.xml"
        file.write_text("<annotation><object>")
        data = datasets.load("voc2007", voc)
        with pytest.raises(ValueError, match="000001.xml cannot be read"):
            datasets.items(data, ["000001.jpg"], annotated=True)

    def test_choice(self, tmp_path):
        for number in range(20):
            picture(tmp_path / f"{number:02d}.png")
        data = datasets.load("folder", tmp_path)
        few, more = (datasets.choose(data, images=count, seed=1) for count in (4, 9))
        assert set(few) < set(more) and few == sorted(few) and len(few) == 4
        assert few != datasets.choose(data, images=4, seed=2)
        assert datasets.choose(data) == sorted(data.photos)
        assert datasets.choose(data, names=["07.png", "03.png"]) == ["07.png", "03.png"]
        with pytest.raises(ValueError, match="1 of the 2 pictures that the recipe lists.*x.png"):
            datasets.choose(data, names=["07.png", "x.png"])
        with pytest.raises(ValueError, match="has 20 pictures to choose from"):
            datasets.choose(data, images=21)


class TestRecipes:
    @pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
    def test_can_be_run(self, path):
        """Every method, metric and option exists; what is unknown is said; the network and data set exist."""
        recipe, words = read_recipe(path.stem)
        assert set(words) == set(plan.WORDS) and all(words.values())
        assert recipe.rows() and recipe.columns(boxes=True)
        assert recipe.data_set in datasets.NAMES and recipe.target in plan.TARGETS
        assert recipe.network in torchvision.models.list_models(module=torchvision.models)
        assert f"[{path.stem}]({path.name})" in (plan.RECIPES / "README.md").read_text(encoding="utf-8")

    def test_polycam_is_the_papers(self):
        recipe, _ = read_recipe("polycam-vgg16")
        assert len(set(recipe.names)) == 2000 and recipe.squash == 224 and recipe.target == "top1"
        pm = recipe.rows()["pcam_pm"]
        assert pm.func is methods.poly_cam and pm.keywords["variant"] == "pm"
        insertion = recipe.columns(boxes=False)["insertion"]
        assert insertion.func is metrics.insertion and insertion.keywords["protocol"] == "polycam"

    def test_a_change_is_said(self):
        recipe, _ = read_recipe("polycam-resnet50")
        assert recipe.rows()["pcam_pm"].keywords["layers"] == "resnet50_official"
        changed = change(recipe, network="squeezenet1_1", images=4, seed=None)
        assert changed.changes == ("network squeezenet1_1 instead of resnet50", "images 4")
        assert changed.weights is None and "layers" not in changed.rows()["pcam_pm"].keywords
        assert changed.names == recipe.names and change(changed, data_set="folder").names is None
        assert change(recipe).changes == () and change(Plan(), images=4).changes == ()

    def test_what_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="polycam-vgg16"):
            read_recipe("no-such")
        file = tmp_path / "mine.toml"
        file.write_text("netwrok = 'vgg16'")
        with pytest.raises(ValueError, match="says netwrok"):
            read_recipe(str(file))
        file.write_text("network = ")
        with pytest.raises(ValueError, match="is no TOML"):
            read_recipe(str(file))
        with pytest.raises(ValueError, match="no method 'gradcam'"):
            Plan(methods={"gradcam": {}}).rows()
        with pytest.raises(ValueError, match="score_cam has no option colour"):
            Plan(methods={"score_cam": {"colour": 1}}).rows()
        with pytest.raises(ValueError, match="energy_in_box cannot be measured"):
            Plan(metrics={"energy_in_box": {}}).columns(boxes=False)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "result.txt"
    for content in ("first", "second"):
        with files.whole(path) as part:
            part.write_text(content)
    with pytest.raises(OSError, match="full"), files.whole(path) as part:
        part.write_text("thi")
        raise OSError("full")
    assert path.read_text() == "second" and list(path.parent.iterdir()) == [path]


def test_squashed_pictures_keep_their_boxes(tmp_path):
    """Aspect and all: a box of the left half stays one."""
    picture(tmp_path / "wide.png", width=100, height=40)
    item = datasets.Item("wide.png", str(tmp_path / "wide.png"), 3, ((0, 0, 50, 40),))
    seen = shards.prepare(item, models.load("tiny_vgg").preprocessing, 64)
    assert seen.image.shape == (3, 64, 64) and seen.target == 3
    assert seen.box[:, :32].all() and not seen.box[:, 32:].any()


@pytest.fixture(scope="module")
def small():
    """A network of few channels, and an image for it."""
    torch.manual_seed(0)
    stages = [nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 10, 3), nn.ReLU()]
    net = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5))
    net = models.load(net.eval(), preprocessing={"resize": 48, "crop": 48})
    return net, net.preprocessing(world.scene(3).image)


@pytest.mark.parametrize("name", plan.METHODS)
def test_no_method_costs_more_than_foretold(small, name):
    """And not much less either, where no channel is dead."""
    net, image = small
    options = {"steps": 2} if "steps" in str(plan.METHODS[name].__kwdefaults__) else {}
    foretold = cost.of_method(name, options, cost.channels(net, image))
    mask = {"masks": torch.ones(1, 48, 48, dtype=torch.bool)} if name == "exact_mask" else {}
    took = plan.METHODS[name](net, image, **options, **mask).forwards
    total = foretold.forwards + foretold.backwards
    assert took <= total
    if name != "gig_cam_f":    # whose larger pictures count as several
        assert took >= 0.5 * total - 3


def test_no_metric_costs_more_than_foretold(small):
    net, image = small
    explanation = methods.grad_cam(net, image)
    grad_cam = cost.of_method("grad_cam", {}, cost.channels(net, image))
    for name, options in {"insertion": {"steps": 5}, "road": {}, "average_drop": {}}.items():
        took = plan.METRICS[name](net, image, explanation.map, **options).forwards
        assert took <= cost.of_metric(name, options, grad_cam).forwards
    for name, options in {"adcc": {}, "max_sensitivity": {"samples": 2}}.items():
        took = plan.METRICS[name](methods.grad_cam, net, image, **options).forwards
        foretold = cost.of_metric(name, options, grad_cam)
        assert took <= foretold.forwards + foretold.backwards


def test_shards_are_named_by_what_they_rest_on(tmp_path):
    """Another option, metric, picture or network is another file; the same is the same."""
    picture(tmp_path / "one.png")
    data = datasets.load("folder", tmp_path)
    items = datasets.items(data, ["one.png"], annotated=False)
    net = models.load("tiny_resnet")

    def name(made=items, net=net, **choices):
        chosen = Plan(**{"methods": {"poly_cam": {}}, "metrics": {"insertion": {}}} | choices)
        return shards.cut(chosen, made, net, boxes=False)[0].file

    names = [
        name(), name(methods={"poly_cam": {"variant": "plus"}}), name(metrics={"insertion": {"steps": 3}}),
        name(squash=64), name(net=models.load("tiny_resnet", preprocessing={"crop": 64})),
        name(net=models.load("tiny_vgg")),
    ]  # fmt: skip
    assert len(set(names)) == len(names) and name() == names[0]
    picture(tmp_path / "one.png", width=61)
    assert name() not in names


def test_a_worker_computes_a_shard_once_and_only_the_runs_own(tmp_path):
    """A worker may die when the file is written and before it said so; Dask asks another one again."""
    picture(tmp_path / "one.png")
    made = Plan(network="tiny_resnet", preprocessing={"resize": 48, "crop": 48}, metrics={"increase": {}})
    items = datasets.items(datasets.load("folder", tmp_path), ["one.png"], annotated=False)
    (shard,) = shards.cut(made, items, networks.load(made), boxes=False)
    job = shards.Job(made, str(tmp_path), boxes=False, device="cpu", threads=None)
    with pytest.raises(shards.StoreError, match="not the run's folder where the worker runs"):
        shards.compute(job, shard)
    (tmp_path / "run.json").touch()
    found = shards.compute(job, shard)
    written = (tmp_path / shard.file).stat().st_mtime_ns
    assert shards.compute(job, shard) == found
    assert (tmp_path / shard.file).stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="another cambook, other weights or other pictures"):
        shards.compute(job, dataclasses.replace(shard, file="shards/other.npz"))


def test_workers_are_as_many_as_the_machine_bears(monkeypatch):
    """One a GPU, each with its own; on CPUs one a core, as far as memory goes."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert cluster.default_workers("cuda", 10**9) == 2
    for name, device in {0: "cuda:0", 1: "cuda:1", 2: "cuda:0", "tcp://host:1": "cuda:0"}.items():
        monkeypatch.setattr("distributed.get_worker", lambda name=name: SimpleNamespace(name=name))
        assert shards._device("cuda") == device
    monkeypatch.setattr(cluster, "cores", lambda: 8)
    for memory, count in {10**12: 8, 7 * 10**9: 2, 10**9: 1}.items():
        monkeypatch.setattr(cluster, "_memory", lambda memory=memory: memory)
        assert cluster.default_workers("cpu", 5 * 10**8) == count


def test_a_network_with_other_classes(tmp_path):
    """As those are that were trained on VOC."""
    net = torchvision.models.squeezenet1_1(num_classes=20)
    torch.save(net.state_dict(), tmp_path / "voc.pth")
    loaded = networks.load(Plan(network="squeezenet1_1", weights=str(tmp_path / "voc.pth")))
    assert len(loaded.classes) == 20 and not loaded.training and loaded.preprocessing.crop == 224
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded(image), net.eval()(image))


def test_downloaded_weights_are_found(tmp_path):
    file = tmp_path / "weights" / "vgg16-397923af.pth"
    chosen = Plan(network="vgg16", weights="IMAGENET1K_V1")
    assert networks.stored(chosen, tmp_path) == "IMAGENET1K_V1"
    file.parent.mkdir()
    file.touch()
    assert networks.stored(chosen, tmp_path) == str(file)
    assert networks.stored(Plan(), tmp_path) is None


class TestCommand:
    def run(self, tmp_path, *options):
        return main(["evaluate", "--out", str(tmp_path / "out"), "--device", "cpu", *map(str, options)])

    def test_dry_run_writes_nothing(self, tmp_path, capsys):
        small = ["--resize", "48", "--crop", "48", "--network", "tiny_resnet", "--workers", 2]
        assert self.run(tmp_path, "--images", 5, "--metrics", "increase", "--dry-run", *small) == 0
        said = capsys.readouterr().out
        assert "5 pictures, at most 30 forwards (5 of them also backwards): about 0.0" in said
        assert "with 2 workers on this cpu, of which 100% are left" in said
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "options, sentence",
        [
            (["--recipe", "no-such"], "There is no recipe"),
            (["--methods", "gradcam"], "There is no method 'gradcam'"),
            (["--metrics", "speed"], "There is no metric 'speed'"),
            (["--network", "tiny_vg"], "no network called 'tiny_vg'"),
            (["--images", "0"], "--images 0 cannot be"),
            (["--data-set", "cub"], "data_download get cub"),
            (["--images", "2", "--scheduler", "tcp://127.0.0.1:1"], "No scheduler answers at tcp://127.0"),
        ],
    )
    def test_one_sentence_for_each_mistake(self, tmp_path, capsys, options, sentence, monkeypatch):
        monkeypatch.setattr("cambook.evaluate.cluster.SECONDS_TO_CONNECT", 0.2)
        assert self.run(tmp_path, "--data", tmp_path, *options) == 2
        said = capsys.readouterr().err
        assert said.startswith("cambook: ") and sentence in said and said.count("\n") == 1

    def test_classes_that_do_not_fit(self, voc, tmp_path, capsys):
        assert self.run(tmp_path, "--data-set", "voc2007", "--data", voc, "--target", "annotated") == 2
        assert "voc2007 has 20 classes, and the network 10" in capsys.readouterr().err

    def test_another_run_is_not_overwritten(self, tmp_path, capsys):
        (tmp_path / "out").mkdir()
        other = json.dumps({"settings": {"network": "vgg16"}, "results": None})
        (tmp_path / "out" / "run.json").write_text(other)
        assert self.run(tmp_path, "--images", 2) == 2
        assert "holds a run with other settings (network" in capsys.readouterr().err
        assert (tmp_path / "out" / "run.json").read_text() == other
        shutil.rmtree(tmp_path / "out")
