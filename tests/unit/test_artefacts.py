"""What was written comes back: the same names, the same bits."""

import numpy as np
import pytest
import torch

from cambook import artefacts


def test_maps_come_back(tmp_path):
    """Tensors and arrays, of several sizes, in their order; in half precision as float32."""
    maps = {
        "ILSVRC2012_val_00000077.JPEG": torch.rand(5, 7),
        "a.b c.png": np.random.default_rng(0).random((3, 4)),
        "ü.jpg": torch.rand(2, 2).bfloat16(),
    }
    file = artefacts.save_maps(tmp_path / "new", "vgg16", "pcam_pm", maps)
    assert file == tmp_path / "new" / "vgg16_pcam_pm.npz"
    found = artefacts.load_maps(tmp_path / "new", "vgg16", "pcam_pm")
    assert list(found) == list(maps)
    for name, one in maps.items():
        assert found[name].dtype == np.float32 and found[name].shape == tuple(one.shape)
        assert np.array_equal(found[name], torch.as_tensor(one).float().numpy())
    # numpy alone reads it, as it reads the authors'.
    with np.load(file) as plain:
        assert plain["a.b c.png"].shape == (3, 4)


def test_metrics_come_back(tmp_path):
    metrics = {
        "one.jpg": {"insertion": 0.1 + 0.2, "deletion": 1e-300, "class": 3},
        'two, "quoted".jpg': {"insertion": float("nan"), "deletion": float("inf"), "class": -0.0},
    }
    file = artefacts.save_metrics(tmp_path, "resnet50", "pcam_plus", metrics)
    found = artefacts.load_metrics(tmp_path, "resnet50", "pcam_plus")
    assert list(found) == list(metrics) and list(found["one.jpg"]) == ["insertion", "deletion", "class"]
    assert np.array_equal(
        [list(row.values()) for row in found.values()],
        [list(map(float, row.values())) for row in metrics.values()],
        equal_nan=True,
    )
    assert file.read_text(encoding="utf-8").splitlines()[0] == "image,insertion,deletion,class"


def test_an_older_file_is_replaced_whole(tmp_path):
    artefacts.save_maps(tmp_path, "net", "m", {"a.png": np.zeros((2, 2)), "b.png": np.zeros((2, 2))})
    artefacts.save_maps(tmp_path, "net", "m", {"a.png": np.ones((2, 2))})
    assert list(artefacts.load_maps(tmp_path, "net", "m")) == ["a.png"]
    with pytest.raises(ValueError):
        artefacts.save_maps(tmp_path, "net", "m", {"a.png": np.full((2, 2), np.nan)})
    assert artefacts.load_maps(tmp_path, "net", "m")["a.png"].all()
    assert [file.name for file in tmp_path.iterdir()] == ["net_m.npz"]


@pytest.mark.parametrize(
    ("network", "maps", "sentence"),
    [
        ("net", {}, "nothing to write"),
        ("net", {"folder/a.png": np.zeros((2, 2))}, "file names of pictures"),
        ("net", {"file": np.zeros((2, 2))}, "file names of pictures, such as 'dog.jpg', not 'file'"),
        ("net", {"a.png": np.zeros((1, 2, 2))}, "must be .H, W. and finite"),
        ("net", {"a.png": np.full((2, 2), np.inf)}, "must be .H, W. and finite"),
        ("../net", {"a.png": np.zeros((2, 2))}, "part of a file's name"),
        ("", {"a.png": np.zeros((2, 2))}, "part of a file's name"),
    ],
)
def test_what_cannot_be_written(tmp_path, network, maps, sentence):
    with pytest.raises(ValueError, match=sentence):
        artefacts.save_maps(tmp_path, network, "m", maps)
    assert not list(tmp_path.iterdir())


def test_each_picture_has_the_same_metrics(tmp_path):
    with pytest.raises(ValueError, match="b.png has the metrics"):
        artefacts.save_metrics(tmp_path, "net", "m", {"a.png": {"x": 1.0}, "b.png": {"y": 1.0}})


def test_what_is_not_there(tmp_path):
    for load in (artefacts.load_maps, artefacts.load_metrics):
        with pytest.raises(FileNotFoundError):
            load(tmp_path, "net", "m")
