"""lnorm_step: the operator and its Triton kernel against bilinear interpolation written as two loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cambook.kernels import lnorm_step
from cambook.kernels.lnorm_step import _operator, floor_bytes, launch, reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def uniform(*shape, seed=0, dtype=torch.float32):
    """In [0.1, 1.1]: a map without zeros, for which no divisor is at the floor."""
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) + 0.1).to(dtype)


def hold(P, C, device, poisoned):
    """The kernel against the float64 reference, which sees the same rounded inputs.

    All terms are ≥ 0, so nothing cancels: some twenty float32 roundings of 2^-24 each, and a division that
    Triton may round by two units. 3e-6 of the value is above that.
    """
    want = reference(P.double(), C.double())
    with poisoned():
        got = launch(P.to(device), C.to(device)).cpu()
    assert got.shape == want.shape and got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=3e-6, atol=0, equal_nan=True)


SIZES = [
    ((1, 1), (1, 1)),
    ((4, 6), (8, 12)),    # VGG16: ratio 2 at every step
    ((7, 5), (7, 5)),    # ResNet-50's last two, by the official layer list: ratio 1
    ((3, 2), (12, 8)),    # ratio 4, of which D sees the central 2 x 2
    ((2, 5), (6, 15)),    # ratio 3, of which D sees the centre
    ((4, 3), (7, 13)),    # primes
    ((9, 11), (3, 4)),    # P finer than C
    ((70, 3), (5, 139)),    # several tiles
]


@pytest.mark.parametrize("small, large", SIZES)
def test_kernel_is_the_reference(small, large, device, poisoned):
    hold(uniform(3, *small), uniform(3, *large, seed=1), device, poisoned)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    small=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    large=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_kernel_for_any_shape(batch, small, large, device, poisoned):
    hold(uniform(batch, *small), uniform(batch, *large, seed=1), device, poisoned)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(dtype, device, poisoned):
    P = uniform(2, 5, 3, dtype=dtype).transpose(1, 2)
    C = uniform(2, 2, 12, 10, seed=1, dtype=dtype).to(memory_format=torch.channels_last)[:, 1, ::2]
    hold(P, C, device, poisoned)


@pytest.mark.parametrize("small", [(3, 4), (6, 8), (12, 16)])    # ratios 4, 2, 1: all weights exact
def test_kernel_with_zeros_and_nan(small, device, poisoned):
    """After a ReLU most of a map is zero, and ratio 4 then divides by the floor."""
    P, C = uniform(4, *small), uniform(4, 12, 16, seed=1)
    C[0] = 0
    C[1] = (C[1] - 0.8).relu()
    C[2, 5, 6] = torch.nan
    P[3] = 0
    hold(P, C, device, poisoned)


def test_a_weight_of_zero_is_zero(device, poisoned):
    """Ratio 7/3: the middle coarse pixel is the middle fine one, whose neighbours must not leak in.

    With weights that round, 1e8 times the last bit would be taken for the local mean instead of the floor.
    """
    C = torch.zeros(1, 1, 7)
    C[0, 0, 4] = 1e8
    with poisoned():
        got = launch(torch.ones(1, 1, 3, device=device), C.to(device)).cpu()
    assert got[0, 0, 4].item() == pytest.approx(1e8 / 1e-12, rel=1e-5)


def matrix(here, there):
    """(here, there): the weights of bilinear interpolation from `there` places, align_corners off."""
    weights = torch.zeros(here, there, dtype=torch.float64)
    for i in range(here):
        position = max((i + 0.5) * there / here - 0.5, 0)
        first = math.floor(position)
        weights[i, first] += 1 - (position - first)
        weights[i, min(first + 1, there - 1)] += position - first
    return weights


@pytest.mark.parametrize("small, large", SIZES)
def test_reference_is_the_formula(small, large):
    P, C = uniform(2, *small).double(), uniform(2, *large, seed=1).double()
    up = [matrix(a, b) for a, b in zip(large, small, strict=True)]
    down = [matrix(b, a) for a, b in zip(large, small, strict=True)]
    mean = up[0] @ (down[0] @ C @ down[1].T) @ up[1].T
    want = (up[0] @ P @ up[1].T) * C / mean.clamp(min=1e-12)
    torch.testing.assert_close(lnorm_step(P, C), want, rtol=1e-12, atol=0)


def test_ratio_2_divides_by_block_means():
    P, C = torch.ones(1, 3, 4), uniform(1, 6, 8)
    means = F.avg_pool2d(C[:, None], 2)
    mean = F.interpolate(means, (6, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(lnorm_step(P, C), C / mean)


def test_floor_is_not_added(device, poisoned):
    """For C just above it the result is 1, where C / (mean + 1e-12) would be 2/3."""
    P, C = torch.ones(1, 2, 2), torch.full((1, 4, 4), 2e-12)
    torch.testing.assert_close(lnorm_step(P, C), torch.ones(1, 4, 4))
    hold(P, C, device, poisoned)


def test_what_the_normalisation_promises():
    one = torch.ones(1, 4, 4)
    C = uniform(1, 8, 8)
    torch.testing.assert_close(lnorm_step(one, torch.full((1, 8, 8), 0.37)), torch.ones(1, 8, 8))
    torch.testing.assert_close(lnorm_step(one, C * 1e-3), lnorm_step(one, C))
    sparse = (uniform(1, 8, 8) - 0.6).relu()
    same = lnorm_step(torch.ones(1, 8, 8), sparse)
    torch.testing.assert_close(same, (sparse > 0).float())    # ratio 1: a 0/1 mask
    assert not lnorm_step(one, torch.zeros(1, 8, 8)).any()


@pytest.mark.parametrize("row, column, bound", [(3, 4, 64 / 9), (0, 4, 16 / 3), (7, 7, 4)])
def test_bound_at_ratio_2(row, column, bound):
    """A lone pixel is the extreme case: inside, at an edge, in a corner."""
    C = torch.zeros(1, 8, 8, dtype=torch.float64)
    C[0, row, column] = 0.7
    got = lnorm_step(torch.ones(1, 4, 4, dtype=torch.float64), C)
    assert got.max().item() == pytest.approx(bound)


def test_ratio_4_has_no_bound():
    C = torch.zeros(1, 8, 8)
    C[0, 0, 0] = 1    # outside the central 2 x 2 of its block, which is all that D sees
    assert lnorm_step(torch.ones(1, 2, 2), C).max() == pytest.approx(1e12)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_dtype_of_the_result(dtype):
    got = lnorm_step(uniform(1, 2, 2, dtype=dtype), uniform(1, 4, 4, dtype=dtype))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_errors():
    P, C = uniform(2, 3, 4), uniform(2, 6, 8)
    with pytest.raises(ValueError, match=r"C must be \(B, H, W\) with B = 1"):
        lnorm_step(P[:1], C)
    with pytest.raises(ValueError, match=r"P must be \(B, h, w\), but has shape"):
        lnorm_step(P[0], C)
    with pytest.raises(TypeError, match="P must be floating point, not torch.int64"):
        lnorm_step(P.long(), C)
    with pytest.raises(ValueError, match="P is on cpu, but C on meta"):
        lnorm_step(P, C.to("meta"))
    with pytest.raises(ValueError, match="has no gradient, but C requires one"):
        lnorm_step(P, C.requires_grad_())


def test_operator_and_compile():
    P, C = uniform(2, 3, 4), uniform(2, 6, 8)
    torch.library.opcheck(_operator, (P, C))

    def caller(P, C):
        return lnorm_step(P * 2, C) + 1

    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(P, C), caller(P, C))


def test_floor():
    assert floor_bytes(torch.empty(2, 3, 4), torch.empty(2, 6, 8)) == 4 * (2 * 12 + 2 * 2 * 48)
