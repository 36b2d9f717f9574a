"""Small GPU kernels, one file each: the formula, a plain reference for any device, and a Triton kernel.

Each is a torch custom operator "cambook::NAME": on CUDA it runs the Triton kernel, anywhere else the
reference. `torch.compile` takes a caller whole. None has a gradient.
"""

from .lnorm_step import lnorm_step
from .masked_batch import masked_batch
from .path_step import path_step
from .perturb_batch import perturb_batch
from .robust_range import robust_range
from .weighted_sum import weighted_sum

__all__ = [
    "lnorm_step",
    "masked_batch",
    "path_step",
    "perturb_batch",
    "robust_range",
    "weighted_sum",
]
