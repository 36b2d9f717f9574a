"""What the parity tests share: four networks with random weights, three images, a record of the errors."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from torch import nn

from cambook.world import networks

NAMES = ("tiny_vgg", "tiny_resnet", "squeezenet1_1", "mobilenet_v2")


def _build(name: str) -> nn.Module:
    """In evaluation mode, 10 classes, with weights that keep the signal alive through all layers."""
    torch.manual_seed(0)
    net = (
        networks.build(name)
        if name in networks.NAMES
        else torchvision.models.get_model(name, num_classes=10)
    )
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, generator=generator)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, std=0.3, generator=generator)
            module.momentum = 1
    net.train()
    with torch.no_grad():    # statistics of real activations, so that no layer's output is out of scale
        net(torch.randn(16, 3, 48, 64, generator=generator))
    return net.eval()


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """One network, three images that are no squares, and for each the best class that no other has."""
    net, images = _build(request.param), torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ranking = net(images).argsort(1, descending=True)
    targets: list[int] = []
    for row in ranking.tolist():
        targets.append(next(c for c in row if c not in targets))
    return SimpleNamespace(name=request.param, net=net, images=images, targets=targets)


@pytest.fixture
def largest(record_property):
    """check(what, ours, theirs, tolerance) holds maps (B, h, w) against another's and notes the error."""

    def check(what: str, ours: torch.Tensor, theirs, tolerance: float = 1e-5) -> None:
        theirs = torch.as_tensor(theirs).detach()
        assert ours.shape == theirs.shape and ours.isfinite().all() and theirs.isfinite().all()
        assert ours.amax((1, 2)).min() > 0, "a flat map proves nothing: choose another seed"
        error = (ours - theirs).abs().max().item()
        record_property(f"{what}: largest difference", f"{error:.1e}")
        print(f"{what}: largest difference {error:.1e}")
        assert error <= tolerance, f"{what}: the largest difference is {error:.1e}, more than {tolerance:.0e}"

    return check


@pytest.fixture(scope="session")
def stretched():
    """Min-max of the positive part of each map (B, h, w), written out once more for the tests."""

    def stretch(maps: torch.Tensor) -> torch.Tensor:
        maps = maps.detach().relu()
        maps = maps - maps.amin((1, 2), keepdim=True)
        return maps / maps.amax((1, 2), keepdim=True)

    return stretch
