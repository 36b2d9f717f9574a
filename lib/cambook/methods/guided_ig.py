"""Guided IG: Integrated Gradients on an adaptive path, where features with small gradients move first.

A. Kapishnikov, S. Venugopalan, B. Avci, B. Wedin, M. Terry, T. Bolukbasi, "Guided Integrated Gradients: An
Adaptive Path Method for Removing Noise", CVPR 2021, arXiv 2106.09788.
"""

import torch
from torch import Tensor, nn

from .. import targets as targets_
from ..explanation import PathExplanation
from .accumulations import add_up, check_rule, explain
from .guides import input_grad
from .look import NO_LAYER
from .paths import check_steps, ends, guided


def guided_ig(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    baseline: Tensor | None = None,
    steps: int = 200,
    fraction: float = 0.25,
    max_dist: float = 0.02,
    anchors: int = 1,
    rule: str = "left",
    score: targets_.Kind = "logit",
    dtype: torch.dtype | None = None,
    trace: bool = False,
) -> PathExplanation:
    """Guided IG: the path integral of the gradient, on a path that avoids large gradients as long as it can.

    Each of T steps spends the same budget, ‖x − x'‖₁ / T, on the features with the smallest |∂y/∂z| at the
    point where it begins; the greedy way to a small total variation.

    images, targets, baseline, score, dtype, trace: as in `integrated_gradients`.
    steps: T; T passes forwards and backwards one after the other, and one at x. 200 (official code; its
        examples take 25).
    fraction: the share of all features that may move before the ranking is asked again; 1 is the straight
        line. 0.25 (official code; 0.5 in its examples).
    max_dist: how far a feature may be off the straight line, as a share of its own way; 0 is the straight
        line, 1 sets it free. 0.02 (official code, where it replaces the anchors; 1 in its examples).
    anchors: K pieces of the straight line, each with a guided path of its own of T / K steps (paper, from
        memory; the official code has none). With more than 1, max_dist counts within each piece, and the
        paper's pieces are free: max_dist=1. K = 1 is one path.
    rule: "left" prices a step at its beginning (official code); "trapezoid" is more exact at no cost.

    Every colour value of every pixel moves on its own (official code). Where an image equals the baseline
    nothing is attributed. Results, cost and errors as in `integrated_gradients`; the sum is the change of the
    score only in the limit, and free paths need many steps: look at `gap`.
    """
    check_steps(steps, fraction, max_dist, anchors)
    check_rule(rule)
    both = ends("guided_ig", model, images, targets, NO_LAYER, baseline=baseline, score=score, dtype=dtype)
    choices = {"fraction": fraction, "max_dist": max_dist, "anchors": anchors}
    sums = add_up(both, guided(both, input_grad, steps=steps, **choices), rule=rule, keep=trace)
    return explain(both, sums, sums.attributions.sum(1), path="guided", rule=rule, **choices)
