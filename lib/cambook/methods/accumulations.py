"""What is added up along a path: attributions of the features that move, and class activation maps.

With ḡ the mean of ∂y/∂A over space, and t = 0 … T the points of the path:

    A1    (1/T) Σ_t ReLU( Σ_k ḡ_k(z_t) (A_k(z_t) − A_k(x')) ), t ≥ 1      Integrated Grad-CAM's sum (ancestor)
    A2    Σ_t Σ_k ½(ḡ_k(z_t) + ḡ_k(z_t+1)) (A_k(z_t+1) − A_k(z_t))        the line integral (our reading)
    A2e   the same with g in the place of ḡ, cell by cell                 the complete one (our reading)
    A4    Σ_k (mean of ḡ_k along the path) (A_k(x) − A_k(x'))             (our reading)
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..explanation import PathExplanation
from .look import weighted_sum
from .paths import Ends, Point

RULES = ("left", "trapezoid")


@dataclass(frozen=True)
class Sums:
    """Everything that was added up along a path of T steps.

    attributions: of z's shape, Σ ∂y/∂z Δz. cam: (B, h, w), or None without an accumulation. path_scores: (B,
    T + 1). variation: (B,), Σ |∂y/∂z Δz|. gap: (B,), see `PathExplanation`. kept: the points' tensors by
    name, (T + 1, B, …), and the steps' shares of the cam, (T, B, h, w); empty where not asked for.
    """

    attributions: Tensor
    cam: Tensor | None
    path_scores: Tensor
    variation: Tensor
    gap: Tensor
    kept: dict[str, Tensor]


def add_up(
    ends: Ends,
    points: Iterable[Point],
    *,
    rule: str = "trapezoid",
    accumulation: str | None = None,
    keep: bool = False,
) -> Sums:
    """Go along a path once, and add up.

    rule: which gradient prices the move from one point to the next: that of the first point ("left", Guided
    IG's official code) or the mean of both ("trapezoid"), whose error is smaller for the same passes.
    accumulation: a name of `ACCUMULATIONS`; the completeness gap is then that of A2e, else that of the
    attributions. keep: also keep what was seen at each point.
    """
    attributions = torch.zeros_like(ends.end.z)
    variation, complete = torch.zeros_like(ends.end.scores), torch.zeros_like(ends.end.scores)
    scores, shares, walked = [ends.start.scores], [], [ends.start]
    for before, after in itertools.pairwise(points):
        slope = before.gradients if rule == "left" else (before.gradients + after.gradients) / 2
        moved = slope * (after.z - before.z)
        attributions += moved
        variation += moved.abs().sum((1, 2, 3))
        if accumulation is not None:
            shares.append(ACCUMULATIONS[accumulation](ends.start, before, after, ends.end))
            complete += a2e(ends.start, before, after, ends.end).sum((1, 2))
        scores.append(after.scores)
        if keep:
            walked.append(after)

    if accumulation is None:
        complete = attributions.sum((1, 2, 3))
    elif accumulation in MEANS:
        shares = [share / len(shares) for share in shares]
    return Sums(
        attributions=attributions,
        cam=sum(shares) if shares else None,
        path_scores=torch.stack(scores, 1),
        variation=variation,
        gap=_gap(complete, ends.start.scores, ends.end.scores),
        kept=_kept(walked, shares) | {"attributions": attributions} if keep else {},
    )


def explain(ends: Ends, sums: Sums, raw: Tensor, **config) -> PathExplanation:
    """The explanation of raw (B, h, w), with what is known about the path; config adds to what was chosen."""
    batch, points = sums.path_scores.shape
    e = ends.seen.explain(raw, batch * (points - 1), sums.kept, steps=points - 1, **ends.config, **config)
    return PathExplanation(
        **vars(e),
        path_scores=sums.path_scores.float(),
        variation=sums.variation.float(),
        gap=sums.gap.float(),
        backwards=batch * points,
    )


def check_rule(rule: str) -> None:
    """Refuse a rule that does not exist."""
    if rule not in RULES:
        raise ValueError(f"The rule is one of {', '.join(RULES)}, not {rule!r}.")


# One step's share of a map, from the start of the path, the points before and after the step, and the end.


def a1(start: Point, before: Point, after: Point, end: Point) -> Tensor:
    return weighted_sum(_mean(after), after.activations - start.activations).relu()


def a2(start: Point, before: Point, after: Point, end: Point) -> Tensor:
    return weighted_sum((_mean(before) + _mean(after)) / 2, after.activations - before.activations)


def a2e(start: Point, before: Point, after: Point, end: Point) -> Tensor:
    slope = (before.layer_gradients + after.layer_gradients) / 2
    return (slope * (after.activations - before.activations)).sum(1)


def a4(start: Point, before: Point, after: Point, end: Point) -> Tensor:
    return weighted_sum((_mean(before) + _mean(after)) / 2, end.activations - start.activations)


ACCUMULATIONS = {"A1": a1, "A2": a2, "A2e": a2e, "A4": a4}
MEANS = ("A1", "A4")    # over the steps; the others are sums


def _mean(point: Point) -> Tensor:
    """ḡ, (B, K)."""
    return point.layer_gradients.mean((2, 3))


def _gap(total: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """|total − change| as a share of |change| of the score; 0 where the error is the scores' rounding."""
    change = last - first
    error = (total - change).abs()
    rounding = 8 * torch.finfo(torch.float32).eps * torch.maximum(first.abs(), last.abs())
    return torch.where(error <= rounding, 0, error / change.abs())


def _kept(walked: list[Point], shares: list[Tensor]) -> dict[str, Tensor]:
    columns = {
        "path": [point.z for point in walked],
        "gradients": [point.gradients for point in walked],
        "activations": [point.activations for point in walked],
        "layer_gradients": [point.layer_gradients for point in walked],
        "shares": shares,
    }
    return {name: torch.stack(column) for name, column in columns.items() if column and column[0] is not None}
