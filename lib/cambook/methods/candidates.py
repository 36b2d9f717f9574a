"""What UnionCAM and Fusion-CAM choose from: a denoised gradient map, region maps, and their weighted union.

Each candidate is a map L in [0, 1] at the size of the picture, and has one number, the increase of confidence

    β(L) = f_c(X ⊙ L) − f_c(X ⊙ 0),

Score-CAM's for a channel, of a whole map; f_c is the class's probability. X ⊙ 0 is the mean colour, so that a
map of zeros has β = 0 (follow-up code, which calls it black).
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import scoring
from .. import targets as targets_
from ..explanation import Explanation, minmax
from .look import Look, weighted_sum
from .score_cam import ask_baseline, channel_softmax

DENOISE = ("gradient", "map", "positive_gradient")
SCORE_CAM = "score_cam"
Region = str | Callable[..., Explanation]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CandidatesExplanation(Explanation):
    """A map that was put together from others, and these others.

    names: of the n candidates: the region maps, what is fused of them, and "denoised".
    candidates: (B, n, H, W) float32 in [0, 1].
    increases: (B, n) float32, β of each candidate; 0 for a map of zeros.
    """

    names: list[str]
    candidates: Tensor
    increases: Tensor


def percentile(values: Tensor, percent: float, count: Tensor | None = None) -> Tensor:
    """The percentile of each row, interpolated linearly as `numpy.percentile` does: (…, n) → (…).

    count: (…) integers, to look only at so many of the largest values of each row; with 0 the result is the
    largest. Not `kernels.robust_range`, whose rows are all of one length.
    """
    ordered = values.sort(-1).values
    size = values.shape[-1]
    if count is None:
        count = torch.full(values.shape[:-1], size, device=values.device)
    place = (size - count + percent / 100 * (count.double() - 1)).clamp(max=size - 1)
    below = place.floor().long()
    ends = torch.stack([below, (below + 1).clamp(max=size - 1)], -1)
    low, high = ordered.gather(-1, ends).unbind(-1)
    # In this form it is exact where both neighbours are equal: then nothing is strictly below.
    return low + (high - low) * (place - below).to(values.dtype)


def thresholds(gradients: Tensor, theta: float, positive: bool = False) -> Tensor:
    """t_k, the θ-th percentile of each channel's gradient, or of its positive values: (…, h, w) → (…)."""
    flat = gradients.flatten(-2)
    return percentile(flat, theta, (flat > 0).sum(-1) if positive else None)


def pixel_weights(gradients: Tensor, theta: float, positive: bool = False) -> Tensor:
    """α R: what is left of each channel's gradient, made to add up to 1: (…, h, w) → (…, h, w).

    Ĝ = G where G ≥ t_k, else 0; R = ReLU(Ĝ); α = 1 / Σ R. A channel without a positive gradient gets zeros.
    The follow-up code adds 1e-8 to the sum, which would dim channels with tiny gradients; we do not.
    """
    cut = gradients < thresholds(gradients, theta, positive)[..., None, None]
    kept = gradients.masked_fill(cut, 0).relu()
    total = kept.sum((-2, -1), keepdim=True)
    return kept / torch.where(total > 0, total, 1)


def denoised_map(seen: Look, denoise: str, theta: float) -> tuple[Tensor, Tensor]:
    """L_den (B, H, W) in [0, 1], and the weights of the activations in it, (B, K, h, w) or (B, K)."""
    if denoise == "map":
        weights = seen.gradients.mean((2, 3))
        heat = seen.explain(weighted_sum(weights, seen.activations)).map
        threshold = percentile(heat.flatten(1), theta)[:, None, None]
        return heat.masked_fill(heat < threshold, 0), weights
    weights = pixel_weights(seen.gradients, theta, denoise == "positive_gradient")
    return seen.explain((weights * seen.activations).sum(1)).map, weights


def region_maps(
    model: nn.Module, seen: Look, regions: Sequence[Region], *, precision: str, chunk: int | str, progress
) -> tuple[Tensor, int]:
    """L_reg of each region method, (B, m, H, W) in [0, 1], and how many images went through the network."""
    maps, forwards = [], 0
    for region in regions:
        if region == SCORE_CAM:
            masked = scoring.masked_scores(
                model, seen.images, seen.activations, seen.targets,
                precision=precision, chunk=chunk, progress=progress,
            )    # fmt: skip
            # The baseline that Score-CAM subtracts is the same for all channels: the softmax removes it.
            weights = channel_softmax(masked.values, masked.skipped).to(seen.activations.dtype)
            e = seen.explain(weighted_sum(weights, seen.activations.nan_to_num(0, 0, 0)), masked.forwards)
            forwards += masked.forwards
        else:
            e = _called(region, model, seen)
            forwards += e.forwards
        maps.append(minmax(e.map.float()))
    return torch.stack(maps, 1), forwards


def union(denoised: Tensor, region: Tensor, weights: Tensor) -> Tensor:
    """L_fus = N(β_d L_den + β_r L_reg) of maps (B, H, W) and their weights (B, 2).

    Only the ratio of the weights counts. The larger becomes 1, so that beside a weight of 0 the other map
    comes back to the last bit, and a tie is seen as one.
    """
    largest = weights.abs().amax(1, keepdim=True)
    one, two = (weights / torch.where(largest > 0, largest, 1))[:, :, None, None].unbind(1)
    return minmax(one * denoised + two * region)


class Judge:
    """Asks the network how much of the class survives under a map; `forwards` counts what it was shown."""

    def __init__(self, model: nn.Module, seen: Look, score: targets_.Kind, chunk: int | str):
        self.model, self.seen, self.score, self.chunk = model, seen, score, chunk
        self.nothing, self.forwards = ask_baseline(model, seen, None, score)
        if not self.nothing.isfinite().all():
            raise ValueError(
                f"The score of the image without content is not finite for {seen.images.dtype}: convert the "
                "network to float32 or bfloat16, or choose another score."
            )

    def increases(self, maps: Tensor) -> Tensor:
        """β of each map (B, n, H, W), whose least value is 0 and whose greatest is 1, or all zero: (B, n)."""
        asked = scoring.masked_scores(
            self.model, self.seen.images, maps, self.seen.targets,
            kind=self.score, chunk=self.chunk, progress=False,
        )    # fmt: skip
        self.forwards += asked.forwards
        # Skipped is a map of zeros, whose increase is 0 by definition, or a score that overflowed.
        return (asked.values - self.nothing[:, None]).masked_fill(asked.skipped, 0)


def check_denoise(denoise: str, theta: float) -> None:
    """Refuse a reading of the denoising that does not exist, and what is no percentile."""
    if denoise not in DENOISE:
        raise ValueError(f"denoise is one of {', '.join(DENOISE)}, not {denoise!r}.")
    if isinstance(theta, bool) or not isinstance(theta, (int, float)):
        raise TypeError(f"theta is a percentage, a number from 0 to 100, not {theta!r}.")
    if not (math.isfinite(theta) and 0 <= theta <= 100):
        raise ValueError(f"theta is a percentage, 0 to 100, not {theta!r}.")


def check_regions(region: Region | Sequence[Region]) -> dict[str, Region]:
    """The region methods by name, each name once."""
    every = list(region) if isinstance(region, (list, tuple)) else [region]
    if not every:
        raise ValueError('There is no region method in the list: give "score_cam", or a function.')
    named: dict[str, Region] = {}
    for one in every:
        if one != SCORE_CAM and not callable(one):
            raise ValueError(
                f'A region method is "score_cam", or a function such as methods.layer_cam, not {one!r}.'
            )
        name = base = one if isinstance(one, str) else _name(one)
        number = 2
        while name in named:
            name, number = f"{base}_{number}", number + 1
        named[name] = one
    return named


def _name(function: Callable) -> str:
    function = getattr(function, "func", function)    # what a functools.partial was made of
    return getattr(function, "__name__", type(function).__name__)


def _called(region: Callable, model: nn.Module, seen: Look) -> Explanation:
    """What a method says about the same images, classes and layer; methods of the pixels have no layer."""
    targets = [
        index if function is None else function
        for index, function in zip(seen.targets.indices.tolist(), seen.targets.functions, strict=True)
    ]
    parameters = inspect.signature(region).parameters.values()
    takes_layers = any(one.name == "layers" or one.kind == one.VAR_KEYWORD for one in parameters)
    e = region(model, seen.images, targets, **({"layers": seen.layer} if takes_layers else {}))
    name = _name(region)
    if not isinstance(e, Explanation):
        raise TypeError(f"The region method {name} returned {type(e).__name__} instead of an Explanation.")
    size = (len(seen.images), *seen.images.shape[-2:])
    if tuple(e.map.shape) != size or not e.map.isfinite().all():
        raise ValueError(
            f"The region method {name} must return finite maps of shape {size}, but they have shape "
            f"{tuple(e.map.shape)}, or NaN or infinity in them."
        )
    return e
