"""Small GPU kernels, one file each: the formula, a plain reference for any device, and a Triton kernel.

Each is a torch custom operator "cambook::NAME": on CUDA it runs the Triton kernel, anywhere else the
reference. `torch.compile` takes a caller whole. None has a gradient.
"""

from .lnorm_step import lnorm_step
from .path_step import path_step
from .robust_range import robust_range

__all__ = ["lnorm_step", "path_step", "robust_range"]
