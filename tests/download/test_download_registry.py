"""The registry: complete, and the same as what others publish."""

import re
from pathlib import PurePosixPath

import pytest

from data_download.registry import Entry, bytes_text, choose, read

ENTRIES = read()
WEIGHTS = {name: entry for name, entry in ENTRIES.items() if entry.file.startswith("weights/")}


def test_what_the_book_needs_is_there():
    papers = {"vgg16", "vgg19", "resnet50", "voc2007_test", "voc2012", "cub", "imagenet_val", "imagenet_boxes"}
    assert papers | {"squeezenet1_1", "mobilenet_v2", "resnet18"} <= set(ENTRIES)
    assert sum(name.startswith("photo_") for name in ENTRIES) >= 3


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_each_entry_is_complete(entry):
    assert entry.what and entry.licence and entry.checksum_from and entry.size > 0
    assert bool(re.fullmatch("[0-9a-f]{64}", entry.sha256)) != bool(re.fullmatch("[0-9a-f]{32}", entry.md5))
    if entry.sources:
        hosts = {source.split("/")[2] for source in entry.sources}
        assert len(hosts) == len(entry.sources) == 2, "two sources, of two hosts"
        assert all(source.startswith("https://") for source in entry.sources) and not entry.instructions
    else:
        assert PurePosixPath(entry.file).name in entry.instructions
    path = PurePosixPath(entry.file)
    assert path.parts[0] in ("weights", "archives", "photos") and len(path.parts) == 2
    archived = path.parts[0] == "archives"
    assert archived == bool(entry.unpack_into) == bool(entry.holds) == bool(entry.unpacked_at_most)


def test_files_are_distinct():
    assert len({entry.file for entry in ENTRIES.values()}) == len(ENTRIES)


@pytest.mark.parametrize("entry", WEIGHTS.values(), ids=WEIGHTS)
def test_weights_are_torchvisions(entry):
    """The address is one of torchvision's, the name carries the checksum, and the size is torchvision's."""
    from torchvision import models

    architecture = entry.name.removesuffix("_v2") if entry.name != "mobilenet_v2" else entry.name
    published = {each.url: each for each in models.get_model_weights(architecture)}
    ours = published[entry.sources[0]]
    assert entry.file == "weights/" + PurePosixPath(ours.url).name
    assert ours.name in entry.what
    assert entry.file.removesuffix(".pth").endswith("-" + entry.sha256[:8])
    assert entry.size / 2**20 == pytest.approx(ours.meta["_file_size"], abs=0.001)
    assert all(source.endswith("/" + PurePosixPath(entry.file).name) for source in entry.sources)


def test_archives_unpack_to_where_evaluate_looks():
    holds = {name: entry.holds for name, entry in ENTRIES.items() if entry.holds}
    assert holds == {
        "voc2007_test": "VOCdevkit/VOC2007",
        "voc2012": "VOCdevkit/VOC2012",
        "cub": "CUB_200_2011",
        "imagenet_val": "ILSVRC2012/val",
        "imagenet_boxes": "ILSVRC2012/bbox/val",
    }


def test_photos_are_those_of_scikit_image():
    """The only files of the registry that are at hand in tests: their checksums are computed again."""
    data = pytest.importorskip("skimage.data")
    import hashlib
    from pathlib import Path

    for entry in (each for name, each in ENTRIES.items() if name.startswith("photo_")):
        content = (Path(data.__file__).parent / PurePosixPath(entry.file).name).read_bytes()
        assert entry.verified and len(content) == entry.size
        assert hashlib.sha256(content).hexdigest() == entry.sha256


def test_names():
    assert choose(ENTRIES, ["cub", "vgg16", "cub"]) == [ENTRIES["cub"], ENTRIES["vgg16"]]
    with pytest.raises(ValueError, match="nothing called 'resnet5' to fetch; near names are: resnet50"):
        choose(ENTRIES, ["resnet5"])


def test_an_unknown_field_is_an_error(tmp_path):
    (tmp_path / "registry.toml").write_text("[x]\nsha265 = ''\n")
    with pytest.raises(TypeError, match="sha265"):
        read(tmp_path / "registry.toml")


def test_sizes():
    sizes = (112_525, 4_958_839, 14_258_573, 6_744_924_160)
    assert [bytes_text(size) for size in sizes] == ["113 kB", "5.0 MB", "14 MB", "6.7 GB"]
    assert isinstance(ENTRIES["cub"], Entry)
