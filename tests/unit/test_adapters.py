"""The methods behind captum's and Quantus' interfaces."""

import numpy as np
import pytest
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from torch import nn

from cambook import adapters, methods

METHODS = ["cam", "grad_cam", "grad_cam_pp", "layer_cam", "score_cam"]


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(4, 3)

    def forward(self, images):
        return self.fc(self.relu(self.conv(images)).mean((2, 3)))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Pooled().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))


# captum


@pytest.mark.parametrize("name", METHODS)
def test_attribute_is_the_method(name, model, images):
    heat = adapters.Captum(name, model, layers="relu").attribute(images, target=[2, 0])
    expected = getattr(methods, name)(model, images, [2, 0], layers="relu").map
    assert heat.shape == (2, 1, 12, 16) and torch.equal(heat[:, 0], expected)


def test_targets_as_captum_writes_them(model, images):
    attribute = adapters.Captum(methods.grad_cam, model).attribute
    for target in (1, [1, 1], torch.tensor(1), torch.tensor([1]), torch.tensor([1, 1])):
        assert torch.equal(attribute(images, target=target), attribute(images, 1))
    assert torch.equal(attribute(images), attribute(images, model(images).argmax(1)))


def test_a_tuple_for_a_tuple(model, images):
    explain = adapters.Captum("grad_cam", model)
    (heat,) = explain.attribute((images,), target=1)
    assert torch.equal(heat, explain.attribute(images, target=1))


def test_channels_are_expanded_on_request(model, images):
    heat = adapters.Captum("grad_cam", model, expand_channels=True).attribute(images, target=1)
    assert heat.shape == images.shape and torch.equal(heat[:, 0], heat[:, 2])


@pytest.mark.parametrize("name", METHODS)
def test_sensitivity_max(name, model, images):
    """captum calls under no_grad, with a tuple, and expects a tuple."""
    explain = adapters.Captum(name, model)
    torch.manual_seed(0)
    values = sensitivity_max(explain.attribute, images, target=1, perturb_radius=0.2, n_perturb_samples=3)
    assert values.shape == (2,) and values.isfinite().all() and (values >= 0).all() and values.max() > 0


def test_infidelity(model, images):
    """It wants an attribution for each value of the input."""
    explain = adapters.Captum("layer_cam", model, expand_channels=True)

    def perturb(inputs):
        noise = 0.1 * torch.randn(inputs.shape)
        return noise, inputs - noise

    values = infidelity(model, perturb, images, explain.attribute(images, target=1), target=1)
    assert values.shape == (2,) and values.isfinite().all()


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel(kind, model, images):
    """It calls what the decorator wraps, with the noisy copies as one batch."""
    torch.manual_seed(0)
    heat = NoiseTunnel(adapters.Captum("grad_cam", model)).attribute(
        images, nt_type=kind, nt_samples=4, stdevs=0.1, target=torch.tensor([1, 2])
    )
    assert heat.shape == (2, 1, 12, 16) and heat.isfinite().all() and heat.abs().max() > 0


def test_noise_tunnel_without_noise_is_the_method(model, images):
    explain = adapters.Captum("grad_cam", model)
    heat = NoiseTunnel(explain).attribute(images, nt_samples=2, stdevs=0.0, target=1)
    torch.testing.assert_close(heat, explain.attribute(images, target=1))


def test_what_captums_interface_has_and_the_methods_have_not(model, images):
    explain = adapters.Captum("grad_cam", model)
    with pytest.raises(ValueError, match="leave additional_forward_args out"):
        explain.attribute(images, target=1, additional_forward_args=(2,))
    with pytest.raises(ValueError, match="one input tensor, but got 2"):
        explain.attribute((images, images), target=1)
    with pytest.raises(ValueError, match="A tuple as target"):
        explain.attribute(images, target=(1, 2))
    with pytest.raises(ValueError, match="no method 'gradcam': choose one of cam, .*grad_cam"):
        adapters.Captum("gradcam", model)


# Quantus


@pytest.mark.parametrize("name", METHODS)
def test_quantus_calling_convention(name, model, images):
    """NumPy in, NumPy out at full size, keywords that mean nothing to us, the model that is handed over."""
    explain = adapters.quantus(name, layers="relu")
    inputs, targets = images.double().numpy(), np.array([2, 0])
    heat = explain(model=model, inputs=inputs, targets=targets, device="cpu", normalise=True)
    assert isinstance(heat, np.ndarray) and heat.shape == (2, 1, 12, 16) and heat.dtype == np.float32
    expected = getattr(methods, name)(model, images, [2, 0], layers="relu").map
    np.testing.assert_array_equal(heat[:, 0], expected.numpy())


def test_quantus_explains_the_model_it_is_given(model, images):
    """A randomised copy must change the map: nothing of another model is remembered."""
    explain = adapters.quantus("layer_cam", layers="conv")
    torch.manual_seed(9)
    copy = Pooled().eval()
    one, other = (explain(net, images.numpy(), np.array([1, 1])) for net in (model, copy))
    assert np.abs(one - other).max() > 0.1


def test_quantus_needs_layers_by_name(model):
    for layers in (model.conv, [model.conv]):
        with pytest.raises(ValueError, match="by its name"):
            adapters.quantus("grad_cam", layers=layers)
