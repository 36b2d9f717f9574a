"""Integrated Grad-CAM: Grad-CAM's weighted sum, averaged over the straight path from a baseline.

S. Sattarzadeh, M. Sudhakar, K. N. Plataniotis, J. Jang, Y. Jeong, H. Kim, "Integrated Grad-CAM:
Sensitivity-Aware Visual Explanation of Deep Convolutional Networks via Integrated Gradient-Based Scoring",
ICASSP 2021, arXiv 2102.07805.
"""

import torch
from torch import Tensor, nn

from .. import targets as targets_
from ..explanation import PathExplanation
from .accumulations import add_up, explain
from .paths import check_steps, ends, straight


def integrated_grad_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    baseline: Tensor | None = None,
    steps: int = 50,
    score: targets_.Kind = "logit",
    dtype: torch.dtype | None = None,
    trace: bool = False,
) -> PathExplanation:
    """Integrated Grad-CAM: L = (1/T) Σ_t ReLU( Σ_k ḡ_k(z_t) (A_k(z_t) − A_k(x')) ), z_t = x' + (t/T)(x − x').

    ḡ_k is the mean of ∂y/∂A_k over space. Not a line integral: each point is compared with the baseline
    instead of the point before it, so that evidence counts the more, the earlier it arrives. On the straight
    line all of it arrives at once; `gig_cam` with accumulation="A1" is the same sum on other paths.

    images, targets, layers: as in `grad_cam`. baseline, score, dtype: as in `integrated_gradients`.
    steps: T, 50 as in the authors' demonstration. T + 1 passes forwards and backwards.
    trace: as in `gig_cam`.

    `raw` has no negative values: the ReLU is inside the sum. Completeness is not claimed for it; `gap` is
    that of the line integral at the layer (A2e in `accumulations`), and judges the number of steps.

    Source: the official architecture figure (ancestor). The authors' demonstration differs: t = 0 … T − 1,
    and A_k(z_t) in the place of the difference. Raises ValueError or TypeError, in one sentence, for what
    does not fit.
    """
    check_steps(steps)
    both = ends(
        "integrated_grad_cam", model, images, targets, layers, baseline=baseline, score=score, dtype=dtype
    )
    sums = add_up(both, straight(both, steps), accumulation="A1", keep=trace)
    return explain(both, sums, sums.cam, path="straight", accumulation="A1")
