"""Score-CAM against grad-cam and torchcam, which differ in the order of their steps: one switch for each.

grad-cam upsamples with align_corners=True, then normalises; torchcam normalises, then upsamples with
align_corners=False. Both take the channel softmax of the logit, as the default weighting does. (torchcam
subtracts the clean image's score instead of the baseline's, which the softmax does not see.)
"""

from types import SimpleNamespace

import pytest
from pytorch_grad_cam import ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam import methods as torchcam

from cambook import methods

# Layers with few channels, each of which is a forward pass: 96, 64, 128 and 32.
LAYERS = {
    "tiny_vgg": "features.29",
    "tiny_resnet": "layer1",
    "squeezenet1_1": "features.4",
    "mobilenet_v2": "features.6",
}


@pytest.fixture
def small(case):
    """Smaller images: three images mean up to 384 passes for each of the two."""
    return SimpleNamespace(
        net=case.net,
        name=case.name,
        targets=case.targets,
        layer=LAYERS[case.name],
        images=case.images[:, :, :48, :64].clone(),
    )


def test_score_cam_and_grad_cam(small, largest):
    e = methods.score_cam(small.net, small.images, small.targets, layers=small.layer, align_corners=True)
    targets = [ClassifierOutputTarget(c) for c in small.targets]
    with ScoreCAM(model=small.net, target_layers=[small.net.get_submodule(small.layer)]) as extractor:
        theirs = extractor(input_tensor=small.images, targets=targets)
    largest(f"Score-CAM, grad-cam, {small.name}", e.map, theirs)


def test_score_cam_and_torchcam(small, largest, stretched):
    e = methods.score_cam(
        small.net, small.images, small.targets, layers=small.layer, order="normalise_upsample"
    )
    with torchcam.ScoreCAM(small.net, target_layer=small.layer) as extractor:
        small.net(small.images)
        theirs = extractor(small.targets, normalized=False)[0]
    largest(f"Score-CAM, torchcam, {small.name}", stretched(e.raw), stretched(theirs))


@pytest.mark.parametrize("case", ["tiny_vgg"], indirect=True)
def test_the_switches_matter(small):
    """Else the two comparisons above would prove less than they say."""
    maps = [
        methods.score_cam(small.net, small.images, small.targets, layers=small.layer, **options).map
        for options in ({}, {"align_corners": True}, {"order": "normalise_upsample"})
    ]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (maps[one] - maps[other]).abs().max() > 1e-4
