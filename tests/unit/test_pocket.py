"""The pocket interpreter gives what Triton gives: each kernel runs in Triton's interpreter too."""

import math

import pytest
import torch

from cambook import pocket
from cambook.kernels import _frame
from cambook.pocket import tl, trace


@pytest.fixture(params=["Triton's interpreter", "pocket interpreter"])
def jit(request):
    if request.param == "pocket interpreter":
        return pocket.Kernel
    if not _frame.TRITON or torch.cuda.is_available():
        pytest.skip("needs Triton's interpreter")
    return pocket.jit


def divided(out, m, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, (i - 4) // 3)
    tl.store(out + BLOCK + i, (i - 4) % 3)
    tl.store(out + 2 * BLOCK, (m - 10) // 3)
    tl.store(out + 2 * BLOCK + 1, (m - 10) % 3)


def test_whole_numbers_are_divided_towards_zero(jit):
    out = torch.zeros(18, dtype=torch.long)
    jit(divided)[1,](out, 2, BLOCK=8)
    assert out.tolist() == [-1, -1, 0, 0, 0, 0, 0, 1] + [-1, 0, -2, -1, 0, 1, 2, 0] + [-2, -2]


def overflowing(out, m, BLOCK: tl.constexpr):
    tl.store(out + tl.arange(0, BLOCK), (tl.arange(0, BLOCK) + m) * 1000000000)
    tl.store(out + BLOCK, tl.program_id(0).to(tl.int64) * 3000000000)


def test_whole_numbers_end_at_32_bits(jit):
    out = torch.zeros(5, dtype=torch.long)
    jit(overflowing)[1,](out, 1, BLOCK=4)
    assert out.tolist() == [10**9, 2 * 10**9, 3 * 10**9 - 2**32, 4 * 10**9 - 2**32, 0]


def extremes(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0)
    tl.store(out + i, tl.maximum(value, 1e-12))
    tl.store(out + BLOCK + i, tl.minimum(value, 2))
    tl.store(out + 2 * BLOCK, tl.max(value, 0))
    tl.store(out + 2 * BLOCK + 1, tl.min(value, 0))
    tl.store(out + 2 * BLOCK + 2, tl.sum(i > 0, 0))


def test_extremes_prefer_a_number_to_nan(jit):
    out = torch.zeros(11)
    jit(extremes)[1,](torch.tensor([1, math.nan, -3, 7]), out, 3, BLOCK=4)
    expected = [1, 1e-12, 1e-12, 1e-12] + [1, 2, -3, 0] + [1, -3, 3]
    assert out.tolist() == pytest.approx(expected, rel=1e-6)


def growing(out, BLOCK: tl.constexpr):
    total = tl.zeros((BLOCK,), tl.float32)
    before = total
    total += 1
    i = tl.arange(0, BLOCK)
    i //= 2
    tl.store(out + tl.arange(0, BLOCK), before)
    tl.store(out + BLOCK + tl.arange(0, BLOCK), total + i)


def test_in_place_makes_a_new_block(jit):
    out = torch.full((8,), 9.0)
    jit(growing)[1,](out, BLOCK=4)
    assert out.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


NESTED = """
@jit
def half(value):
    return value / 2

@jit
def quarter(value):
    return half(half(value))

@jit
def kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, quarter(tl.load(x + i)))
"""


def kernels(source, jit):
    names = {"tl": tl, "jit": jit}
    exec(source, names)
    return names


def test_a_kernel_calls_a_kernel(jit):
    kernel, out = kernels(NESTED, jit)["kernel"], torch.zeros(4)
    kernel[1,](torch.arange(4.0), out, BLOCK=4)
    assert out.tolist() == [0, 0.25, 0.5, 0.75]
    assert trace(kernel, (1,), torch.arange(4.0), out, BLOCK=4).distinct() == 2 * 4 * 4


def test_the_grid_is_a_tuple(jit):
    kernel, out = jit(growing), torch.zeros(8)
    with pytest.raises(TypeError):
        kernel[1](out, BLOCK=4)


def test_a_grid_may_be_a_function_of_the_arguments(jit):
    out = torch.zeros(8)
    jit(growing)[lambda arguments: (arguments["BLOCK"] // 4,)](out, BLOCK=4)
    assert out[4:].tolist() == [1, 1, 2, 2]


def peeping(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n))


def test_a_load_behind_its_mask_is_rubbish():
    out = torch.zeros(4)
    pocket.Kernel(peeping)[1,](torch.ones(4), out, 3, BLOCK=4)
    assert out[:3].tolist() == [1, 1, 1] and out[3].isnan()
    out = torch.zeros(4, dtype=torch.int16)
    pocket.Kernel(peeping)[1,](torch.ones(4, dtype=torch.int16), out, 3, BLOCK=4)
    assert out.tolist() == [1, 1, 1, 2**15 - 1]


def unknown(out):
    tl.store(out, tl.dot(out, out))


def far(out, BLOCK: tl.constexpr):
    tl.store(out + 4 * tl.program_id(0) + tl.arange(0, BLOCK), 1)


def of_a_number(x, out, n):
    tl.store(out + tl.arange(0, n), tl.load(x + 0.5))


@pytest.mark.parametrize("kernel, arguments, error, words", [
    (unknown, (torch.zeros(4),), AttributeError, r"does not know tl\.dot"),
    (far, (torch.zeros(8)[:6], 4), IndexError, r"program 1 would write place 6 .* are 0 to 5"),
    (far, (torch.zeros(8), 3), ValueError, r"power of 2.*it is 3"),
    (of_a_number, (torch.zeros(8), torch.zeros(8), 4), ValueError, r"tl\.constexpr"),
])  # fmt: skip
def test_what_goes_wrong_is_said_in_a_sentence(kernel, arguments, error, words):
    with pytest.raises(error, match=words):
        trace(pocket.Kernel(kernel), (2,), *arguments)


def test_a_launch_may_write_where_a_trace_may_not():
    memory = torch.zeros(8)
    pocket.Kernel(far)[2,](memory[:6], BLOCK=4)
    assert memory.tolist() == [1] * 8


def test_a_trace_knows_who_touched_what():
    seen = trace(pocket.Kernel(far), (2,), torch.zeros(8), BLOCK=8 // 2)
    assert seen.places("out", "write", 1).tolist() == [4, 5, 6, 7] and len(seen.places("out", "read")) == 0
    assert seen.collisions("out").tolist() == []
    overlapping = trace(pocket.Kernel(far), (2,), torch.zeros(12), BLOCK=8)
    assert overlapping.collisions("out").tolist() == [4, 5, 6, 7]
    assert (overlapping.requested(), overlapping.distinct()) == (64, 48)


def test_watching_sees_every_launch_and_puts_the_kernels_back(jit):
    names = kernels(NESTED, jit)
    exec("def launch(x, out):\n    kernel[1,](x, out, BLOCK=4)\n    return out", names)
    before, x, out = dict(names), torch.arange(4.0), torch.zeros(4)
    with pocket.watching(names) as seen:
        assert names["launch"](x, out).tolist() == [0, 0.25, 0.5, 0.75]
    assert [(a.kind, a.tensor is x, a.tensor is out) for a in seen] == [
        ("read", True, False), ("write", False, True)
    ]  # fmt: skip
    with pytest.raises(IndexError, match="place 3 of out"), pocket.watching(names):
        names["launch"](x, out[:3])
    assert names == before
