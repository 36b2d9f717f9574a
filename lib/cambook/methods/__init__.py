"""The finished methods, one file a paper, all called
`f(model, images, targets=None, *, layers="auto", …)`."""

from .cam import cam
from .grad_cam import grad_cam
from .grad_cam_pp import grad_cam_pp
from .layer_cam import layer_cam
from .score_cam import score_cam

__all__ = ["cam", "grad_cam", "grad_cam_pp", "layer_cam", "score_cam"]
