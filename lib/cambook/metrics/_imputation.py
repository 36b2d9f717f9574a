"""Filling removed pixels from their surroundings, so that the hole tells as little as possible.

A removed pixel becomes the weighted mean of its neighbours, of which many are removed too: one linear
equation a pixel, 45 000 of them when 90 % of 224² pixels are gone. SciPy's sparse solver takes seconds for
that, runs on the CPU alone, and is no dependency of ours; as a dense matrix the system would take 8 GB; and
plain iterations need about as many rounds as the hole is wide. Conjugate gradients with one multigrid cycle
as preconditioner need about ten whatever the hole's shape, and only additions of shifted images, for all
pictures at once on any device.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# The equations hold to this share of the largest pixel value. The filled values are then good to about 1e-4
# of it, a hundredth of the noise that ROAD adds.
TOLERANCE = 1e-5
ROUNDS = 100
# The step of a smoothing sweep, as a share of the Jacobi step: 4/5 suits stencils of this kind.
DAMPING = 0.8
COARSEST_SWEEPS = 4


def impute(images: Tensor, removed: Tensor) -> Tensor:
    """Images (N, C, H, W) in which each removed pixel is the weighted mean of its neighbours, in float32.

    Direct neighbours weigh 1/6 and diagonal ones 1/12, and at the border the weights of those that exist are
    brought to the sum 1 (official code: ROAD). What the removed pixels held has no influence.

    images: float32. removed: (N, H, W) bool; each picture keeps at least one pixel.
    """
    unknown = removed[:, None].to(images.dtype)
    known = images.masked_fill(removed[:, None], 0)
    levels = _levels(unknown)
    enough = TOLERANCE * known.abs().amax()

    # Conjugate gradients on `_equations(x) = unknown * _neighbours(known)`, from zero, one for each picture
    # and channel.
    rest = unknown * _neighbours(known)
    filled = torch.zeros_like(known)
    direction, size = 0, torch.ones((), device=images.device)
    tiny = torch.finfo(images.dtype).tiny
    for _ in range(ROUNDS):
        if rest.abs().amax() <= enough:
            return known + filled
        better = _cycle(levels, rest)
        last, size = size, (rest * better).sum((2, 3), keepdim=True)
        direction = better + size / last.clamp(min=tiny) * direction
        change = _equations(direction, *levels[0])
        step = size / (direction * change).sum((2, 3), keepdim=True).clamp(min=tiny)
        filled += step * direction
        rest -= step * change
    raise RuntimeError(f"The removed pixels were not filled in {ROUNDS} rounds: please report this as a bug.")


def _neighbours(x: Tensor) -> Tensor:
    """Each pixel's weighted sum of its neighbours; beyond the border there is nothing.

    The 3×3 weights are those of [1 2 1] down times [1 2 1] across, without the middle, / 12; and [1 2 1] is
    twice the sum of two that lie side by side.
    """
    y = F.pad(x, (1, 1, 1, 1))
    for _ in range(2):
        y = y[..., :-1, :] + y[..., 1:, :]
    for _ in range(2):
        y = y[..., :-1] + y[..., 1:]
    return (y - 4 * x) / 12


def _equations(x: Tensor, unknown: Tensor, weight: Tensor) -> Tensor:
    """The left side: weight of all neighbours × pixel - sum of the removed neighbours. `x` is 0 elsewhere."""
    return unknown * (weight * x - _neighbours(x))


def _levels(unknown: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The unknown pixels, and the weight of each one's neighbours, at half the size, a quarter, ….

    A cell of the next level is unknown if all pixels in it are.
    """
    levels = []
    while True:
        levels.append((unknown, _neighbours(torch.ones_like(unknown[:1]))))
        if min(unknown.shape[2:]) <= 2:
            return levels
        unknown = -F.max_pool2d(-unknown, 2, ceil_mode=True)
        if not unknown.any():
            return levels


def _cycle(levels: list[tuple[Tensor, Tensor]], rest: Tensor) -> Tensor:
    """About the solution for the right side `rest`: what is fine is smoothed here, what is wide further up.

    Going up sums 2×2 pixels and coming down copies to them, and there is one sweep before and one after. So
    the whole is a symmetric operation, which conjugate gradients need.
    """
    (unknown, weight), *coarser = levels
    step = DAMPING * unknown / weight
    x = step * rest
    if not coarser:
        for _ in range(COARSEST_SWEEPS - 1):
            x = x + step * (rest - _equations(x, unknown, weight))
        return x
    height, width = rest.shape[2:]
    left = F.pad(rest - _equations(x, unknown, weight), (0, width % 2, 0, height % 2))
    wide = _cycle(coarser, coarser[0][0] * 4 * F.avg_pool2d(left, 2))
    x = x + unknown * F.interpolate(wide, scale_factor=2, mode="nearest")[..., :height, :width]
    return x + step * (rest - _equations(x, unknown, weight))
