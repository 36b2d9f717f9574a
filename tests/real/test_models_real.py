"""Loading, preprocessing and layers on real networks and photographs, where ../shared/real is beside the project."""

import csv
from pathlib import Path

import pytest
import torch
from PIL import Image

from cambook import models

REAL = Path(__file__).parents[3] / "shared" / "real"
SAMPLES = REAL / "imagenet_samples"

pytestmark = [pytest.mark.real,
              pytest.mark.skipif(not SAMPLES.is_dir(), reason="the pictures of ../shared/real are not here")]


def squeezenet():
    return models.load("squeezenet1_1", weights=REAL / "models" / "squeezenet1_1_onnxzoo-a4caa091.pth")


def mobilenet():
    return models.load("mobilenet_v2", weights=REAL / "models" / "mobilenet_v2_tfslim-34f9d2d0.pth",
                       preprocessing={"mean": 0.5, "std": 0.5, "crop": 225})


def rows():
    with (SAMPLES / "index.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def answers(net, photos):
    """Outputs (B, 1000) of a network for photos, ten at a time."""
    with torch.no_grad():
        return torch.cat([net(torch.cat([net.preprocessing(photo) for photo in photos[i:i + 10]]))
                          for i in range(0, len(photos), 10)])


def test_squeezenet_gives_the_hundred_samples_their_class_and_probability():
    index = rows()
    classes = torch.tensor([int(row["class"]) for row in index])
    probabilities = answers(squeezenet(), [SAMPLES / row["file"] for row in index]).softmax(1)
    assert torch.equal(probabilities.argmax(1), classes)
    expected = torch.tensor([float(row["squeezenet1_1_probability"]) for row in index])
    # The index rounds to four digits; JPEG decoders differ by a grey level here and there.
    assert (probabilities[range(len(index)), classes] - expected).abs().max() < 0.005


def test_mobilenet_with_its_own_preprocessing():
    """97 of 100 when this was written; with ImageNet's preprocessing every sixth picture is lost."""
    index = rows()
    net = mobilenet()
    assert (net.preprocessing.mean, net.preprocessing.resize, net.preprocessing.crop) == ((0.5,) * 3, 256, 225)
    top = answers(net, [SAMPLES / row["file"] for row in index]).argmax(1).tolist()
    right = sum(got == int(row["class"]) for got, row in zip(top, index, strict=True))
    assert right >= 95


def test_grey_photographs():
    found = []
    for row in rows():
        with Image.open(SAMPLES / row["file"]) as image:
            if image.mode == "L":
                found.append(row)
    assert len(found) == 2
    top = answers(squeezenet(), [SAMPLES / row["file"] for row in found]).argmax(1).tolist()
    assert top == [int(row["class"]) for row in found]


def test_very_wide_photographs():
    """Photographs in the middle of a strip six times as wide, grey on both sides: the centre crop finds them."""
    index = rows()[::10]
    net, strips = squeezenet(), []
    for row in index:
        photo = models.open_photo(SAMPLES / row["file"])
        strip = Image.new("RGB", (6 * photo.width, photo.height), (124, 116, 104))
        strip.paste(photo, (5 * photo.width // 2, 0))
        strips.append(strip)
    top = answers(net, strips).argmax(1).tolist()
    assert sum(got == int(row["class"]) for got, row in zip(top, index, strict=True)) >= 9


def test_names_of_classes():
    net = squeezenet()
    assert net.classes[1] == "goldfish" and len(net.classes) == 1000
    index = {row["file"]: int(row["class"]) for row in rows()}
    assert net.classes[index["n02110958_pug.JPEG"]] == "pug"


def test_layers_at_the_photographs_own_size():
    net = models.load(squeezenet(), preprocessing={"resize": None, "crop": None})
    images = net.preprocessing(SAMPLES / "n02364673_guinea_pig.JPEG")
    assert images.shape == (1, 3, 406, 964)
    assert models.stage_layers(net, images) == ["features.1", "features.4", "features.7", "features.12"]
    assert models.last_layer(mobilenet(), images) == "features.18.2"
