"""Poly-CAM against its authors' program, for whoever has it; it is not a package that can be installed.

    git clone https://github.com/aenglebert/polycam ../polycam
    PYTHONPATH=../polycam python -m pytest tests/parity/test_official_poly_cam.py

Without it these tests are skipped, and tests/unit/test_poly_cam.py has the formulas written out once more.
"""

import pytest
import torch

from cambook import methods, models, world

NAMES = {"plus": "PCAMp", "minus": "PCAMm", "pm": "PCAMpm"}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice for softmax")
@pytest.mark.parametrize("lnorm", [True, False])
@pytest.mark.parametrize("variant", NAMES)
@pytest.mark.parametrize("network", ["tiny_vgg", "tiny_resnet"])
def test_every_depth_is_the_authors(network, variant, lnorm, largest):
    """Trained networks, for in random ones w− is the rounding of two equal scores; theirs takes one image."""
    official = pytest.importorskip("polycam.polycam", reason="the authors' program is not on the path")
    net, scenes = models.load(network), [world.two_class_scene(number, siblings=True) for number in (0, 3)]
    images = torch.cat([net.preprocessing(scene.image) for scene in scenes])
    classes = [scene.label for scene in scenes]
    layers = models.stage_layers(net, images)
    e = methods.poly_cam(
        net, images, classes, variant=variant, layers=layers, lnorm=lnorm, trace=True, progress=False
    )
    theirs = [
        getattr(official, NAMES[variant])(net, layers, lnorm=lnorm)(image[None], c)
        for image, c in zip(images, classes, strict=True)
    ]
    for depth, (name, maps) in enumerate(zip(reversed(layers), e.trace["S"], strict=True)):
        largest(f"{network} {variant}, {name}", maps, torch.cat([S[depth][0] for S in theirs]))
