"""Grad-CAM: weights from the mean gradient.

R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh, D. Batra, "Grad-CAM: Visual Explanations from
Deep Networks via Gradient-based Localization", ICCV 2017, arXiv 1610.02391.
"""

from torch import Tensor, nn

from ..explanation import Explanation
from .look import look, weighted_sum


def grad_cam(
    model: nn.Module, images: Tensor, targets=None, *, layers="auto", trace: bool = False
) -> Explanation:
    """Grad-CAM: α_k = (1/Z) Σ_ij ∂y/∂A_k,ij and L = ReLU(Σ_k α_k A_k), Z = h·w.

    model: any network with a (B, classes) output. images: (B, C, H, W), normalised. targets: None (top-1), an
    int, a list, a 1-D tensor, or callables on one row of the output. layers: "auto" (the last spatial layer),
    a name or a module. trace: keep "weights" (B, K), "activations" and "gradients" (B, K, h, w).

    The gradient is that of the logit y. That of the softmax probability mixes in every other class, and
    vanishes where the network is sure. One forward and one backward pass a batch.

    Source: the formula is the ancestor's, written from memory and checked against captum's LayerGradCam.
    Raises ValueError or TypeError, in one sentence, for a layer, target or image that does not fit.
    """
    seen = look("grad_cam", model, images, targets, layers, gradients=True)
    weights = seen.gradients.mean((2, 3))    # (B, K)
    raw = weighted_sum(weights, seen.activations)
    parts = {"weights": weights, "activations": seen.activations, "gradients": seen.gradients}
    return seen.explain(raw, trace=parts if trace else None)
