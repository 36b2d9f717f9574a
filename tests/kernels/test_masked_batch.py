"""masked_batch: the operator and its Triton kernels, both against the definition in float64."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cambook.kernels import masked_batch
from cambook.kernels.masked_batch import ORDERS, _ends, _operator, floor_bytes, launch, reference

WAYS = list(itertools.product(ORDERS, [False, True]))    # order, align_corners
FORMATS = [torch.contiguous_format, torch.channels_last]
# What a buffer can be wrong by at most, for pictures of the size of 4: float32 has 24 bits, and
# interpolation, subtraction and division lose a few; the narrow ones round once, by the last of their 8 or 11
# bits and not by half of it, since Triton's interpreter cuts off where a GPU rounds to the nearest.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4 * 2**-8, torch.float16: 4 * 2**-11}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).clamp(-4, 4)


def definition(images, maps, rows, low, high, order, align_corners, complement, baseline):
    """Large masks, all at once, in float64, straight from the formula."""
    images, maps = images.double(), maps.double()

    def enlarge(values):
        size = images.shape[-2:]
        return F.interpolate(values[:, None], size, mode="bilinear", align_corners=align_corners)[:, 0]

    def normalise(values):
        if low is None:
            least, most = values.amin((1, 2)), values.amax((1, 2))
        else:
            least, most = low.double(), high.double()
        least, most = least[:, None, None], most[:, None, None]
        scaled = torch.where(least == most, 0, (values - least) / (most - least))
        return scaled if low is None else scaled.clamp(0, 1)

    masks = normalise(enlarge(maps)) if order == ORDERS[0] else enlarge(normalise(maps))
    masks = torch.where((maps.amin((1, 2)) == maps.amax((1, 2)))[:, None, None], 0, masks)
    masks = torch.where(maps.isfinite().all(2).all(1)[:, None, None], masks, torch.nan)
    masks = (1 - masks if complement else masks)[:, None]
    pictures = images[rows] * masks
    if baseline is not None:
        pictures = pictures + baseline.double().expand_as(images)[rows] * (1 - masks)
    return pictures


def hold(run, images, maps, rows, device="cpu", dtype=torch.float32, layout=FORMATS[0], **options):
    """run(out, …) fills a poisoned buffer as the definition says."""
    options = {
        "low": None, "high": None, "order": ORDERS[0], "align_corners": False, "complement": False,
        "baseline": None,
    } | options  # fmt: skip
    want = definition(images, maps, rows, **options)
    out = torch.full(want.shape, torch.nan, dtype=dtype, device=device).contiguous(memory_format=layout)
    tensors = [t.to(device) if isinstance(t, torch.Tensor) else t for t in options.values()]
    run(out, images.to(device), maps.to(device), rows.to(device), *tensors)
    got = out.cpu().double()
    assert torch.equal(got.isnan(), want.isnan())
    error = (got - want).nan_to_num(0).abs().max().item()
    assert error <= TOLERANCE[dtype], f"{error:.1e}"


def on(poisoned):
    """`launch`, with the buffers that it takes for itself poisoned too."""

    def run(*arguments):
        with poisoned():
            launch(*arguments)

    return run


# (H, W), (h, w): one pixel, primes, more than one block of pixels, a map as large and larger than the image
SIZES = [
    ((1, 1), (1, 1)), ((13, 7), (5, 3)), ((37, 41), (7, 7)), ((8, 6), (8, 6)), ((5, 6), (11, 17)),
    ((1, 9), (3, 1)),
]  # fmt: skip


@pytest.mark.parametrize("size, small", SIZES)
@pytest.mark.parametrize("order, align_corners", WAYS)
def test_kernel_is_the_definition(size, small, order, align_corners, device, poisoned):
    images, maps = random(2, 3, *size), random(3, *small, seed=1)
    rows, layout = torch.tensor([1, 0, 1]), FORMATS[align_corners]
    hold(on(poisoned), images, maps, rows, device, layout=layout, order=order, align_corners=align_corners)


@pytest.mark.parametrize("size, small", SIZES)
@pytest.mark.parametrize("order, align_corners", WAYS)
@pytest.mark.parametrize("layout", FORMATS)
def test_reference_is_the_definition(size, small, order, align_corners, layout):
    images, maps, rows = random(2, 3, *size), random(3, *small, seed=1), torch.tensor([1, 0, 1])
    for complement, baseline in itertools.product([False, True], [None, random(2, 3, *size, seed=2)]):
        options = {"complement": complement, "baseline": baseline}
        hold(
            reference, images, maps, rows, layout=layout, order=order, align_corners=align_corners, **options
        )


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    small=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    channels=st.integers(1, 4),
    align_corners=st.booleans(),
    layout=st.sampled_from(FORMATS),
)
def test_kernel_is_the_definition_for_any_shape(
    size, small, channels, align_corners, layout, device, poisoned
):
    images, maps = random(1, channels, *size), random(2, *small, seed=1)
    hold(
        on(poisoned), images, maps, torch.tensor([0, 0]), device, layout=layout, align_corners=align_corners
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("one", [True, False])
def test_dtypes_layouts_and_baselines(dtype, layout, one, device, poisoned):
    """More pictures than a group, inputs that are not contiguous, a baseline for all or for each."""
    images = random(3, 3, 11, 9).to(dtype)[..., 2:]
    maps = random(10, 4, 3, seed=1).to(dtype).transpose(1, 2)
    baseline = random(1 if one else 3, 3, 11, 7, seed=2).to(memory_format=torch.channels_last)
    rows = torch.arange(10) % 3
    for run, where in ((on(poisoned), device), (reference, "cpu")):
        hold(run, images, maps, rows, where, dtype, layout, baseline=baseline, complement=one)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("complement", [False, True])
def test_given_limits_clip(order, complement, device, poisoned):
    """At the percentiles both ends are cut; before enlarging or after it makes a difference."""
    images, maps = random(1, 3, 19, 23), random(4, 5, 6, seed=1)
    low, high = maps.flatten(1).quantile(0.2, 1), maps.flatten(1).quantile(0.7, 1)
    rows = torch.zeros(4, dtype=torch.int32)
    for run, where in ((on(poisoned), device), (reference, "cpu")):
        hold(run, images, maps, rows, where, low=low, high=high, order=order, complement=complement)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("limits", [False, True])
def test_constant_zero_and_broken_maps(order, complement, limits, device, poisoned):
    images, maps = random(1, 3, 9, 8), random(5, 3, 3, seed=1)
    maps[0], maps[1], maps[2, 0, 0], maps[3, 2, 1] = 0.1, 0, torch.nan, -torch.inf
    options = {"order": order, "complement": complement}
    if limits:
        low = torch.tensor([0.1, 0, -1, -1, -1])
        options |= {"low": low, "high": torch.tensor([0.1, 0, 1, 1, 1])}
    for run, where in ((on(poisoned), device), (reference, "cpu")):
        hold(run, images, maps, torch.zeros(5, dtype=torch.long), where, **options)


@pytest.mark.parametrize("small, size", [((5, 3), (13, 7)), ((7, 7), (37, 41))])
@pytest.mark.parametrize("align_corners", [False, True])
def test_constant_maps_have_the_mask_zero_exactly(small, size, align_corners, device, poisoned):
    """Enlarging a constant rounds, for some of these at least, and min-max would stretch that to noise."""
    maps = (torch.arange(1, 60) / 59)[:, None, None].expand(-1, *small)
    images, rows = torch.ones(1, 1, *size), torch.zeros(59, dtype=torch.long)
    for run, where in ((on(poisoned), device), (reference, "cpu")):
        out = torch.full((59, 1, *size), torch.nan, device=where)
        tensors = [t.to(where) for t in (images, maps, rows)]
        run(out, *tensors, None, None, ORDERS[0], align_corners, False, None)
        assert torch.equal(out.cpu(), torch.zeros(59, 1, *size))


def test_by_hand():
    """One row, doubled: U of (0, 4) is 0, 1, 3, 4, and its mask 0, 1/4, 3/4, 1."""
    image, maps, rows = torch.full((1, 1, 1, 4), 8.0), torch.tensor([[[0.0, 4.0]]]), torch.tensor([0])
    assert masked_batch(image, maps, rows).flatten().tolist() == [0, 2, 6, 8]
    assert masked_batch(image, maps, rows, complement=True).flatten().tolist() == [8, 6, 2, 0]
    limits = {"low": torch.tensor([1.0]), "high": torch.tensor([3.0])}
    assert masked_batch(image, maps, rows, **limits).flatten().tolist() == [0, 0, 8, 8]
    assert masked_batch(image, maps, rows, baseline=image / 2).flatten().tolist() == [4, 5, 7, 8]


def test_orders_differ_where_enlarging_cuts_off_extremes():
    """The peak in the middle of three is not seen by two pixels, so only one order stretches to 1."""
    image, maps, rows = torch.ones(1, 1, 1, 2), torch.tensor([[[0.0, 4.0, 2.0]]]), torch.tensor([0])
    assert masked_batch(image, maps, rows).flatten().tolist() == [0, 1]
    assert masked_batch(image, maps, rows, order=ORDERS[1]).flatten().tolist() == [0.25, 0.625]


def test_poly_cam_by_its_limits():
    """clip((A - lo)/max(hi, 1e-12), 0, 1), also for a map that is all zero or all negative."""
    positive = random(4, 5).abs()
    maps = torch.stack([positive + 5, random(4, 5, seed=1), torch.zeros(4, 5), -1 - positive])
    low, hi = (maps.flatten(1).quantile(q, 1) for q in (0.001, 0.999))
    divisor = hi.clamp(min=1e-12)
    high = torch.maximum(low + divisor, torch.nextafter(low, torch.tensor(torch.inf)))
    got = masked_batch(
        torch.ones(1, 1, 4, 5), maps, torch.zeros(4, dtype=torch.long), low=low, high=high, order=ORDERS[1]
    )
    want = ((maps - low[:, None, None]) / divisor[:, None, None]).clamp(0, 1)
    torch.testing.assert_close(got[:, 0], want, atol=1e-5, rtol=0)
    assert set(got[3].flatten().tolist()) == {0, 1}


def test_ends_hold_the_extremes():
    """What `low` and `high` rest on, for every size: all other places lie between these."""
    for size, larger, align_corners in itertools.product(range(1, 10), range(1, 24), [False, True]):
        maps = random(4, 1, size).double()
        seen = F.interpolate(maps, larger, mode="linear", align_corners=align_corners)
        ends = seen[..., _ends(size, larger, align_corners)]
        for extreme in (torch.amin, torch.amax):
            torch.testing.assert_close(extreme(ends, 2), extreme(seen, 2), atol=1e-12, rtol=0)
        assert ends.shape[2] <= 2 * size


@pytest.mark.parametrize("channels_last", [False, True])
def test_buffer(channels_last):
    images, maps, rows = random(1, 3, 6, 5), random(4, 2, 2), torch.zeros(4, dtype=torch.long)
    got = masked_batch(images, maps, rows, dtype=torch.bfloat16, channels_last=channels_last)
    assert got.dtype == torch.bfloat16 and got.is_contiguous(memory_format=FORMATS[channels_last])
    buffer = torch.full((9, 3, 6, 5), torch.nan).contiguous(memory_format=FORMATS[channels_last])
    with torch.inference_mode():
        filled = masked_batch(images, maps, rows, out=buffer[2:6])
    assert filled.data_ptr() == buffer[2].data_ptr() and torch.equal(filled.bfloat16(), got)
    assert buffer[:2].isnan().all() and buffer[6:].isnan().all()
    assert masked_batch(images.double(), maps, rows).dtype == torch.float64


def test_errors():
    images, maps, rows = random(2, 3, 6, 5), random(4, 2, 2), torch.tensor([0, 1, 1, 0])
    for message, change in {
        "the order is one of upsample_normalise, normalise_upsample, not 'up'": {"order": "up"},
        "low and high belong together": {"low": maps[:, 0, 0]},
        r"rows must be \(N\) with N = 4": {"rows": rows[:3]},
        r"maps must be \(N, h, w\), but has shape \(1, 4, 2, 2\)": {"maps": maps[None]},
        r"baseline must have the shape of the images, \(2, 3, 6, 5\), or 1": {"baseline": random(2, 3, 5, 5)},
        "dtype and channels_last describe": {"out": torch.empty(4, 3, 6, 5), "dtype": torch.half},
        r"out must have shape \(4, 3, 6, 5\), not \(3, 3, 6, 5\)": {"out": torch.empty(3, 3, 6, 5)},
        "out must be contiguous": {"out": torch.empty(4, 3, 6, 10)[..., ::2]},
        "masked_batch has no gradient, but images requires one": {"images": images.clone().requires_grad_()},
        "images is on cpu, but out on meta": {"out": torch.empty(4, 3, 6, 5, device="meta")},
    }.items():
        with pytest.raises(ValueError, match=message):
            masked_batch(**({"images": images, "maps": maps, "rows": rows} | change))
    for message, change in {
        "rows must be int32 or int64, not torch.float32": {"rows": rows.float()},
        "maps must be floating point, not torch.int64": {"maps": maps.long()},
        "out must be floating point, not torch.int32": {"dtype": torch.int32},
    }.items():
        with pytest.raises(TypeError, match=message):
            masked_batch(**({"images": images, "maps": maps, "rows": rows} | change))
    with pytest.raises(IndexError, match="rows must be 0 to 1, but hold -1 to 1"):
        masked_batch(images, maps, rows - (rows == 0).int())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile(backend):
    images, maps, rows = random(2, 3, 6, 5), random(4, 2, 2), torch.tensor([0, 1, 1, 0])

    def caller(images, maps, rows):
        return masked_batch(images * 2, maps, rows, channels_last=True) + 1

    compiled = torch.compile(caller, fullgraph=True, backend=backend)
    assert torch.equal(compiled(images, maps, rows), caller(images, maps, rows))


def test_operator():
    images, maps, rows = random(2, 3, 6, 5), random(4, 2, 2), torch.tensor([0, 1, 1, 0])
    limits = maps[:, 0, 0], maps[:, 0, 0] + 1
    for low, high, baseline in ((None, None, None), (*limits, images)):
        out = torch.empty(4, 3, 6, 5)
        torch.library.opcheck(
            _operator, (out, images, maps, rows, low, high, ORDERS[0], False, True, baseline)
        )


def test_floor():
    images, maps, out = torch.empty(1, 3, 6, 5), torch.empty(4, 2, 2), torch.empty(4, 3, 6, 5).half()
    assert floor_bytes(images, maps, out) == 4 * (90 + 16) + 2 * 360
    assert floor_bytes(images, maps, out, images) == 4 * (90 + 16 + 90) + 2 * 360
