"""The finished methods, one file a paper, all called
`f(model, images, targets=None, *, layers="auto", …)`; those of the input's pixels without `layers`."""

from .cam import cam
from .fusion_cam import fusion_cam
from .gig_cam import gig_cam
from .gig_cam_f import gig_cam_f
from .grad_cam import grad_cam
from .grad_cam_pp import grad_cam_pp
from .guided_ig import guided_ig
from .increment_cam import increment_cam
from .integrated_grad_cam import integrated_grad_cam
from .integrated_gradients import integrated_gradients
from .layer_cam import layer_cam
from .poly_cam import poly_cam
from .score_cam import score_cam
from .union_cam import union_cam

__all__ = [
    "cam",
    "fusion_cam",
    "gig_cam",
    "gig_cam_f",
    "grad_cam",
    "grad_cam_pp",
    "guided_ig",
    "increment_cam",
    "integrated_grad_cam",
    "integrated_gradients",
    "layer_cam",
    "poly_cam",
    "score_cam",
    "union_cam",
]
