"""Guided IG against its official code, PAIR's package `saliency`, and against a restatement of it in NumPy.

Three networks in double precision, five settings each. The image is the second of a batch of two, each with
its own class and path; the package knows one image at a time. The restatement is always there; the package
may be absent, and asks NumPy for a quantile in a spelling that NumPy 2.4 has dropped.

The baseline is noise: on a constant picture many gradients of a network with global average pooling are equal
but for rounding, and rounding would decide which of them are the smallest.
"""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cambook import methods

STEPS = 6
# (fraction, max_dist): the official code's defaults, those of its examples, and three others.
SETTINGS = [(0.25, 0.02), (0.5, 1.0), (0.1, 0.3), (0.05, 1.0), (1.0, 0.1)]
three = pytest.mark.parametrize("case", ["tiny_vgg", "tiny_resnet", "squeezenet1_1"], indirect=True)


@pytest.fixture
def double(case):
    """The network in double precision, two small images, their classes, and a baseline of noise for each."""
    images = case.images[:2, :, :32, :40].double()    # convolutions in double precision are slow
    return SimpleNamespace(
        name=case.name,
        net=copy.deepcopy(case.net).double(),
        images=images,
        targets=case.targets[:2],
        baseline=0.1 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).double() - 1,
    )


def slope(double):
    """∂y/∂z of the second image as a function of arrays (C, H, W)."""

    def gradient(z):
        leaf = torch.from_numpy(z)[None].requires_grad_()
        score = double.net(leaf)[0, double.targets[1]]
        return torch.autograd.grad(score, leaf)[0][0].numpy()

    return gradient


def restated(x, baseline, gradient, steps, fraction, max_dist):
    """Guided IG in NumPy for one image, from the description of the official code."""
    z, attribution, way = baseline.copy(), np.zeros_like(x), x - baseline
    for t in range(1, steps + 1):
        g = gradient(z)
        score, begin = np.abs(g), z.copy()
        low, high = max(t / steps - max_dist, 0), min(t / steps + max_dist, 1)
        z = np.where((z - baseline) / way < low, baseline + low * way, z)
        top = baseline + high * way
        while (missing := np.abs(x - z).sum() - (1 - t / steps) * np.abs(way).sum()) > 1e-9:
            score[z == top] = np.inf
            chosen = score <= np.sort(score, axis=None)[int(fraction * (score.size - 1))]
            chosen &= score < np.inf
            share = min(missing / np.abs(top - z)[chosen].sum(), 1)
            z[chosen] = top[chosen] if share == 1 else (z + share * (top - z))[chosen]
            if share < 1:
                break
        attribution += (z - begin) * g
    return attribution


def official(x, baseline, gradient, steps, fraction, max_dist):
    """The package's own, as a user calls it."""
    core = pytest.importorskip("saliency.core")

    def call(batch, call_model_args=None, expected_keys=None):
        return {core.INPUT_OUTPUT_GRADIENTS: gradient(batch[0])[None]}

    options = {"x_steps": steps, "fraction": fraction, "max_dist": max_dist}
    return core.GuidedIG().GetMask(x, call, x_baseline=baseline, **options)


@pytest.fixture
def old_quantile(monkeypatch):
    """The keyword `interpolation`, which became `method`."""
    quantile = np.quantile
    monkeypatch.setattr(np, "quantile", lambda a, q, interpolation: quantile(a, q, method=interpolation))


@three
@pytest.mark.parametrize(("fraction", "max_dist"), SETTINGS)
@pytest.mark.parametrize("oracle", [restated, official], ids=lambda oracle: oracle.__name__)
def test_guided_ig(oracle, double, fraction, max_dist, old_quantile, record_property):
    e = methods.guided_ig(
        double.net, double.images, double.targets, baseline=double.baseline,
        steps=STEPS, fraction=fraction, max_dist=max_dist, trace=True,
    )    # fmt: skip
    ours = e.trace["attributions"][1].numpy()
    assert ours.dtype == np.float64
    x, baseline = double.images[1].numpy(), double.baseline[1].numpy()
    theirs = oracle(x, baseline, slope(double), STEPS, fraction, max_dist)
    error = np.abs(ours - theirs).max() / np.ptp(theirs)
    what = f"Guided IG, {oracle.__name__}, {double.name}, fraction {fraction}, max_dist {max_dist}"
    record_property(f"{what}: largest difference, as a share of the range", f"{error:.1e}")
    print(f"{what}: {error:.1e} of the range")
    assert error <= 1e-5
