"""Grad-CAM++: weights from the positive gradients, each with a coefficient of its own.

A. Chattopadhay, A. Sarkar, P. Howlader, V. N. Balasubramanian, "Grad-CAM++: Generalized Gradient-based Visual
Explanations for Deep Convolutional Networks", WACV 2018, arXiv 1710.11063.
"""

import torch
from torch import Tensor, nn

from ..explanation import Explanation
from .look import look, weighted_sum


def grad_cam_pp(
    model: nn.Module, images: Tensor, targets=None, *, layers="auto", trace: bool = False
) -> Explanation:
    """Grad-CAM++: w_k = Σ_ij a_k,ij ReLU(g_k,ij) and L = ReLU(Σ_k w_k A_k), with g = ∂y/∂A.

    The paper explains Y = exp(y) of the logit y, which makes its higher derivatives powers of g, so that

        a_k,ij = g² / (2 g² + (Σ_ab A_k,ab) g³).

    The sum over A is a factor of g³, not inside a sum with it, and a is 0 where the denominator is 0. The
    factor exp(y) of ∂Y/∂A is the same for a whole image and left out of w. The coefficient is not invariant
    to the scale of the logit: doubling y changes the map.

    Arguments, cost and errors as in `grad_cam`; trace also has "coefficients", a (B, K, h, w).

    Source: the equation is the ancestor's, written from memory, and checked against the grad-cam package up
    to its epsilon. The authors' own TensorFlow code also divides a by its sum over all cells of the map, which
    the equation does not; that is not done here.
    """
    seen = look("grad_cam_pp", model, images, targets, layers, gradients=True)
    a = coefficients(seen.activations, seen.gradients)
    weights = (a * seen.gradients.relu()).sum((2, 3))    # (B, K)
    raw = weighted_sum(weights, seen.activations)
    parts = {
        "weights": weights,
        "activations": seen.activations,
        "gradients": seen.gradients,
        "coefficients": a,
    }
    return seen.explain(raw, trace=parts if trace else None)


def coefficients(activations: Tensor, gradients: Tensor) -> Tensor:
    """a (B, K, h, w) from A and g of that shape.

    g² is divided out, which gives 1 / (2 + ΣA · g) for g ≠ 0: the same number, but no g³ that underflows. An
    epsilon in the denominator instead would outweigh g² in real networks, where |g| is often below 1e-3.
    """
    total = activations.sum((2, 3), keepdim=True)
    denominator = 2 + total * gradients
    exists = (gradients != 0) & (denominator != 0)
    return torch.where(exists, 1 / torch.where(exists, denominator, 1), 0)
