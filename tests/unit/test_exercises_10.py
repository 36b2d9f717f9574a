"""The checker of notebook 10's exercises accepts right kernels and names what is wrong with the usual wrong ones.

Each kernel is tried in Triton's interpreter, where Triton is installed, and in the pocket interpreter.
"""

import pytest

from cambook import pocket
from cambook.check import check_exercise
from cambook.kernels import _frame

AXPY = """
@jit
def kernel(x, y, out, a, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(out + i, a * tl.load(x + i, mask=inside) + tl.load(y + i, mask=inside), mask=inside)

def answer(a, x, y, out):
    kernel[triton.cdiv(len(x), 256),](x, y, out, a, len(x), BLOCK=256)
    return out
"""
TRANSPOSED = """
@jit
def kernel(x, out, H, W, x_row, x_column, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (i < H)[:, None] & (j < W)[None, :]
    tile = tl.load(x + (i * x_row)[:, None] + (j * x_column)[None, :], mask=inside)
    tl.store(out + j[None, :] * H + i[:, None], tile, mask=inside)

def answer(x, out):
    H, W = x.shape
    kernel[triton.cdiv(H, 16), triton.cdiv(W, 16)](x, out, H, W, x.stride(0), x.stride(1), BLOCK=16)
    return out
"""
MEANS = """
@jit
def kernel(A, out, n, BLOCK: tl.constexpr):
    k = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(A + k * n + i, mask=i < n, other=0).to(tl.float32)
    tl.store(out + k, tl.sum(total, 0) / n)

def answer(A, out):
    kernel[len(A),](A, out, A.shape[1], BLOCK=256)
    return out
"""
# Several programs a map: the sum of each block goes to the map's one place.
SHARED = """
@jit
def kernel(A, out, n, BLOCK: tl.constexpr):
    k = tl.program_id(0)
    i = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    part = tl.sum(tl.load(A + k * n + i, mask=i < n, other=0).to(tl.float32), 0) / n
    tl.atomic_add(out + k, part)

def answer(A, out):
    out.zero_()
    kernel[len(A), triton.cdiv(A.shape[1], 256)](A, out, A.shape[1], BLOCK=256)
    return out
"""


@pytest.fixture(params=["Triton's interpreter", "pocket interpreter"])
def jit(request):
    if request.param == "pocket interpreter":
        return pocket.Kernel
    if not _frame.TRITON or pocket.tl is pocket.language:
        pytest.skip("needs Triton's interpreter")
    return pocket.jit


def verdict(number, source, jit, capsys):
    names = {"tl": pocket.tl, "triton": pocket.triton, "jit": jit}
    exec(source, names)
    check_exercise(number, names["answer"])
    return capsys.readouterr().out


@pytest.mark.parametrize("number, source", [("10.1", AXPY), ("10.2", TRANSPOSED), ("10.3", MEANS), ("10.3", SHARED)])
def test_the_solution_passes(number, source, jit, capsys):
    assert verdict(number, source, jit, capsys).startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, source, old, new, words", [
    ("10.1", AXPY, ", mask=inside)\n\n", ")\n\n", "somebody else's memory"),
    ("10.1", AXPY, "triton.cdiv(len(x), 256)", "len(x) // 256", "round up"),
    ("10.1", AXPY, "tl.program_id(0) * BLOCK + ", "", "every program writes the same block"),
    ("10.1", AXPY, "tl.program_id(0) * BLOCK + ", "tl.program_id(0) + ", "p · BLOCK"),
    ("10.1", AXPY, "out + i, a *", "x + i, a *", "only to be read"),
    ("10.1", AXPY, "a * tl.load(x + i, mask=inside) + tl", "tl.load(x + i, mask=inside) + a * tl", "gave it to y"),
    ("10.1", AXPY, "a * tl.load(x + i", "a + tl.load(x + i", "should be"),
    ("10.1", AXPY, "return out", "return out.clone()", "fill the tensor"),
    ("10.1", AXPY, "    kernel[", "    0 and kernel[", "launch"),
    ("10.1", AXPY, "triton.cdiv(len(x), 256),]", "triton.cdiv(len(x), 256)]", "TypeError"),
    ("10.1", AXPY, "y + i, mask=inside", "y + i", "of y, whose places are 0 to 1030: a mask"),
    ("10.1", AXPY, "    kernel[", "    out.copy_(a * x + y)\n    0 and kernel[", "filled by torch"),
    ("10.2", TRANSPOSED, "    H, W = x.shape\n", "    x = x.contiguous()\n    H, W = x.shape\n", "did not read x"),
    ("10.2", TRANSPOSED, "* H + i", "* W + i", "begins at j · W"),
    ("10.2", TRANSPOSED, "triton.cdiv(H, 16), triton.cdiv(W, 16)", "triton.cdiv(W, 16), triton.cdiv(H, 16)", "grid counts"),
    ("10.2", TRANSPOSED, "(i < H)[:, None] & (j < W)[None, :]", "(i < W)[:, None] & (j < H)[None, :]", "its own size"),
    ("10.2", TRANSPOSED, "(i < H)[:, None] & (j < W)[None, :]", "(j < W)[None, :] | (i < 0)[:, None]", "on two sides"),
    ("10.2", TRANSPOSED, "x.stride(0), x.stride(1)", "W, 1", "x.stride()"),
    ("10.2", TRANSPOSED, "x.stride(0), x.stride(1)", "x.stride(1), x.stride(0)", "not transposed"),
    ("10.2", TRANSPOSED, "tile, mask", "2 * tile, mask", "in their places"),
    ("10.2", TRANSPOSED, "j[None, :] * H + i[:, None]", "i[:, None] * W + j[None, :]", "not transposed"),
    ("10.3", MEANS, "(BLOCK,), tl.float32", "(BLOCK,), tl.float16", "65504"),
    ("10.3", MEANS, ", mask=i < n, other=0", "", "from behind the map"),
    ("10.3", MEANS, ", other=0", "", "add other=0"),
    ("10.3", MEANS, " / n)", ")", "that is the sum"),
    ("10.3", MEANS, "    kernel[", "    A = A.float()\n    kernel[", "did not read A"),
    ("10.3", MEANS, "A + k * n", "A + k * BLOCK", "k · n"),
    ("10.3", MEANS, "/ n)", "/ BLOCK)", "divide by n"),
    ("10.3", SHARED, "tl.atomic_add", "tl.store", "overwrite each other"),
    ("10.3", SHARED, "    out.zero_()\n", "", "must be zero"),
    ("10.3", MEANS, "[len(A),]", "[1,]", "left out"),
    ("10.3", MEANS, "/ n)", "/ n + 1)", "should be"),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, source, old, new, words, jit, capsys):
    assert source.count(old) == 1
    source = source.replace(old, new)
    if "float16" in new:
        source = source.replace(".to(tl.float32)", "")
    said = verdict(number, source, jit, capsys)
    assert "not right yet" in said and words in said, said
