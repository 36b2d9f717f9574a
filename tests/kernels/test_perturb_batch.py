"""perturb_batch: values are only copied, so results are compared exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cambook.kernels import perturb_batch
from cambook.kernels.perturb_batch import _operator, floor_bytes, launch, reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMATS = [torch.contiguous_format, torch.channels_last]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ranking(images, height, width, seed=2):
    return random(images, height * width, seed=seed).argsort(1).argsort(1).view(images, height, width)


def definition(images, baselines, ranks, counts, rows):
    pictures = images.double()[rows].clone()
    for n, (row, count) in enumerate(zip(rows.tolist(), counts.tolist(), strict=True)):
        for y, x in (ranks[row] < count).nonzero().tolist():
            pictures[n, :, y, x] = baselines.double().expand_as(images)[row, :, y, x]
    return pictures


def hold(run, images, baselines, ranks, counts, rows, device="cpu", dtype=torch.float32, layout=FORMATS[0]):
    """run(out, …) fills a poisoned buffer as the definition says, to the last bit."""
    want = definition(images, baselines, ranks, counts, rows).to(dtype)
    out = torch.full(want.shape, torch.nan, dtype=dtype, device=device).contiguous(memory_format=layout)
    run(out, *(t.to(device) for t in (images, baselines, ranks, counts, rows)))
    assert torch.equal(out.cpu().nan_to_num(7), want.nan_to_num(7))


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (37, 41)])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("images", [1, 3])
def test_kernel_is_the_definition(size, layout, images, device):
    """More pictures than a group, more values than a block, no pixel taken to all and more."""
    pixels = size[0] * size[1]
    counts = torch.tensor([0, 1, pixels // 2, pixels, pixels + 9] * 2)
    given_ = random(images, 3, *size), random(images, 3, *size, seed=1), ranking(images, *size)
    for run, where in ((launch, device), (reference, "cpu")):
        hold(run, *given_, counts, torch.arange(10) % images, where, layout=layout)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)),
    count=st.integers(0, 900),
    layout=st.sampled_from(FORMATS),
)
def test_kernel_is_the_definition_for_any_shape(shape, count, layout, device):
    counts, rows = torch.tensor([count, count // 2]), torch.tensor([1, 0])
    given_ = random(2, *shape), random(1, *shape, seed=1), ranking(2, *shape[1:])
    hold(launch, *given_, counts, rows, device, layout=layout)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", FORMATS)
def test_dtypes_and_layouts(dtype, layout, device):
    """Inputs of other dtypes and formats than the buffer, NaN among the values, int32 ranks."""
    images = random(2, 3, 11, 9).to(dtype)[..., 2:]
    images[0, 0, 3, 3] = torch.nan
    # Fits into each of the dtypes: Triton's interpreter cuts bfloat16 off where a GPU rounds to the nearest.
    baselines = random(1, 3, 11, 7, seed=1).bfloat16().float().to(memory_format=torch.channels_last)
    ranks = ranking(2, 7, 11).int().transpose(1, 2)
    counts, rows = torch.tensor([40, 3], dtype=torch.int32), torch.tensor([0, 1], dtype=torch.int32)
    for run, where in ((launch, device), (reference, "cpu")):
        hold(run, images, baselines, ranks, counts, rows, where, dtype, layout)


def test_by_hand():
    image, ranks = torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[2, 0, 1]]])
    counts, rows = torch.tensor([0, 1, 2, 3]), torch.zeros(4, dtype=torch.long)
    got = perturb_batch(image, -image, ranks, counts, rows)[:, 0, 0].tolist()
    assert got == [[1, 2, 3], [1, -2, 3], [1, -2, -3], [-1, -2, -3]]


@pytest.mark.parametrize("channels_last", [False, True])
def test_buffer(channels_last):
    images, ranks, rows = random(1, 3, 4, 5), ranking(1, 4, 5), torch.zeros(2, dtype=torch.long)
    counts = torch.tensor([3, 9])
    got = perturb_batch(
        images, -images, ranks, counts, rows, dtype=torch.float16, channels_last=channels_last
    )
    assert got.dtype == torch.float16 and got.is_contiguous(memory_format=FORMATS[channels_last])
    buffer = torch.full((4, 3, 4, 5), torch.nan).contiguous(memory_format=FORMATS[channels_last])
    with torch.inference_mode():
        filled = perturb_batch(images, -images, ranks, counts, rows, out=buffer[1:3])
    assert filled.data_ptr() == buffer[1].data_ptr() and torch.equal(filled.half(), got)
    assert buffer[[0, 3]].isnan().all()
    doubles = perturb_batch(images.double(), -images.double(), ranks, counts, rows)
    assert doubles.dtype == torch.float64 and torch.equal(doubles.half(), got)


def test_errors():
    right = {
        "images": random(2, 3, 4, 5), "baselines": random(1, 3, 4, 5), "ranks": ranking(2, 4, 5),
        "counts": torch.tensor([1, 2, 3]), "rows": torch.tensor([0, 1, 1]),
    }  # fmt: skip
    for error, message, change in (
        (ValueError, r"ranks must be \(B, H, W\) with H = 4", {"ranks": ranking(2, 5, 4)}),
        (ValueError, r"rows must be \(N\) with N = 3", {"rows": torch.tensor([0])}),
        (ValueError, "baselines must have the shape of the images", {"baselines": random(3, 3, 4, 5)}),
        (TypeError, "baselines must be a tensor, not float", {"baselines": 0.0}),
        (TypeError, "ranks must be int32 or int64, not torch.float32", {"ranks": torch.zeros(2, 4, 5)}),
        (TypeError, "counts must be int32 or int64, not torch.float32", {"counts": torch.zeros(3)}),
        (TypeError, "images must be floating point", {"images": torch.zeros(2, 3, 4, 5, dtype=torch.uint8)}),
        (ValueError, "no gradient, but images requires", {"images": random(2, 3, 4, 5).requires_grad_()}),
        (ValueError, "images is on cpu, but ranks on meta", {"ranks": ranking(2, 4, 5).to("meta")}),
        (IndexError, "rows must be 0 to 1, but hold 0 to 2", {"rows": torch.tensor([0, 1, 2])}),
    ):
        with pytest.raises(error, match=message):
            perturb_batch(**(right | change))


def test_operator_and_compile():
    images, ranks = random(2, 3, 4, 5), ranking(2, 4, 5)
    counts, rows = torch.tensor([1, 7, 9]), torch.tensor([0, 1, 1])
    torch.library.opcheck(_operator, (torch.empty(3, 3, 4, 5), images, images, ranks, counts, rows))

    def caller(images):
        return perturb_batch(images * 2, -images, ranks, counts, rows) + 1

    compiled = torch.compile(caller, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images), caller(images))


def test_floor():
    images, ranks, out = torch.empty(2, 3, 4, 5), torch.empty(2, 4, 5).int(), torch.empty(9, 3, 4, 5).half()
    assert floor_bytes(images, images[:1], ranks, out) == 4 * (120 + 60 + 40) + 2 * 540
