"""Do the maps of a real network lie on the objects of real photographs? Against maps that look at nothing.

Energy inside the ground-truth boxes (energy-based pointing game) of the 33 validation pictures with
SqueezeNet 1.1, for the annotated class, in the 224 pixels that the network sees. The two rivals know no
picture: a uniform map, which scores the boxes' share of the area, and a Gaussian in the centre, where
photographers put their objects. Its width is a quarter of the side; the narrower it is, the stronger (at a
sixth of the side it is as good as Grad-CAM), which says how little a high share means without a rival.

33 pictures give wide intervals, which are recorded with each test; they reproduce no paper.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cambook import methods, models
from cambook.metrics import energy_pointing_game

pytestmark = pytest.mark.real

REAL = Path(__file__).parents[3] / "shared" / "real"
PICTURES = REAL / "imagenet_val"
SIDE = 224
# Score-CAM takes about 500 forward passes a picture, eight minutes for all of them on one core.
EVERY_FOURTH = slice(None, None, 4)


@pytest.fixture(scope="module")
def net():
    return models.load("squeezenet1_1", REAL / "models" / "squeezenet1_1_onnxzoo-a4caa091.pth")


@pytest.fixture(scope="module")
def pictures(net):
    """Images (33, 3, 224, 224), the annotated classes, and masks (33, 224, 224) of all boxes of the class."""
    with (PICTURES / "index.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images, masks = [], torch.zeros(len(rows), SIDE, SIDE, dtype=torch.bool)
    for row, mask in zip(rows, masks, strict=True):
        images.append(net.preprocessing(PICTURES / row["file"]))
        for box in json.loads(row["boxes_xyxy"]):
            seen = net.preprocessing.box(box, int(row["width"]), int(row["height"]))
            left, top, right, bottom = map(round, seen)
            mask[top:bottom, left:right] = True
    assert len(rows) == 33 and masks.any(2).any(1).all()
    return torch.cat(images), [int(row["class"]) for row in rows], masks


def gaussian(fraction: float) -> torch.Tensor:
    """A Gaussian in the centre with this share of the side as standard deviation: (224, 224)."""
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    line = torch.exp(-0.5 * (place / (fraction * SIDE)) ** 2)
    return line[:, None] * line


def interval(differences: torch.Tensor) -> tuple[float, float]:
    """95 % bootstrap interval of the mean, over pictures."""
    values, generator = differences.numpy(), np.random.default_rng(0)
    means = values[generator.integers(0, len(values), (10_000, len(values)))].mean(1)
    return tuple(np.percentile(means, [2.5, 97.5]))


def compare(explanation, masks, record) -> None:
    """Records the mean paired differences with their intervals; both rivals must be beaten on average."""
    got = energy_pointing_game(explanation.map, masks)
    assert not got.excluded.any()
    rivals = {"a uniform map": got.area}
    for fraction, words in ((1 / 4, "a quarter"), (1 / 6, "a sixth")):
        rival = gaussian(fraction).expand(len(masks), -1, -1)
        rivals[f"a centred Gaussian ({words} of the side)"] = energy_pointing_game(rival, masks).values
    for name, values in rivals.items():
        difference = got.values - values
        low, high = interval(difference)
        method = explanation.config["method"]
        what = f"{method}, {len(masks)} pictures: energy inside the boxes {got.mean:.3f}"
        found = f"{difference.mean():+.3f} against {name}, 95 % interval {low:+.3f} to {high:+.3f}"
        record(what, found)
        print(f"{what}, {found}")
        if "sixth" not in name:
            assert difference.mean() > 0, f"{what} is not more than that of {name}"


@pytest.mark.parametrize("method", [methods.grad_cam, methods.layer_cam], ids=lambda method: method.__name__)
def test_gradient_methods(method, net, pictures, record_property):
    images, classes, masks = pictures
    compare(method(net, images, classes), masks, record_property)


def test_score_cam_on_every_fourth_picture(net, pictures, record_property):
    images, classes, masks = (part[EVERY_FOURTH] for part in pictures)
    compare(methods.score_cam(net, images, classes, progress=False), masks, record_property)


@pytest.mark.slow
def test_score_cam_on_all_pictures(net, pictures, record_property):
    images, classes, masks = pictures
    compare(methods.score_cam(net, images, classes, progress=False), masks, record_property)
