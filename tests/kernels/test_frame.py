"""The frame: where Triton is imported, and what is registered."""

import os
import subprocess
import sys

import torch

from cambook import kernels


def test_triton_stays_away_where_it_cannot_run():
    """A reader without a GPU pays neither for Triton nor for torch's compiler, and the kernels compute."""
    code = """
import sys, torch
from cambook import kernels
kernels.weighted_sum(torch.ones(1, 2), torch.ones(1, 2, 3, 3))
kernels.masked_batch(torch.ones(1, 3, 4, 4), torch.ones(1, 2, 2), torch.tensor([0]))
print(sorted({"triton", "torch._dynamo"} & set(sys.modules)))
"""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_operators_are_registered_under_the_name_of_the_book():
    for name in kernels.__all__:
        assert isinstance(getattr(torch.ops.cambook, name).default, torch._ops.OpOverload)
        assert callable(getattr(kernels, name))
