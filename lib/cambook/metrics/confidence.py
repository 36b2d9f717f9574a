"""How sure does the network stay when it sees only what the map keeps, or only what it leaves?

Y is the score of the clean image for its target, O that of the image seen through the map, E = X ⊙ L. In the
normalised space in which X is multiplied, what the map leaves out becomes the mean colour. Papers print the
means in per cent; here everything is a fraction.

All of it can be had cheaply: the larger the map, the less is taken away. The map that is 1 but for one pixel
has a drop of 0, and only `adcc` makes it pay for its size.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import scoring
from .. import targets as targets_
from ..explanation import Explanation
from ..models.running import check_images
from ._result import NetworkResult, check_maps_of, check_unit, is_flat

# Scores that differ by less than this share are the same but for rounding.
NOISE = 1e-6


@dataclass(frozen=True, eq=False)
class ADCCResult(NetworkResult):
    """values: the harmonic mean of coherency, 1 - complexity and 1 - drop. Each (B,), in [0, 1].

    coherency: how much the map of what the map keeps looks like the map; 0 where there is no such map.
    complexity: the mean of the map. drop: as in `average_drop`.
    """

    coherency: Tensor
    complexity: Tensor
    drop: Tensor


def average_drop(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    score: targets_.Kind = "probability",
    chunk: int | str = "auto",
) -> NetworkResult:
    """Which share of its score the class loses under the map: max(0, Y - O) / Y, in [0, 1]; lower is better.

    The formula of Grad-CAM++ (from memory; as in torchcam's code), with the map as a soft mask. Score-CAM's
    numbers keep the better half of the pixels and mute the rest (paper), and do not compare with these.

    images: (B, C, H, W), normalised. maps: (B, H, W) in [0, 1], of the images' size.
    targets: as in `targets.resolve`; None is the clean image's top-1 class, for both scores.
    score: "probability" (softmax over the classes), or a function of the network's output such as
        torch.sigmoid; "logit" where the network itself ends in probabilities. Scores must lie in [0, 1]:
        a drop relative to a logit, which may be negative, means nothing.
    chunk: as in `scoring.masked_scores`. 2·B images go through the network.

    Excluded are flat maps, which show no place, images whose clean score is 0, and scores that are not
    finite. Raises ValueError or TypeError, in one sentence, for images, maps, targets or scores that do not
    fit.
    """
    asked = _ask(model, images, maps, targets, score, chunk)
    return _result(asked, asked.drop, asked.before == 0)


def increase(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    score: targets_.Kind = "probability",
    chunk: int | str = "auto",
) -> NetworkResult:
    """Is the network surer of what the map keeps than of the whole image? 1 where O > Y, else 0.

    The formula of Grad-CAM++ (from memory; as in torchcam's code); the mean is the share of such images. An
    increase by less than a millionth of Y is rounding and counts as none (our reading), else a map that
    keeps all would win half of the time. Arguments, exclusions and errors: as in `average_drop`.
    """
    asked = _ask(model, images, maps, targets, score, chunk)
    return _result(asked, asked.after > asked.before * (1 + NOISE))


def average_gain(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    score: targets_.Kind = "probability",
    chunk: int | str = "auto",
) -> NetworkResult:
    """Which share of what was missing to 1 the class gains under the map: max(0, O - Y) / (1 - Y).

    The counterpart of `average_drop` (Opti-CAM, from memory); higher is better. 1 - Y counts as a millionth
    at least (our reading), else an image of which the network is quite sure would be scored by its rounding.
    Arguments, exclusions and errors: as in `average_drop`.
    """
    asked = _ask(model, images, maps, targets, score, chunk)
    missing = (1 - asked.before).clamp(min=NOISE)
    return _result(asked, (asked.after - asked.before).clamp(min=0) / missing)


def average_drop_in_deletion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    score: targets_.Kind = "probability",
    chunk: int | str = "auto",
) -> NetworkResult:
    """ADD, the share of its score that the class loses without what the map shows: (Y - D) / Y.

    D is the score of X ⊙ (1 - L) (Jung and Oh 2021, from memory). Higher is better, 1 at most, and negative
    where the rest is surer than the whole. Arguments, exclusions and errors: as in `average_drop`.
    """
    asked = _ask(model, images, maps, targets, score, chunk, removed=True)
    return _result(asked, 1 - asked.after / asked.before, asked.before == 0)


def adcc(
    method: Callable[..., Explanation],
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    score: targets_.Kind = "probability",
    chunk: int | str = "auto",
) -> ADCCResult:
    """Average drop, coherency and complexity in one number: 3 / (1/Coh + 1/(1 - Com) + 1/(1 - AD)).

    Coh = (ρ + 1)/2 with ρ Pearson's correlation of L(X) and L(X ⊙ L(X)); Com = mean of L; the value is in
    [0, 1], higher is better, and 0 where one of the three is (Poppi et al. 2021; official code). Computed for
    each image and then averaged: the value of the averages is another number, which some libraries print.

    method: called as method(model, images, targets), such as `methods.grad_cam`; options through
        functools.partial. It is asked twice, both times for the class of the clean image.
    images, targets, score, chunk, exclusions and errors: as in `average_drop`. A map of E that is flat has
    coherency 0 (official code).
    """
    images = check_images(model, images)
    maps = method(model, images, targets)
    asked = _ask(model, images, maps.map, targets, score, chunk)
    classes = asked.targets.indices if targets is None else targets
    again = method(model, images * asked.maps[:, None].to(images.dtype), classes)

    coherency = _coherency(asked.maps, check_maps_of(again.map, images))
    complexity = asked.maps.mean((1, 2))
    excluded = asked.excluded | (asked.before == 0)
    parts = torch.stack([coherency, 1 - complexity, 1 - asked.drop])
    nan = float("nan")
    return ADCCResult(
        values=3 / (1 / parts).sum(0),    # 1/0 is infinite, and makes the whole 0
        excluded=excluded,
        forwards=maps.forwards + asked.forwards + again.forwards,
        coherency=coherency.masked_fill(excluded, nan),
        complexity=complexity.masked_fill(excluded, nan),
        drop=asked.drop.masked_fill(excluded, nan),
    )


@dataclass(frozen=True, eq=False)
class _Asked:
    """maps (B, H, W), and per image, (B,) float64, the score of it clean and of what was left of it."""

    maps: Tensor
    targets: targets_.Targets
    before: Tensor
    after: Tensor

    @property
    def drop(self) -> Tensor:
        return (self.before - self.after).clamp(min=0) / self.before

    @property
    def excluded(self) -> Tensor:
        return is_flat(self.maps) | ~(self.before.isfinite() & self.after.isfinite())

    @property
    def forwards(self) -> int:
        return 2 * len(self.maps)


def _ask(model, images, maps, targets, score, chunk, *, removed: bool = False) -> _Asked:
    images = check_images(model, images)
    maps = check_maps_of(maps, images)
    check_unit(maps)
    clean = scoring.outputs(model, images, chunk=chunk)
    targets = targets_.resolve(targets, clean)
    before = targets.score(clean, kind=score).double()
    masks = 1 - maps if removed else maps
    after = scoring.scores(model, images * masks[:, None].float(), targets, score, chunk=chunk).double()
    for scores in (before, after):
        wrong = scores[(scores < 0) | (scores > 1 + NOISE)]
        if len(wrong):
            raise ValueError(
                f"the scores must lie in [0, 1], but one is {wrong[0].item():g}: leave score out for "
                "probabilities, or give a function such as torch.sigmoid."
            )
    return _Asked(maps, targets, before, after)


def _result(asked: _Asked, values: Tensor, excluded: Tensor | bool = False) -> NetworkResult:
    return NetworkResult(values=values, excluded=asked.excluded | excluded, forwards=asked.forwards)


def _coherency(one: Tensor, two: Tensor) -> Tensor:
    """(ρ + 1)/2 of each pair of maps, (B,); 0 where one is flat and there is no correlation."""
    one, two = (maps.flatten(1) - maps.mean((1, 2))[:, None] for maps in (one, two))
    correlation = (one * two).sum(1) / (one.norm(dim=1) * two.norm(dim=1))
    return ((correlation + 1) / 2).nan_to_num(0).clamp(0, 1)
