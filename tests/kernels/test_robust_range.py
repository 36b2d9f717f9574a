"""robust_range: the operator and its Triton kernel against numpy's percentiles in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambook.kernels import robust_range
from cambook.kernels.robust_range import _operator, floor_bytes, launch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
POLY_CAM = (0.1, 99.9)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def numpys(maps, percentages):
    flat = maps.double().numpy().reshape(len(maps), -1)
    return torch.from_numpy(np.percentile(flat, percentages, axis=1))


def hold(got, maps, percentages=POLY_CAM, atol=3e-7):
    """Both percentiles against numpy's.

    The order statistics are exact, in whichever dtype they came: only the interpolation between two of them
    rounds, in float32 three times at most by 2^-24 of the larger one. 3e-7 of it is above that.
    """
    want = numpys(maps, percentages)
    got = torch.stack(got).cpu()
    assert got.dtype == (torch.float64 if maps.dtype == torch.float64 else torch.float32)
    size = maps.double().nan_to_num(0).abs().amax((1, 2))
    assert torch.equal(got.isnan(), want.isnan())
    error = (got - want).nan_to_num(0).abs()
    assert (error <= atol * size).all(), f"{got} is not {want}"


def run(maps, device, poisoned, percentages=POLY_CAM):
    with poisoned():
        return launch(maps.to(device), *percentages)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 2), (1, 31, 37)])
def test_kernel_is_numpys_percentile(shape, device, poisoned):
    maps = random(*shape)
    hold(run(maps, device, poisoned), maps)


@pytest.mark.parametrize("shape", [(1, 5, 7), (2, 13, 16)])
def test_maps_that_do_not_fit_in_registers(shape, device, poisoned, monkeypatch):
    """The second way through the kernel, with limits so low that small maps take it."""
    monkeypatch.setitem(launch.__globals__, "RESIDENT", 16)
    monkeypatch.setitem(launch.__globals__, "PIECE", 64)
    maps = random(*shape)
    maps[0, 0, 0] = -7    # in the first piece; the largest in the last
    maps[0, -1, -1] = 7
    hold(run(maps, device, poisoned), maps)
    maps[-1, -1, 0] = torch.nan
    hold(run(maps, device, poisoned), maps)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20)),
    percentages=st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted),
)
def test_kernel_for_any_shape_and_percentages(shape, percentages, device, poisoned):
    maps = random(*shape).round(decimals=1)    # with ties
    hold(run(maps, device, poisoned, percentages), maps, percentages)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_layouts(dtype, device, poisoned):
    maps = random(2, 2, 6, 10, dtype=dtype).to(memory_format=torch.channels_last)[:, :, 1:, ::2]
    hold(run(maps.flatten(0, 1).transpose(1, 2), device, poisoned), maps.flatten(0, 1))


def awkward():
    """Constant, zero, nearly zero and negative maps, both signs of NaN, -0, very small numbers."""
    maps = random(8, 4, 9)
    maps[0] = 0.3
    maps[1] = 0
    maps[2] = 0
    maps[2, 3, 8] = 5
    maps[3] = -maps[3].abs() - 1
    maps[4, 0, 0] = torch.nan
    maps[5, 2, 2] = -torch.tensor(torch.nan)
    maps[6] = 0
    maps[6, ::2] = -0.0
    maps[7] *= 1e-36
    return maps


def test_awkward_maps(device, poisoned):
    hold(run(awkward(), device, poisoned), awkward())


def test_infinity_is_larger_than_all_numbers(device, poisoned):
    maps = random(1, 5, 5)
    maps[0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    got = run(maps, device, poisoned, (25, 75))    # ranks 6 and 18 exactly, so that no infinity is mixed in
    assert torch.equal(torch.stack(got).double().cpu(), numpys(maps, (25, 75)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    percentages=st.tuples(st.floats(0, 100), st.floats(0, 100)).map(sorted),
    dtype=st.sampled_from([*DTYPES, torch.float64]),
)
def test_operator_is_numpys_percentile(shape, percentages, dtype):
    maps = random(*shape, dtype=dtype)
    hold(robust_range(maps, *percentages), maps, percentages, atol=1e-15 if dtype == torch.float64 else 3e-7)


def test_operator_on_awkward_maps():
    hold(robust_range(awkward()), awkward())
    hold(robust_range(awkward().double()), awkward().double(), atol=1e-15)


def test_both_ends_are_minimum_and_maximum():
    maps = random(3, 7, 5)
    low, high = robust_range(maps, 0, 100)
    assert torch.equal(low, maps.amin((1, 2))) and torch.equal(high, maps.amax((1, 2)))


def test_errors():
    maps = random(2, 3, 4)
    with pytest.raises(ValueError, match=r"maps must be \(N, h, w\), but has shape"):
        robust_range(maps[0])
    with pytest.raises(TypeError, match="maps must be floating point, not torch.int64"):
        robust_range(maps.long())
    for low, high in [(-1, 50), (50, 101), (60, 40), (float("nan"), 50)]:
        with pytest.raises(ValueError, match="percentages 0 ≤ low ≤ high ≤ 100 are needed, not"):
            robust_range(maps, low, high)
    with pytest.raises(ValueError, match="has no gradient, but maps requires one"):
        robust_range(maps.requires_grad_())


def test_operator_and_compile():
    maps = random(2, 3, 4)
    torch.library.opcheck(_operator, (maps, 0.1, 99.9))

    def caller(maps):
        low, high = robust_range(maps * 2, 10, 90)
        return high - low

    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(maps), caller(maps))


def test_floor():
    assert floor_bytes(torch.empty(2, 3, 4)) == 4 * (2 * 12 + 2 * 2)
