"""Grad-CAM, Grad-CAM++, Layer-CAM and XGrad-CAM's quantity against captum, grad-cam and torchcam.

Which package is a valid oracle for what: captum and grad-cam for Grad-CAM; grad-cam and torchcam for
Layer-CAM and XGrad-CAM; for Grad-CAM++ only grad-cam, and that with logits so large that its epsilon of 1e-6
does not matter (torchcam's coefficient is never divided by its denominator). All see the same layers, whose
outputs no in-place operation overwrites: there grad-cam and torchcam would explain the overwritten
activation.
"""

import pytest
import torch
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchcam import methods as torchcam

from cambook import methods
from cambook.activations import capture
from cambook.explanation import to_map
from cambook.methods.look import weighted_sum

# A layer in the middle of each network besides the last one: Layer-CAM's own ground.
MIDDLE = {
    "tiny_vgg": "features.22",
    "tiny_resnet": "layer2",
    "squeezenet1_1": "features.7",
    "mobilenet_v2": "features.6",
}


@pytest.fixture(params=["last", "middle"])
def layer(request, case):
    """Name of the layer that all of them look at."""
    if request.param == "middle":
        return MIDDLE[case.name]
    return methods.grad_cam(case.net, case.images, case.targets).layers[0]


def of_grad_cam(method, net, case, layer):
    """Maps of the package grad-cam, (B, H, W)."""
    with method(model=net, target_layers=[net.get_submodule(layer)]) as extractor:
        return extractor(input_tensor=case.images, targets=[ClassifierOutputTarget(c) for c in case.targets])


def of_torchcam(method, case, layer):
    """Maps of torchcam before its min-max (whose epsilon dims weak ones), (B, h, w)."""
    with method(case.net, target_layer=layer) as extractor:
        output = case.net(case.images)
        return extractor(case.targets, output, normalized=False)[0].detach()


def test_grad_cam_and_captum(case, layer, largest):
    """Not normalised at all: the weighted sum itself, relative to its largest value."""
    e = methods.grad_cam(case.net, case.images, case.targets, layers=layer)
    theirs = LayerGradCam(case.net, case.net.get_submodule(layer)).attribute(
        case.images, target=case.targets, relu_attributions=True
    )[:, 0]
    scale = e.raw.abs().amax()
    largest(f"Grad-CAM, captum, {case.name}", e.raw.relu() / scale, theirs / scale)


def test_grad_cam_and_grad_cam(case, layer, largest):
    e = methods.grad_cam(case.net, case.images, case.targets, layers=layer)
    largest(f"Grad-CAM, grad-cam, {case.name}", e.map, of_grad_cam(GradCAM, case.net, case, layer))


def test_grad_cam_and_torchcam(case, layer, largest, stretched):
    e = methods.grad_cam(case.net, case.images, case.targets, layers=layer)
    theirs = of_torchcam(torchcam.GradCAM, case, layer)
    largest(f"Grad-CAM, torchcam, {case.name}", stretched(e.raw), stretched(theirs))


def test_layer_cam_and_grad_cam(case, layer, largest):
    e = methods.layer_cam(case.net, case.images, case.targets, layers=layer)
    largest(f"Layer-CAM, grad-cam, {case.name}", e.map, of_grad_cam(LayerCAM, case.net, case, layer))


def test_layer_cam_and_torchcam(case, layer, largest, stretched):
    e = methods.layer_cam(case.net, case.images, case.targets, layers=layer)
    theirs = of_torchcam(torchcam.LayerCAM, case, layer)
    largest(f"Layer-CAM, torchcam, {case.name}", stretched(e.raw), stretched(theirs))


def test_xgrad_cam_from_what_capture_gives(case, layer, largest, stretched):
    """α_k = Σ A g / ΣA is no method of the book, but it needs activation and gradient cell by cell."""
    rows = torch.arange(3), torch.tensor(case.targets)
    seen = capture(case.net, case.images, [layer], lambda output: output[rows])
    activations, gradients = seen.activations[layer], seen.gradients[layer]
    total = activations.sum((2, 3))
    mixed = (activations * gradients).sum((2, 3))
    weights = torch.where(total == 0, 0, mixed / total)
    raw = weighted_sum(weights, activations)
    heat, _ = to_map(raw, case.images.shape[-2:])
    largest(f"XGrad-CAM, grad-cam, {case.name}", heat, of_grad_cam(XGradCAM, case.net, case, layer))
    theirs = of_torchcam(torchcam.XGradCAM, case, layer)
    largest(f"XGrad-CAM, torchcam, {case.name}", stretched(raw), stretched(theirs))


class Louder(nn.Module):
    """The same network with logits a hundred times as large."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return 100 * self.net(images)


def test_grad_cam_pp_and_grad_cam(case, layer, largest):
    """Both on the same scaled network: scaling changes Grad-CAM++'s map, so it must be the same for both."""
    net, layer = Louder(case.net), f"net.{layer}"
    e = methods.grad_cam_pp(net, case.images, case.targets, layers=layer, trace=True)
    if (e.trace["activations"] < 0).any():
        pytest.skip("with negative activations the denominator has roots, where grad-cam's epsilon shows")
    theirs = of_grad_cam(GradCAMPlusPlus, net, case, layer)
    largest(f"Grad-CAM++, grad-cam (logits x 100), {case.name}", e.map, theirs, tolerance=1e-3)


def test_grad_cam_pp_and_its_equation(case, layer, largest, stretched):
    """a = g² / (2g² + ΣA g³) in double precision, without any epsilon, at the network's own scale.

    In a layer with negative activations (MobileNet's bottlenecks) the denominator has roots with g > 0, and
    near them float32 rounding is amplified: hence the wider tolerance there.
    """
    e = methods.grad_cam_pp(case.net, case.images, case.targets, layers=layer, trace=True)
    activations, g = e.trace["activations"].double(), e.trace["gradients"].double()
    denominator = 2 * g**2 + activations.sum((2, 3), keepdim=True) * g**3
    a = torch.where(denominator == 0, 0, g**2 / denominator)
    weights = (a * g.relu()).sum((2, 3))
    raw = (weights[:, :, None, None] * activations).sum(1)
    tolerance = 1e-4 if (activations < 0).any() else 1e-5
    largest(f"Grad-CAM++, equation, {case.name}", stretched(e.raw), stretched(raw).float(), tolerance)
