"""Localisation, stability, sanity and ROAD against captum, grad-cam, SciPy, scikit-image and Quantus's rules.

Quantus itself is not installed, because it pins NumPy; its two rules fit on a few lines.
"""

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from pytorch_grad_cam.metrics.perturbation_confidence import (
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from scipy.stats import spearmanr

from cambook import methods, metrics
from cambook.adapters import Captum
from cambook.metrics._imputation import impute

# grad-cam hands a tensor to a NumPy function that asks for an array.
of_grad_cam = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def close(record_property):
    """check(what, ours, theirs, tolerance) holds values against another's and notes the error."""

    def check(what: str, ours, theirs, tolerance: float) -> None:
        ours, theirs = (torch.as_tensor(values).double() for values in (ours, theirs))
        assert ours.shape == theirs.shape and ours.isfinite().all()
        error = (ours - theirs).abs().max().item()
        record_property(f"{what}: largest difference", f"{error:.1e}")
        print(f"{what}: largest difference {error:.1e}")
        assert error <= tolerance, f"{what}: the largest difference is {error:.1e}, more than {tolerance:.0e}"

    return check


@pytest.mark.parametrize("case", ["tiny_vgg", "squeezenet1_1"], indirect=True)
@pytest.mark.parametrize("method", [methods.grad_cam, methods.layer_cam], ids=lambda method: method.__name__)
def test_max_sensitivity_and_captum(case, method, close):
    """The same draws for both; captum lays an image's copies side by side."""
    samples, radius, images = 4, 0.05, case.images[:, :, :48, :64]
    options = {"radius": radius, "samples": samples, "seed": 3}
    ours = metrics.max_sensitivity(method, case.net, images, case.targets, **options)
    generator = torch.Generator().manual_seed(3)
    draws = [torch.rand(images.shape[1:], generator=generator) for _ in range(samples)]
    noise = radius * (2 * torch.stack(draws) - 1)

    def perturb(copies):
        return copies + noise.repeat(len(images), 1, 1, 1)

    theirs = sensitivity_max(
        Captum(method, case.net).attribute,
        images,
        perturb_func=perturb,
        n_perturb_samples=samples,
        target=case.targets,
    )
    assert not ours.excluded.any() and ours.values.min() > 1e-3
    close(f"Max-sensitivity, captum, {method.__name__}, {case.name}", ours.values, theirs, 1e-4)


def test_energy_and_rank_and_quantus(close):
    """Relevance mass: the sum inside by the sum. Rank: of the first K in a sort, the share inside."""
    maps, masks = random(20, 13, 17), random(20, 13, 17, seed=1) < random(20, 1, 1, seed=2)
    mass, rank = [], []
    for heat, inside in zip(maps.flatten(1).numpy(), masks.flatten(1).numpy(), strict=True):
        size = inside.sum()
        assert size > 0
        mass.append(heat[inside].sum() / heat.sum())
        rank.append(inside[np.argsort(-heat)[:size]].sum() / size)
    close("Energy, relevance mass", metrics.energy_pointing_game(maps, masks).values, mass, 1e-6)
    close("Rank, relevance rank", metrics.relevance_rank(maps, masks).values, rank, 1e-9)


def test_spearman_and_scipy(close):
    """Maps after a ReLU, of which half is tied at zero."""
    one, two = (random(10, 9, 12, seed=s).sub(0.5).relu().round(decimals=2) for s in (0, 1))
    two[5:] += one[5:]
    theirs = [spearmanr(a, b).statistic for a, b in zip(one.flatten(1), two.flatten(1), strict=True)]
    close("Spearman, SciPy", metrics.spearman(one, two), theirs, 1e-12)


def test_ssim_and_scikit_image(close):
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    one = random(10, 14, 12).double()
    two = one + random(10, 14, 12, seed=1) * torch.arange(10).view(10, 1, 1) / 3
    unit = [
        (m - m.amin((1, 2), keepdim=True)) / (m.amax((1, 2), keepdim=True) - m.amin((1, 2), keepdim=True))
        for m in (one, two)
    ]
    theirs = [
        similarity(a.numpy(), b.numpy(), data_range=1, win_size=7, use_sample_covariance=False)
        for a, b in zip(*unit, strict=True)
    ]
    close("SSIM, scikit-image", metrics.ssim(one, two), theirs, 1e-9)


# 40·48 pixels can be divided by ten, so that a percentile of theirs and a share of ours are the same number.
SIZE = 40, 48


def without_ties(count):
    """Maps in which each value occurs once: (count, 40, 48)."""
    pixels = SIZE[0] * SIZE[1]
    orders = [torch.randperm(pixels, generator=torch.Generator().manual_seed(s)) for s in range(count)]
    return torch.stack(orders).view(count, *SIZE).double() / pixels


@of_grad_cam
def test_the_filling_and_grad_cam(close):
    """A region and scattered pixels, 90 % of the picture each."""
    image = random(3, *SIZE)
    row, column = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])
    regions = ((row - 8) ** 2 + (column - 30) ** 2 > 8**2), without_ties(1)[0] < 0.9
    for removed in regions:
        theirs = NoisyLinearImputer(noise=0)(image, (~removed).float())
        ours = impute(image[None], removed[None])[0]
        close("ROAD's filling, grad-cam", ours, theirs, 2e-4)


@of_grad_cam
@pytest.mark.parametrize("case", ["tiny_resnet"], indirect=True)
def test_road_and_grad_cam(case, close):
    """Without ties and noise, fraction by fraction. Its percentile is the share of pixels that stay."""
    images, maps = case.images[:, :, : SIZE[0], : SIZE[1]].contiguous(), without_ties(3)
    fractions = [0.1, 0.4, 0.9]
    ours = metrics.road(case.net, images, maps, case.targets, fractions=fractions, noise=0)
    targets = [ClassifierOutputSoftmaxTarget(c) for c in case.targets]
    theirs = [
        np.stack([
            PerturbationConfidenceMetric(order(100 - 100 * fraction, NoisyLinearImputer(noise=0)))(
                images, maps.numpy(), targets, case.net, return_diff=False
            )
            for fraction in fractions
        ], 1)
        for order in (RemoveMostRelevantFirst, RemoveLeastRelevantFirst)
    ]    # fmt: skip
    assert ours.morf.std() > 1e-3 and (ours.morf - ours.lerf).abs().max() > 1e-3
    close("ROAD, MoRF, grad-cam", ours.morf, theirs[0], 1e-4)
    close("ROAD, LeRF, grad-cam", ours.lerf, theirs[1], 1e-4)
    close("ROAD, combined, grad-cam", ours.values, ((theirs[1] - theirs[0]) / 2).mean(1), 1e-4)


def test_grad_cam_keeps_nothing_of_a_map_with_many_zeros():
    """Why ties need an order: a map with 90 % zeros, at three percentiles."""
    heat = torch.zeros(SIZE)
    heat[:4] = random(4, SIZE[1]) * 0.9 + 0.1
    kept = []
    for order in (RemoveMostRelevantFirst, RemoveLeastRelevantFirst):
        for percentile in (20, 50, 80):
            order(percentile, lambda image, mask: kept.append(mask.mean().item()))(None, heat)
    assert kept[:3] == [0, 0, 0] and len(set(kept[3:])) == 1
