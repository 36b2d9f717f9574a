"""robust_range: two percentiles of every map, exactly, the range that Poly-CAM's normalisation needs.

Sorted, a map of n pixels is s_0 ≤ … ≤ s_(n−1). A percentile p lies at place v = p/100 · (n − 1), between the
order statistics s_⌊v⌋ and s_⌊v⌋₊₁, and is interpolated linearly, as `numpy.percentile` does by default.

On CUDA one program takes one map and finds the order statistics bit by bit: floats become unsigned integers
of the same order, and 32 counts of "how many keys lie below this candidate" fix the 32 bits of the answer,
both percentiles in the same count. Counting needs no exchange between threads but one sum, where sorting n
numbers exchanges them log²n times, so the same way serves small maps and large ones. Up to RESIDENT pixels
the keys stay in registers and the map is read once. A larger map is read again for each bit: once from DRAM,
then from the L2 cache as long as the maps at work fit there. The floor is one reading.
"""

import torch
from torch import Tensor

from ._frame import (
    TRITON,
    arithmetic,
    check_floats,
    check_no_gradient,
    check_shapes,
    operator,
    tl,
    triton,
)

NAME = "robust_range"
# Keys that one program keeps in registers: 32 for each of its 512 threads, of 128 registers a thread.
RESIDENT = 16384
# Keys that are looked at together where a map is larger.
PIECE = 4096


def floor_bytes(maps: Tensor) -> int:
    """The bytes that must move at least: the maps in, two float32 for each out."""
    return maps.numel() * maps.element_size() + 2 * 4 * len(maps)


def place(size: int, percent: float) -> tuple[int, float]:
    """Where a percentile lies among `size` sorted numbers: the rank below it, and the share of the next."""
    exact = (size - 1) * (percent / 100)
    return int(exact), exact - int(exact)


def reference(maps: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """In plain torch, on any device."""
    flat = maps.flatten(1).to(arithmetic(maps))
    missing = flat.isnan().any(1)
    below, above = (_percentile(flat, percent).masked_fill(missing, torch.nan) for percent in (low, high))
    return below, above


def _percentile(flat: Tensor, percent: float) -> Tensor:
    size = flat.shape[1]
    rank, share = place(size, percent)
    following = min(rank + 1, size - 1)
    # Not torch.quantile, which sorts everything and refuses large inputs: from the nearer end, a percentile
    # at the edge needs only a few numbers sorted.
    if 2 * rank < size:
        ends = flat.topk(following + 1, largest=False).values[:, [rank, following]]
    else:
        ends = flat.topk(size - rank).values.flip(1)[:, [0, following - rank]]
    return torch.lerp(ends[:, 0], ends[:, 1], share)


def fake(maps: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """What `reference` returns, without its values."""
    return tuple(maps.new_empty(len(maps), dtype=arithmetic(maps)) for _ in range(2))


launch = None
if TRITON:

    @triton.jit
    def _keys(pointer, index, n):
        """Unsigned integers in the order of the floats; behind the map's end the largest of all."""
        bits = tl.load(pointer + index, mask=index < n, other=0).to(tl.float32).to(tl.uint32, bitcast=True)
        # Negative floats grow downwards: all their bits turn over (~ is x ^ -1, for which Triton 3.6 has no
        # unsigned number in its interpreter). Positive ones come after them.
        keys = tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000)
        return tl.where(index < n, keys, 0xFFFFFFFF)

    @triton.jit
    def _value(key):
        bits = tl.where(key >= 0x80000000, key & 0x7FFFFFFF, key ^ 0xFFFFFFFF)
        return bits.to(tl.float32, bitcast=True)

    @triton.jit
    def _interpolate(key, following, not_above, rank, share, n):
        """Between the order statistic of this rank and the next, which is the same where there are ties."""
        a = _value(key)
        b = tl.where((not_above > rank + 1) | (rank + 1 >= n), a, _value(following))
        # From the nearer end, as numpy: exact at both ends.
        return tl.where(share < 0.5, a + (b - a) * share, b - (b - a) * (1 - share))

    @triton.jit
    def _percentiles(
        maps, below, above, n, low_rank, low_share, high_rank, high_share,
        BLOCK: tl.constexpr, ONCE: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        pointer = maps + row * n
        offsets = tl.arange(0, BLOCK)
        resident = _keys(pointer, offsets, n)

        # The order statistic of rank r is the largest key that has at most r keys below it.
        low = tl.full((), 0, tl.uint32)
        high = tl.full((), 0, tl.uint32)
        bit = tl.full((), 0x80000000, tl.uint32)
        for _ in range(32):
            under_low = tl.full((BLOCK,), 0, tl.int32)
            under_high = tl.full((BLOCK,), 0, tl.int32)
            for start in range(0, n, BLOCK):
                keys = resident if ONCE else _keys(pointer, start + offsets, n)
                under_low += (keys < (low | bit)).to(tl.int32)
                under_high += (keys < (high | bit)).to(tl.int32)
            low = tl.where(tl.sum(under_low) <= low_rank, low | bit, low)
            high = tl.where(tl.sum(under_high) <= high_rank, high | bit, high)
            bit = bit >> 1

        # Their successors, and whether there is a NaN: those keys lie outside of ±infinity's.
        after_low = tl.full((BLOCK,), 0xFFFFFFFF, tl.uint32)
        after_high = tl.full((BLOCK,), 0xFFFFFFFF, tl.uint32)
        upto_low = tl.full((BLOCK,), 0, tl.int32)
        upto_high = tl.full((BLOCK,), 0, tl.int32)
        missing = tl.full((BLOCK,), 0, tl.int32)
        for start in range(0, n, BLOCK):
            keys = resident if ONCE else _keys(pointer, start + offsets, n)
            after_low = tl.minimum(after_low, tl.where(keys > low, keys, 0xFFFFFFFF))
            after_high = tl.minimum(after_high, tl.where(keys > high, keys, 0xFFFFFFFF))
            upto_low += (keys <= low).to(tl.int32)
            upto_high += (keys <= high).to(tl.int32)
            outside = (keys < 0x007FFFFF) | (keys > 0xFF800000)
            missing += (outside & (start + offsets < n)).to(tl.int32)
        low_value = _interpolate(low, tl.min(after_low), tl.sum(upto_low), low_rank, low_share, n)
        high_value = _interpolate(high, tl.min(after_high), tl.sum(upto_high), high_rank, high_share, n)
        has_nan = tl.sum(missing) > 0
        tl.store(below + row, tl.where(has_nan, float("nan"), low_value))
        tl.store(above + row, tl.where(has_nan, float("nan"), high_value))

    def launch(maps: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        """The same by Triton; float32, bfloat16 or float16. Maps that are not contiguous are copied."""
        maps = maps.flatten(1).contiguous()
        count, size = maps.shape
        below, above = torch.empty((2, count), dtype=torch.float32, device=maps.device)
        once = size <= RESIDENT
        block = triton.next_power_of_2(size) if once else PIECE
        _percentiles[count,](
            maps, below, above, size, *place(size, low), *place(size, high),
            BLOCK=block, ONCE=once, num_warps=4 if block <= 2048 else 16,
        )  # fmt: skip
        return below, above


_operator = operator(
    f"{NAME}(Tensor maps, float low, float high) -> (Tensor, Tensor)", reference, launch, fake
)


def robust_range(maps: Tensor, low: float = 0.1, high: float = 99.9) -> tuple[Tensor, Tensor]:
    """Two percentiles of each map, on the maps' device.

    maps: (N, h, w), float32, bfloat16, float16 or float64, any strides.
    low, high: percentages, 0 ≤ low ≤ high ≤ 100; the defaults are those of Poly-CAM (official code).

    Returns (low, high), each (N,), float32 (float64 for float64): order statistics exactly, interpolated
    linearly between two of them as `numpy.percentile` does for float64. (For float32 input numpy computes the
    place itself in float32, which moves the 99.9th percentile of a large map.) A map with a NaN has NaN for
    both, as in numpy.

    Raises TypeError for maps that are no floating point tensor; ValueError for another shape, an empty map,
    percentages out of order, and maps that require a gradient.
    """
    check_shapes(NAME, maps=(maps, "Nhw"))
    check_floats(NAME, maps=maps)
    check_no_gradient(NAME, maps=maps)
    if not 0 <= low <= high <= 100:
        raise ValueError(f"{NAME}: percentages 0 ≤ low ≤ high ≤ 100 are needed, not {low} and {high}.")
    return _operator(maps, float(low), float(high))
