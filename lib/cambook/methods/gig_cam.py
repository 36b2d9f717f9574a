"""GIG-CAM: a class activation map accumulated along an adaptive path. A reconstruction from its abstract.

Y. Gao, X. Miao, G. Zhang, "GIG-CAM+M: A Class Activation Mapping Method Incorporating Guided Integrated
Gradients and Multi-scale Strategy", KSII Transactions on Internet and Information Systems 19(4), 2025.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .. import targets as targets_
from ..explanation import PathExplanation
from .accumulations import ACCUMULATIONS, add_up, explain
from .guides import GUIDES, input_grad
from .paths import Ends, check_path, check_steps, ends, given, guided, in_features

# The guide that is no score but another space for the path.
FEATURES = "features"


def gig_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    baseline: Tensor | None = None,
    steps: int = 50,
    fraction: float = 0.5,
    max_dist: float = 1.0,
    guide: str = "input_grad",
    accumulation: str = "A2",
    path: Sequence[Tensor] | None = None,
    score: targets_.Kind = "logit",
    dtype: torch.dtype | None = None,
    trace: bool = False,
) -> PathExplanation:
    """GIG-CAM: Integrated Grad-CAM with Guided IG's adaptive path instead of the straight one.

    That much says the abstract; only the abstract is public. Everything else here is our reading, with these
    defaults:

    - guide="input_grad": each colour value is ordered by |∂y/∂z|, as in Guided IG. "input_grad_pixel" moves
      whole pixels; "cam_low" and "cam_high" order them by the map of the point itself, whose evidence comes
      last or first; "features" makes the path among the layer's features, ordered by |∂y/∂A|, not among
      inputs.
    - accumulation="A2": L = ReLU( Σ_t Σ_k ½(ḡ_k(z_t) + ḡ_k(z_t+1)) (A_k(z_t+1) − A_k(z_t)) ), the line
      integral with Grad-CAM's weights. "A1" is Integrated Grad-CAM's sum, the most literal reading; it weighs
      evidence by how early it arrives, and on a path where decisive pixels come last it turns the map inside
      out. "A2e" is A2 cell by cell, the only one whose sum is the change of the score. "A4" lets the path
      only average the gradient. See `accumulations`.
    - steps=50 (Integrated Grad-CAM's number), fraction=0.5 and max_dist=1 (the examples of Guided IG's
      official code); with fraction=1 or max_dist=0 the path is the straight line. As in `guided_ig`.

    Where the layer is followed by global average pooling and one linear layer, ∂y/∂A is the same everywhere,
    and A2 and A2e give ReLU(CAM(x) − CAM(x')) on every path: choose another layer to see a difference.

    images, targets, layers: as in `grad_cam`. baseline, score, dtype: as in `integrated_gradients`.
    path: any sequence of T + 1 inputs (B, C, H, W) that ends at the images, instead of the guided path. It
        brings its own baseline and steps; guide, fraction and max_dist have no part in it.
    trace: keep "path" and "gradients" ∂y/∂z (T + 1, B, C, H, W), "activations" and "layer_gradients" (T + 1,
        B, K, h, w), "shares" (T, B, h, w), which add up to `raw`, and "attributions" (B, C, H, W), what a
        pixel method finds on this path. The points' axis comes first, so that "path" is a path again. With
        guide="features" the points are features, in the shape of the activations.

    T + 1 passes forwards and backwards, one after the other. Each image has its own path and class.
    `variation` is that of the attributions of what moves; `gap` is that of A2e.

    Raises ValueError or TypeError, in one sentence, for what does not fit.
    """
    check_choices(guide, accumulation, steps, fraction, max_dist)
    inputs = None
    if path is not None:
        if baseline is not None or guide == FEATURES:
            raise ValueError(
                "A path of your own begins at its own baseline, among inputs: leave baseline and "
                'guide="features" out.'
            )
        inputs = check_path(path, images)
        baseline = inputs[0]
    both = ends("gig_cam", model, images, targets, layers, baseline=baseline, score=score, dtype=dtype)
    if inputs is not None:
        sums = add_up(both, given(both, inputs[1:-1]), accumulation=accumulation, keep=trace)
        return explain(both, sums, sums.cam, path="given", accumulation=accumulation)
    return walk(both, guide, accumulation, trace, steps=steps, fraction=fraction, max_dist=max_dist)


def check_choices(guide: str, accumulation: str, steps: int, fraction: float, max_dist: float) -> None:
    """Refuse what does not exist, before any pass is made."""
    check_steps(steps, fraction, max_dist)
    if guide not in (*GUIDES, FEATURES):
        raise ValueError(f"The guide is one of {', '.join((*GUIDES, FEATURES))}, not {guide!r}.")
    if accumulation not in ACCUMULATIONS:
        raise ValueError(f"The accumulation is one of {', '.join(ACCUMULATIONS)}, not {accumulation!r}.")


def walk(
    both: Ends, guide: str, accumulation: str, trace: bool, *, steps: int, **choices: float
) -> PathExplanation:
    """The rest of `gig_cam`, once both ends of the path were looked at."""
    if guide == FEATURES:
        both = in_features(both)
    order = input_grad if guide == FEATURES else GUIDES[guide]
    sums = add_up(both, guided(both, order, steps=steps, **choices), accumulation=accumulation, keep=trace)
    return explain(both, sums, sums.cam, path="guided", guide=guide, accumulation=accumulation, **choices)
