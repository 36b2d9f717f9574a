"""Integrated Gradients: what each pixel added to the score on the straight way from a baseline.

M. Sundararajan, A. Taly, Q. Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, arXiv 1703.01365.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import targets as targets_
from ..explanation import PathExplanation
from .accumulations import add_up, check_rule, explain
from .look import NO_LAYER
from .paths import check_path, check_steps, ends, given, straight


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    baseline: Tensor | None = None,
    steps: int = 50,
    rule: str = "trapezoid",
    path: Sequence[Tensor] | None = None,
    score: targets_.Kind = "logit",
    dtype: torch.dtype | None = None,
    trace: bool = False,
) -> PathExplanation:
    """Integrated Gradients: a_i = ∫ ∂y/∂z_i dz_i on a path from the baseline x' to x; Σ_i a_i = y(x) − y(x').

    images: (B, C, H, W), normalised. targets: as in `grad_cam`.
    baseline: x', (1 or B, C, H, W) in the network's input space; None is black in pixels, which is not zero
        after normalising.
    steps: T, how many pieces the path has; T + 1 passes forwards and backwards. 50 are our choice; the
        official code takes the plain mean of 25 gradients, both ends included, which errs by O(1/T).
    rule: "trapezoid" or "left", see `accumulations.add_up`.
    path: any sequence of T + 1 inputs (B, C, H, W) that ends at the images, instead of the straight line
        (a path integral has the same sum on every path). It brings its own baseline and steps.
    score: "logit", "probability" or a function, as in `Targets.score`; what is integrated.
    dtype: of the path and the sums; None is float32, and float64 for a network in float64.
    trace: keep "attributions" (B, C, H, W), a_i itself; "path" and "gradients" (T + 1, B, C, H, W).

    `raw` (B, H, W) is the signed sum of a over the colours, and `map` shows its positive part like that of
    every method. `path_scores`, `variation` and `gap` say how good the sum is: see `PathExplanation`.

    Source: the formula is the ancestor's, written from memory and checked against captum's
    IntegratedGradients. Raises ValueError or TypeError, in one sentence, for what does not fit.
    """
    check_steps(steps)
    check_rule(rule)
    if path is not None:
        if baseline is not None:
            raise ValueError("A path of your own begins at its own baseline: leave baseline out.")
        inputs = check_path(path, images)
        baseline = inputs[0]
    both = ends(
        "integrated_gradients", model, images, targets, NO_LAYER, baseline=baseline, score=score, dtype=dtype
    )
    points = straight(both, steps) if path is None else given(both, inputs[1:-1])
    sums = add_up(both, points, rule=rule, keep=trace)
    raw = sums.attributions.sum(1)
    return explain(both, sums, raw, path="straight" if path is None else "given", rule=rule)
