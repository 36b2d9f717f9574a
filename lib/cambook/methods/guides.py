"""What orders the features along an adaptive path: those with the smallest score move first.

What GIG-CAM's "saliency maps" are is not public. All of these are readings of that sentence; `input_grad` is
Guided IG's own.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .look import weighted_sum
from .paths import Point

# Exact zeros, which the ReLU leaves wherever nothing speaks for the class, would tie: half of the picture
# would move at once, and as a straight line. Their order is drawn instead, the same in each step.
TIE_BREAKER = 1e-6


def input_grad(point: Point) -> Tensor:
    """∂y/∂z of each colour value (Guided IG, official code; the default of GIG-CAM, our reading)."""
    return point.gradients


def input_grad_pixel(point: Point) -> Tensor:
    """Σ |∂y/∂z| over the colours, so that whole pixels move (our reading)."""
    return point.gradients.abs().sum(1, keepdim=True).expand_as(point.z)


def cam_low(point: Point) -> Tensor:
    """The Grad-CAM map of the point itself: what speaks for the class comes last (our reading)."""
    return _cam(point).expand_as(point.z)


def cam_high(point: Point) -> Tensor:
    """The same, turned round: what speaks for the class comes first (our reading)."""
    # Only the order counts, and 1/cam keeps apart what the maximum minus cam would round to one number.
    return (1 / _cam(point)).expand_as(point.z)


GUIDES = {guide.__name__: guide for guide in (input_grad, input_grad_pixel, cam_low, cam_high)}


def _cam(point: Point) -> Tensor:
    """Up(ReLU(Σ_k ḡ_k A_k)) of each point, about 1 at its maximum, positive and without ties: (B, 1, H, W)."""
    raw = weighted_sum(point.layer_gradients.mean((2, 3)), point.activations).relu()
    size = point.z.shape[-2:]
    cam = F.interpolate(raw[:, None], size, mode="bilinear", align_corners=False)
    largest = cam.amax((2, 3), keepdim=True)
    noise = 1 - torch.rand(size, generator=torch.Generator().manual_seed(0)).to(cam)    # never 0
    return cam / torch.where(largest > 0, largest, 1) + TIE_BREAKER * noise
