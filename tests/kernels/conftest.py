"""What the kernel tests share. TRITON_INTERPRET is set in the conftest.py at the top, before any import."""

import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from cambook.kernels import _frame


@pytest.fixture(scope="session", params=["interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request) -> str:
    """Where a kernel's `launch` runs: "cpu" in Triton's interpreter, or "cuda"."""
    if request.param == "cuda":
        return "cuda"
    if not _frame.TRITON or os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("needs Triton's interpreter: Triton installed, and no CUDA device")
    return "cpu"


@pytest.fixture(scope="session")
def poisoned():
    """with poisoned(): what torch hands out uninitialised is full of NaN (integers: of their maximum).

    The interpreter computes with NumPy, which warns of NaN and infinity where a GPU says nothing.
    """

    @contextmanager
    def fill():
        torch.use_deterministic_algorithms(True)    # which also fills, torch.utils.deterministic
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            torch.use_deterministic_algorithms(False)

    return fill
