"""Poly-CAM on a real network: its stages, its cost, and each depth on the object of a photograph."""

import csv
import json

import pytest
import torch

from cambook import methods, models

pytestmark = pytest.mark.real

# As listed in the folder's README.
STAGES = ["features.1", "features.4", "features.7", "features.12"]


def test_squeezenet_from_stage_to_stage(real):
    """PCAM+ asks about 960 channels; at every depth the box has more of the light than of the area."""
    net = models.load("squeezenet1_1", real / "models" / "squeezenet1_1_onnxzoo-a4caa091.pth")
    with (real / "imagenet_val" / "index.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    image = net.preprocessing(real / "imagenet_val" / row["file"])
    assert models.stage_layers(net, image) == STAGES
    e = methods.poly_cam(net, image, int(row["class"]), variant="plus", trace=True, progress=False)
    assert e.layers == STAGES and [P.shape[2] for P in e.trace["P"]] == [13, 27, 55, 111]
    dead = sum(int(skipped.sum()) for skipped in e.trace["skipped"])
    assert e.forwards <= 2 + 64 + 128 + 256 + 512 - dead and not e.flat.any()
    box = torch.zeros(224, 224, dtype=torch.bool)
    for one in json.loads(row["boxes_xyxy"]):
        seen = net.preprocessing.box(one, int(row["width"]), int(row["height"]))
        left, top, right, bottom = map(round, seen)
        box[top:bottom, left:right] = True
    shares = [(S[0][box].sum() / S[0].sum()).item() for S in e.trace["S"]]
    assert min(shares) > box.float().mean() and 0.5 < e.map.max() <= 1, shares
