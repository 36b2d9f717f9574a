"""weighted_sum: the operator, and its Triton kernel against the reference in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambook.kernels import weighted_sum
from cambook.kernels.weighted_sum import _operator, floor_bytes, launch, reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def hold(weights, maps, device, poisoned, relu=False, normalise=False):
    """The kernel's result against the float64 reference, which sees the same rounded inputs.

    The kernel multiplies and adds in float32 whatever the inputs are: K products, each rounded to 2^-24 of
    itself and added with an error of 2^-24 of the sum so far. 1e-6 of Σ|w||A| is far above that for these K.
    """
    want = reference(weights.double(), maps.double(), relu, normalise)
    size = reference(weights.double().abs(), maps.double().abs(), False, False).nan_to_num(0).amax((1, 2))
    if normalise:
        raw = reference(weights.double(), maps.double(), relu, False)
        size = size.clamp(max=1e30) / (raw.amax((1, 2)) - raw.amin((1, 2))).nan_to_num(1, posinf=1)
        size = size.nan_to_num(0, posinf=0)    # no range: 0 exactly
    with poisoned():
        got = launch(weights.to(device), maps.to(device), relu, normalise).cpu()
    assert got.shape == want.shape and got.dtype == torch.float32
    assert torch.equal(got.isnan(), want.isnan())
    error = (got - want).nan_to_num(0).abs().amax((1, 2))
    assert (error <= 1e-6 * size + 1e-30).all(), f"{error} against {size}"


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 5), (1, 131, 3, 4), (3, 67, 17, 19)])
@pytest.mark.parametrize("relu, normalise", [(False, False), (True, False), (False, True), (True, True)])
def test_kernel_is_the_reference(shape, relu, normalise, device, poisoned):
    """Primes, H != W, several blocks of pixels, channels split into parts, K that fills no block."""
    hold(random(*shape[:2]), random(*shape, seed=1) + 0.2, device, poisoned, relu, normalise)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 20), st.integers(1, 20)),
    relu=st.booleans(),
)
def test_kernel_is_the_reference_for_any_shape(shape, relu, device, poisoned):
    hold(random(*shape[:2]), random(*shape, seed=1), device, poisoned, relu)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["channels_last", "cut", "transposed", "expanded"])
def test_dtypes_and_layouts(dtype, layout, device, poisoned):
    maps = random(2, 37, 6, 10, seed=1, dtype=dtype)
    maps = {
        "channels_last": maps.to(memory_format=torch.channels_last),
        "cut": maps[:, :, 1:, 2:],
        "transposed": maps.transpose(2, 3),
        "expanded": maps[:1].expand(2, -1, -1, -1),
    }[layout]
    hold(random(37, 2, dtype=dtype).T, maps, device, poisoned, normalise=True)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_nan_constant_and_zero_maps(relu, normalise, device, poisoned):
    maps = random(4, 70, 5, 5, seed=1)
    maps[0, 60, 2, 3] = float("nan")    # one pixel, or with min-max the whole image 0, and no other image
    maps[1] = 0
    maps[2] = maps[2, :, :1, :1]
    maps[3, 1, 0, 0] = float("inf")
    weights = random(4, 70)
    weights[2], maps[2] = 1, 0.25    # exact in any order
    hold(weights, maps, device, poisoned, relu, normalise)


def test_against_a_loop():
    weights, maps = random(2, 3), random(2, 3, 4, 5, seed=1)
    for b, got in enumerate(weighted_sum(weights, maps)):
        torch.testing.assert_close(got, sum(w * a for w, a in zip(weights[b], maps[b], strict=True)))
    got = weighted_sum(weights, maps, relu=True, normalise=True)
    assert (got.amin((1, 2)) == 0).all() and (got.amax((1, 2)) == 1).all()
    assert weighted_sum(weights, -weights[..., None, None] * maps.abs(), relu=True).max() == 0


def test_constant_result_becomes_zero():
    ones = torch.ones(1, 2, 3, 3)
    assert torch.equal(weighted_sum(torch.ones(1, 2), ones, normalise=True), torch.zeros(1, 3, 3))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_dtype_of_the_result(dtype):
    got = weighted_sum(random(1, 2).to(dtype), random(1, 2, 3, 3).to(dtype))
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_errors():
    weights, maps = random(2, 3), random(2, 3, 4, 5)
    with pytest.raises(ValueError, match=r"maps must be \(B, K, h, w\) with K = 4"):
        weighted_sum(random(2, 4), maps)
    with pytest.raises(ValueError, match=r"weights must be \(B, K\), but has shape"):
        weighted_sum(weights[0], maps)
    with pytest.raises(TypeError, match=r"maps must be floating point, not torch.int64"):
        weighted_sum(weights, maps.long())
    with pytest.raises(TypeError, match="weights must be a tensor, not list"):
        weighted_sum([1.0], maps)
    with pytest.raises(ValueError, match="maps is empty"):
        weighted_sum(weights, maps[..., :0])
    with pytest.raises(ValueError, match="weights is on meta, but maps on cpu"):
        weighted_sum(weights.to("meta"), maps)
    with pytest.raises(ValueError, match=r"no gradient, but weights requires one: pass weights.detach\(\)"):
        weighted_sum(weights.requires_grad_(), maps)
    with torch.no_grad():
        weighted_sum(weights, maps)


def test_operator_and_compile():
    weights, maps = random(2, 3), random(2, 3, 4, 5)
    torch.library.opcheck(_operator, (weights, maps, True, True))

    def caller(weights, maps):
        return weighted_sum(weights * 2, maps, relu=True) + 1

    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(weights, maps), caller(weights, maps))


def test_floor():
    assert floor_bytes(torch.empty(2, 3), torch.empty(2, 3, 4, 5)) == 4 * (2 * 3 + 2 * 3 * 20 + 2 * 20)
