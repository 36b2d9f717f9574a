"""Layer-CAM: a weight for each cell, so that shallow layers can be explained too.

P.-T. Jiang, C.-B. Zhang, Q. Hou, M.-M. Cheng, Y. Wei, "LayerCAM: Exploring Hierarchical Class Activation Maps
for Localization", IEEE Transactions on Image Processing 30, 2021.
"""

from torch import Tensor, nn

from ..explanation import Explanation
from .look import look


def layer_cam(
    model: nn.Module, images: Tensor, targets=None, *, layers="auto", trace: bool = False
) -> Explanation:
    """Layer-CAM: L = ReLU(Σ_k ReLU(g_k) ⊙ A_k), with g = ∂y/∂A of the logit y, cell by cell.

    Grad-CAM averages the gradient over the map before it multiplies; that is wrong where the gradient changes
    sign within a map, as it does in shallow layers. Arguments, cost and errors as in `grad_cam`; the trace's
    "weights" are ReLU(g), (B, K, h, w).

    One layer a call: the paper's fusion of several layers is not part of it.
    Source: the formula is the ancestor's, written from memory and checked against grad-cam and torchcam.
    """
    seen = look("layer_cam", model, images, targets, layers, gradients=True)
    weights = seen.gradients.relu()
    raw = (weights * seen.activations).sum(1)
    parts = {"weights": weights, "activations": seen.activations, "gradients": seen.gradients}
    return seen.explain(raw, trace=parts if trace else None)
