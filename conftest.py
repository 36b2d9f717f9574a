"""What all tests share: where the project is, what is skipped where, and how nbval compares.

This file is at the top and not in tests/, because the cells of notebooks/ are tests too.
"""

import os
from pathlib import Path

import pytest

# Two workers on two cores: each takes one thread, else they fight. The notebooks' kernels inherit this.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402 - after the number of threads is known

# Chunks of pictures come one after another then, as many tests watch them; test_threads.py asks for more.
torch.set_num_threads(1)

# Without a CUDA device the Triton kernels are tested in Triton's interpreter. That has to be chosen before
# cambook.kernels is imported. A child process inherits it and computes the same: on the CPU the operators
# take their references all the same.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent
REAL = ROOT.parent / "shared" / "real"


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real networks and pictures; for tests marked ``real``."""
    return REAL


def pytest_collection_modifyitems(items):
    """Skip with a reason what this machine cannot run."""
    no_pictures = pytest.mark.skip(reason="needs the real networks and pictures in ../shared/real")
    no_device = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("real") and not REAL.is_dir():
            item.add_marker(no_pictures)
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(no_device)


def pytest_collectstart(collector):
    """nbval: a library's new warning is no change of what a notebook says (unit tests are strict there)."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
