"""Tests of the exercises of notebook 10.

A kernel that misses its place writes into somebody else's memory and says nothing. So what a reader's kernel
gets lies between two margins full of a number that occurs nowhere else, and the margins are read afterwards.
What right numbers still hide (a load past the end, a value behind a mask that happens to be 0, torch in the
place of a kernel) comes out in a last run in the pocket interpreter, which notes every place.
"""

import inspect
import os

import numpy as np
import torch
from torch import Tensor

from .. import pocket
from ..kernels import _frame

MARGIN = 32768
MARK = -7776.0    # in outputs before they are written, and in the margins around them; exact in float16
OTHER_MARK = -3888.0    # in the margins around inputs
NO_OTHER = "what tl.load gives where its mask is false is undefined, and it joined the result: add other=0."


def _device() -> str:
    """Where a kernel of the reader's runs: as in the notebook, on the CPU unless Triton compiles for CUDA."""
    return "cuda" if _frame.TRITON and os.environ.get("TRITON_INTERPRET") != "1" else "cpu"


class _Lent:
    """A tensor between two margins. `tensor` is lent out; `around` is the memory it lies in."""

    def __init__(self, values: Tensor, device: str, mark: float = OTHER_MARK):
        self.around = torch.full((values.numel() + 2 * MARGIN,), mark, dtype=values.dtype, device=device)
        self.tensor = self.around[MARGIN : MARGIN + values.numel()].view(values.shape)
        self.tensor.copy_(values)
        self.before = self.around.clone()

    def strayed(self) -> int:
        """How many places of the margins are no longer what they were."""
        changed = self.around != self.before
        changed[MARGIN : len(changed) - MARGIN] = False
        return int(changed.sum())

    def changed(self) -> bool:
        return bool((self.around != self.before).any())


def _buffer(*shape: int, device: str) -> _Lent:
    return _Lent(torch.full(shape, MARK), device, MARK)


def _run(answer, *arguments):
    with np.errstate(all="ignore"):    # Triton's interpreter counts in NumPy, which warns of infinity
        return answer(*arguments)


def _returned(got, out: _Lent, where: str) -> Tensor:
    assert isinstance(got, Tensor) and got.data_ptr() == out.tensor.data_ptr(), (
        f"{where}: fill the tensor `out` that you are given, and return it."
    )
    return out.tensor.cpu()


def _watched(answer, where: str, inputs: dict[str, Tensor], out: _Lent, expected: Tensor, *arguments) -> None:
    """After right results: the same once more in the pocket interpreter, which sees how they came about."""
    where = f"{where}, watched"
    names = getattr(inspect.unwrap(answer), "__globals__", {})
    try:
        with pocket.watching(names) as seen:
            _run(answer, *arguments)
    except IndexError as error:
        raise AssertionError(f"{where}: {error}") from None
    except Exception:    # a word of Triton's that the pocket interpreter does not know: Triton was content
        return
    touched = {(access.kind, access.tensor.data_ptr()) for access in seen}
    assert ("write", out.tensor.data_ptr()) in touched, (
        f"{where}: `out` was filled by torch: let a kernel do it."
    )
    for name, tensor in inputs.items():
        assert ("read", tensor.data_ptr()) in touched, (
            f"{where}: the kernel did not read {name} but something made from it: let it read {name} itself."
        )
    assert _close(out.tensor.cpu(), expected, 1e-4), f"{where}: {NO_OTHER}"


def _close(got: Tensor, expected: Tensor, rtol: float = 1e-5) -> bool:
    return torch.allclose(got.double(), expected.double(), rtol=rtol, atol=1e-5)


def _unwritten(got: Tensor) -> int:
    return int((got == MARK).sum())


def axpy(answer) -> None:
    generator, device, written = torch.Generator().manual_seed(0), _device(), {}
    for n in (2062, 1031, 10, 1):
        x, y = (torch.randn(n, generator=generator) for _ in range(2))
        lent, out = [_Lent(values, device) for values in (x, y)], _buffer(n, device=device)
        where = f"{n} number{'s' if n > 1 else ''}"
        got = _returned(_run(answer, 3.0, lent[0].tensor, lent[1].tensor, out.tensor), out, where)
        assert not any(one.changed() for one in lent), f"{where}: x and y are only to be read, but changed."
        strayed = out.strayed()
        assert not strayed, (
            f"{where}: {strayed} places outside `out` were overwritten, somebody else's memory. "
            "The last block is wider than what is left: the store needs mask=i < n."
        )
        written[n] = n - _unwritten(got)
        if _close(got, 3 * x + y):
            continue
        if 0 < written[n] < n and n == 2062:
            continue    # how many the next case leaves out says why
        assert written[n] > 0 or n < 1031, f"{where}: nothing was written; did you launch the kernel?"
        if written[n] < n:
            same = written[n] == written.get(2062)
            why = (
                "every program writes the same block: let program p begin at p · BLOCK"
                if same
                else "the grid must round up, triton.cdiv(n, BLOCK) and not n // BLOCK, and program p begin "
                "at p · BLOCK"
            )
            raise AssertionError(f"{where}: {n - written[n]} of them were never written: {why}.")
        assert not _close(got, x + 3 * y), f"{where}: a belongs to x, and you gave it to y."
        wrong = int((got - 3 * x - y).abs().gt(1e-5).nonzero()[0])
        expected = 3 * x[wrong] + y[wrong]
        raise AssertionError(
            f"{where}: place {wrong} should be {expected:.3f} and is {got[wrong]:.3f}; do x, y and out use "
            "the same places?"
        )
    assert written[2062] == 2062, "2062 numbers: some were never written, though fewer come out right."
    x, y = (_Lent(torch.randn(1031, generator=generator), device).tensor for _ in range(2))
    out = _buffer(1031, device=device)
    _watched(answer, "1031 numbers", {"x": x, "y": y}, out, (3 * x + y).cpu(), 3.0, x, y, out.tensor)


def transposed(answer) -> None:
    generator, device = torch.Generator().manual_seed(0), _device()
    for H, W, layout in ((20, 20, "plain"), (3, 150, "plain"), (150, 3, "plain"), (37, 21, "strided")):
        where = f"{H}×{W}" + (", every second column of a wider tensor" if layout == "strided" else "")
        whole = _Lent(torch.randn(H, W * (2 if layout == "strided" else 1), generator=generator), device)
        x = whole.tensor[:, ::2] if layout == "strided" else whole.tensor
        out = _buffer(W, H, device=device)
        got = _returned(_run(answer, x, out.tensor), out, where)
        x = x.cpu()
        assert not whole.changed(), f"{where}: x is only to be read, but it changed."
        if _close(got, x.T) and not out.strayed():
            continue
        astray = out.before.cpu().clone()    # what rows of W numbers in the place of H would leave behind
        places = MARGIN + torch.arange(W)[None] * W + torch.arange(H)[:, None]
        for i in range(H):
            astray[places[i]] = x[i]
        assert H == W or not _same_places(out.around.cpu(), astray), (
            f"{where}: the result has H columns, so its row j begins at place j · H; yours begins at j · W."
        )
        strayed = out.strayed()
        assert not strayed, (
            f"{where}: {strayed} places outside `out` were overwritten. A tile at the edge sticks out on two "
            "sides: the mask needs i < H and j < W."
        )
        assert _unwritten(got) < got.numel(), f"{where}: nothing was written; did you launch the kernel?"
        assert not _unwritten(got), (
            f"{where}: {_unwritten(got)} places were never written. Does program_id(0) count what the first "
            "number of the grid counts, and is each index held against its own size?"
        )
        assert not _close(got, x.reshape(W, H)), f"{where}: that is x in its own order, not transposed."
        memory = whole.around.cpu()[MARGIN : MARGIN + H * W].view(H, W)
        assert layout == "plain" or not _close(got, memory.T), (
            f"{where}: you read x as if its numbers lay side by side; use x.stride()."
        )
        wrong = [int(place) for place in (got != x.T).nonzero()[0]]
        raise AssertionError(
            f"{where}: the result at ({wrong[0]}, {wrong[1]}) should be x at ({wrong[1]}, {wrong[0]}); are "
            "the strides of rows and columns in their places?"
        )
    x = _Lent(torch.randn(21, 42, generator=generator), device).tensor[:, ::2]
    out = _buffer(21, 21, device=device)
    _watched(answer, "21×21, every second column", {"x": x}, out, x.T.cpu(), x, out.tensor)


def _same_places(got: Tensor, expected: Tensor) -> bool:
    """Written at the same places: where rows overlap, who is last differs."""
    return torch.equal(got != MARK, expected != MARK) and bool((got != MARK).any())


def map_means(answer) -> None:
    generator, device = torch.Generator().manual_seed(0), _device()
    maps = {
        "2 maps of 1000 numbers near 300 and 200":
            torch.tensor([[300.0], [200.0]]).half() + torch.randn(2, 1000, generator=generator).half(),
        "3 maps of 37 numbers": torch.randn(3, 37, generator=generator).half() + 4,
        "2 maps of 5000 ones": torch.ones(2, 5000).half(),
    }
    for where, A in maps.items():
        count, n = A.shape
        lent, out = _Lent(A, device), _buffer(count, device=device)
        got = _returned(_run(answer, lent.tensor, out.tensor), out, where)
        assert not lent.changed(), f"{where}: A is only to be read, but it changed."
        assert not out.strayed(), f"{where}: {out.strayed()} places outside `out` were overwritten."
        expected = A.double().mean(1)
        if _close(got, expected, 1e-4):
            continue
        assert not (got == MARK).all(), f"{where}: nothing was written; did you launch the kernel?"
        assert not (got == MARK).any(), (
            f"{where}: some maps were left out; one program a map needs a grid of K."
        )
        assert not got.isinf().any(), (
            f"{where}: the sum is infinite, because float16 ends at 65504. Add up in float32: "
            ".to(tl.float32) after the load."
        )
        assert not got.isnan().any(), f"{where}: {NO_OTHER}"
        grown = (got.double() - expected - MARK).abs() < 8    # float32 next to 7777
        assert not grown.any(), (
            f"{where}: the result holds what was in `out` before: before tl.atomic_add it must be zero."
        )
        assert not _padded(got, A, lent), (
            f"{where}: numbers from behind the map joined the sum: load with mask=i < n, other=0."
        )
        assert not _one_block(got, A), (
            f"{where}: only one block of each map arrived. Several programs that store to one place "
            "overwrite each other: one program a map, with a loop over blocks (or tl.atomic_add on zeros)."
        )
        assert not _close(got, n * expected, 1e-3), f"{where}: that is the sum of each map: divide by n."
        ratio = (got.double() / expected).tolist()
        if abs(ratio[0] - ratio[1]) < 1e-3 and _is_padding(n, ratio[0]):
            raise AssertionError(f"{where}: divide by n, the count of numbers, not by the block's size.")
        assert not _close(got[:1], expected[:1], 1e-4), (
            f"{where}: the first map is right and the next is not: map k begins at place k · n."
        )
        assert not _close(got, expected, 3e-3), (
            f"{where}: nearly right, {got[0]:.4f} for {expected[0]:.4f}: float16 keeps 3 digits, so "
            "add up in float32."
        )
        raise AssertionError(f"{where}: the mean of map 0 should be {expected[0]:.3f} and is {got[0]:.3f}.")
    A = _Lent(torch.randn(3, 37, generator=generator).half(), device).tensor
    out = _buffer(3, device=device)
    _watched(answer, "3 maps of 37 numbers", {"A": A}, out, A.double().mean(1).cpu(), A, out.tensor)


def _one_block(got: Tensor, A: Tensor) -> bool:
    """True where each result is the sum of one block alone, divided by n: the last program has won."""
    n = A.shape[1]
    for block in (1 << power for power in range(4, 13)):
        parts = torch.stack([part.sum(1) / n for part in A.double().split(block, 1)], 1)    # (K, blocks)
        gaps = (parts - got.double()[:, None]).abs().amin(1)
        if parts.shape[1] > 1 and (gaps < 1e-3 * got.abs().double()).all():
            return True
    return False


def _is_padding(n: int, ratio: float) -> bool:
    """True where n was divided by the next multiple of a power of two, or by a block alone."""
    blocks = [1 << power for power in range(2, 13)]
    return any(abs(ratio - n / m) < 2e-3 for b in blocks for m in (b, -(-n // b) * b) if m != n)


def _padded(got: Tensor, A: Tensor, lent: _Lent) -> bool:
    """True where each sum ran on to the end of its last block, into the next map or the margin."""
    count, n = A.shape
    memory = lent.around.cpu().double()
    for block in (1 << power for power in range(2, 13)):
        end = -(-n // block) * block
        if end != n:
            sums = [memory[MARGIN + k * n : MARGIN + k * n + end].sum() / n for k in range(count)]
            if _close(got, torch.stack(sums), 1e-3):
                return True
    return False


TESTS = {"10.1": axpy, "10.2": transposed, "10.3": map_means}
