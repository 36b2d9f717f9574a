"""Tests of the exercises of notebook 01. Each wrong turn that readers take has a sentence of its own."""

from functools import partial

import torch
from torch import Tensor

from .comparing import compare

_compare = partial(compare, nan="there is NaN in the answer; look for 0/0.", atol=1e-6)

# Images, channels, height, width: one image, a map that is not square, a single channel.
SIZES = ((1, 3, 2, 2), (3, 5, 4, 7), (2, 1, 5, 3))


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    """Random numbers whose memory is not in the order of the axes, as after a transposition."""
    return torch.randn(shape[::-1], generator=generator).permute(*reversed(range(len(shape))))


def class_maps(answer) -> None:
    generator = torch.Generator().manual_seed(1)
    for B, K, h, w in SIZES:
        A, W = _random(generator, B, K, h, w), _random(generator, 10, K)
        targets = torch.tensor([7, 2, 2])[:B]
        expected = torch.einsum("bk,bkhw->bhw", W[targets], A)
        _compare(f"{B} images, {K} channels of {h}×{w}", answer(A.clone(), W.clone(), targets), expected, {
            "every image got the first image's class; targets has one class for each.":
                torch.einsum("k,bkhw->bhw", W[targets[0]], A),
            "CAM keeps the evidence against a class; leave the ReLU out.": expected.relu(),
            "that is the mean over the channels; CAM is their sum.": expected / K,
            "that is CAM divided by the number of cells, which is Grad-CAM.": expected / (h * w),
        })


def grad_cam_map(answer) -> None:
    generator = torch.Generator().manual_seed(2)
    for B, K, h, w in SIZES:
        A, g = _random(generator, B, K, h, w).abs(), _random(generator, B, K, h, w)
        g[:, 0] -= 0.5                                     # one channel against the class
        alpha = g.mean((2, 3), keepdim=True)
        raw = (alpha * A).sum(1)
        _compare(f"{B} images, {K} channels of {h}×{w}", answer(A.clone(), g.clone()), raw.relu(), {
            "the ReLU is missing: cells against the class are still there.": raw,
            "the ReLU belongs behind the sum, not on the gradients: negative ones may cancel positive ones.":
                (g.relu().mean((2, 3), keepdim=True) * A).sum(1),
            "the ReLU belongs behind the sum, not on the weights: negative ones may cancel positive ones.":
                (alpha.relu() * A).sum(1),
            "a ReLU cuts negative values off, it does not turn them positive.": raw.abs(),
            "that is Z times too large: take the mean of the gradient, not its sum.": raw.relu() * h * w,
            "the mean ran over the images too; each image has its own weights.":
                (g.mean((0, 2, 3), keepdim=True) * A).sum(1).relu(),
            "you did not average: that is the product of gradient and activation, cell by cell.": (g * A).sum(1).relu(),
        })


def coefficients(answer) -> None:
    generator = torch.Generator().manual_seed(3)
    for B, K, h, w in SIZES:
        # Both stay well above zero: small gradients have a case of their own, below.
        A, g = 0.5 + _random(generator, B, K, h, w).abs(), 0.2 + _random(generator, B, K, h, w).abs()
        g[:, :, 0, 0] = 0                                  # a cell without gradient
        total = A.sum((2, 3), keepdim=True)
        expected = torch.where(g > 0, 1 / (2 + total * g), 0)
        inside = (A * g**3).sum((2, 3), keepdim=True)
        _compare(f"{B} images, {K} channels of {h}×{w}", answer(A.clone(), g.clone()), expected, {
            "the sum has swallowed g³: it is (ΣA)·g³ and not Σ(A·g³).":
                torch.where(g > 0, g**2 / (2 * g**2 + inside).clamp(min=1e-30), 0),
            "the sum over A ran over the channels too; each channel has its own.":
                torch.where(g > 0, 1 / (2 + A.sum((1, 2, 3), keepdim=True) * g), 0),
            "you took the mean of A where the formula has the sum.":
                torch.where(g > 0, 1 / (2 + A.mean((2, 3), keepdim=True) * g), 0),
            "where the gradient is zero, a is zero too: such a cell gets no coefficient.": 1 / (2 + total * g),
        })
    A, g = torch.full((1, 1, 2, 2), 2.), torch.tensor([[[[1e-24, 1e-5], [1e-2, 0.]]]])
    expected = torch.where(g > 0, 1 / (2 + 8 * g), 0)
    powers = 2 * g**2 + 8 * g**3
    _compare("gradients from 1e-24 to 1e-2", answer(A.clone(), g.clone()), expected, {
        "1e-24 became 0: its square is too small for single precision. Divide g² out first.":
            torch.where(powers > 0, g**2 / torch.where(powers > 0, powers, 1), 0),
        **{f"the {eps:g} that you added to the denominator is larger than g².": g**2 / (powers + eps)
           for eps in (1e-6, 1e-7, 1e-8, 1e-10, 1e-12)},
    })


def centred_cam(answer) -> None:
    generator = torch.Generator().manual_seed(4)
    for _, K, h, w in SIZES:
        A, W, v = _random(generator, K, h, w), _random(generator, 4, K), _random(generator, K)
        plain = torch.einsum("k,khw->hw", W[2], A)
        expected = torch.einsum("k,khw->hw", W[2] - W.mean(0), A)
        wrong_turns = {
            "that is plain CAM, which the shift of section 6.1 moves.": plain,
            "you subtracted the mean over the channels; the shift is common to all classes.":
                torch.einsum("k,khw->hw", W[2] - W[2].mean(), A),
            "you subtracted the mean of the map; the shift has its own value in each cell.": plain - plain.mean(),
            "you left the class itself out of the mean; take the mean over all classes.":
                torch.einsum("k,khw->hw", W[2] - W[[0, 1, 3]].mean(0), A),
        }
        _compare(f"{K} channels of {h}×{w}", answer(A.clone(), W.clone(), 2), expected, wrong_turns)
        _compare("the same, with the same vector added to every class", answer(A.clone(), W + 9 * v, 2), expected, {})


TESTS = {"1.1": class_maps, "1.2": grad_cam_map, "1.3": coefficients, "1.4": centred_cam}
