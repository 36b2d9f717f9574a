"""path_step: one step of Guided IG's path from the baseline x' to the input x, for a batch of images.

Step t = 1 … T of image z, with D = x - x', L = ‖D‖₁ and the gradient g at z, frozen for the step (Guided IG,
Kapishnikov et al. 2021, as its official code has it, `saliency` 0.2.1; every colour value of every pixel is a
feature of its own there, and here):

    band     no feature may be behind z_lo = x' + max(t/T - d, 0) D, those that are jump to it, nor ahead of
             z_hi = x' + min(t/T + d, 1) D; d is max_dist
    budget   after the step the distance left to x is L (1 - t/T), so the step has R = ‖x - z‖₁ - L (1 - t/T)
    ranking  of the features that are not at z_hi, those with |g| up to the p-quantile move; p is `fraction`.
             The quantile is order statistic ⌊p (n - 1)⌋ of all n features, those at z_hi counting as ∞
    move     towards z_hi, all by the same share γ = R / (their room); where that is not enough (γ > 1) they
             go all the way, and what is left of R goes to the next in the ranking, by the same rule
    booking  attribution += (z_new - z_old) g

How often "the next" can happen is bounded: each such move finishes ⌊p (n - 1)⌋ + 1 features or all that are
left, so there are at most n / (⌊p (n - 1)⌋ + 1) moves, rounded up; and with all features at z_hi the distance
to x is at most the goal. So the device itself decides when a step is over, and the host reads nothing back.

Equality decides what is "at z_hi", which float32 would spoil with x' + 1 · (x - x') ≠ x. All points between
two ends are therefore computed from the nearer end: both ends come out exactly, and nothing overshoots. The
goals are distances from x, so that rounding in one step is made up for in the next.

Bytes that must move: z, x, the baseline, the gradient and the attribution in, z and the attribution out.
`_prepare` and `_move` do that, with all of the GPU; between them stands one ranking key and one room for each
feature, which `_select` reads, one program an image: 31 counts fix the 31 bits of a quantile. That should be
the slow part for few images, and little beside the network's two passes that every step needs.
"""

import numpy as np
import torch
from torch import Tensor

from ._frame import (
    TRITON,
    check_device,
    check_floats,
    check_no_gradient,
    check_shapes,
    operator,
    tl,
    triton,
)

NAME = "path_step"
# Features a program of `_prepare` and `_move`, and features that `_select` looks at together.
PIECE = 2048
SELECT_PIECE = 8192


def floor_bytes(z: Tensor, gradient: Tensor) -> int:
    """The least bytes that a step must move: four states and the gradient read, two states written."""
    return 6 * z.nbytes + gradient.nbytes


def band(step: int, steps: int, max_dist: float) -> tuple[float, float, float]:
    """(lowest, highest) share of the way that a feature may have gone after the step, and the share left."""
    centre = (step + 1) / steps
    return max(centre - max_dist, 0.0), min(centre + max_dist, 1.0), 1 - centre


def rank(features: int, fraction: float) -> int:
    """The order statistic that is the quantile: numpy's method "lower"."""
    return int(fraction * (features - 1))


def reference(
    z: Tensor,
    attribution: Tensor,
    gradient: Tensor,
    x: Tensor,
    baseline: Tensor,
    step: int,
    steps: int,
    fraction: float,
    max_dist: float,
) -> tuple[Tensor, Tensor]:
    """In plain torch, on any device: one image after the other, which then stays in the processor's cache.

    That and numpy's quantile were three times as fast as all images at once with `kthvalue`.
    """
    new, booked = z.new_empty(z.shape), z.new_empty(z.shape)
    scratch = z.new_empty(7, z[0].numel())
    states = (tensor.to(z.dtype) for tensor in (z, attribution, gradient, x, baseline))
    for parts in zip(*states, new, booked, strict=True):
        _step(*(part.reshape(-1) for part in parts), scratch, band(step, steps, max_dist), fraction)
    return new, booked


def _step(
    z: Tensor,
    attribution: Tensor,
    gradient: Tensor,
    x: Tensor,
    baseline: Tensor,
    new: Tensor,
    booked: Tensor,
    scratch: Tensor,
    band: tuple[float, float, float],
    fraction: float,
) -> None:
    """One image, all of shape (n,); fills `new` and `booked`. scratch: (7, n), memory to work in.

    A CPU makes this step 400 times for 8 images, hence two oddities. New memory costs more than what is done
    with it. And what is true is 1 and what is false 0, as floats: torch takes a tenth of the time that it
    takes for booleans.
    """
    now, ahead, room, score, before, upto, spare = scratch
    lowest, highest, left = band
    behind = torch.lerp(baseline, x, lowest, out=spare)
    torch.clamp(z, torch.minimum(behind, x, out=before), torch.maximum(behind, x, out=upto), out=now)
    torch.lerp(baseline, x, highest, out=ahead)
    budget = _distance(x, now, spare) - left * _distance(x, baseline, spare)

    torch.sub(ahead, now, out=room).abs_()
    finished = torch.eq(room, 0, out=spare)
    unfinished, at = len(z) - _count(finished), rank(len(z), fraction)
    # Where the gradient is NaN or infinite, a feature moves last; but it does move.
    torch.abs(gradient, out=score).nan_to_num_(torch.finfo(z.dtype).max)
    score += finished.mul_(torch.finfo(z.dtype).max)    # last, too, and without room
    # Those of `before` go all the way, the others of `upto` by `share`.
    before, upto, share, moved = before.zero_(), upto.zero_(), 0.0, 0
    while budget > 0 and moved < unfinished:
        before, upto = upto, before
        # Those that have moved are at z_hi now and sort last, so the quantile is that much further up.
        torch.le(score, _quantile(score, min(moved + at, unfinished - 1)), out=upto)
        moved = _count(upto)
        total = torch.dot(room, torch.sub(upto, before, out=spare)).item()
        share = min(budget / total, 1.0)
        budget -= total
    torch.lerp(now, ahead, torch.lerp(before, upto, share, out=spare), out=new)
    torch.addcmul(attribution, torch.sub(new, z, out=spare), gradient, out=booked)


def _distance(a: Tensor, b: Tensor, spare: Tensor) -> float:
    return torch.sub(a, b, out=spare).abs_().sum().item()


def _count(ones: Tensor) -> int:
    return int(ones.sum(dtype=ones.dtype if len(ones) < 2**24 else torch.float64))    # float32 counts to 2**24


def _quantile(score: Tensor, rank: int) -> float:
    """The score (n,) that has `rank` others below it."""
    if score.device.type == "cpu":    # numpy's is vectorised, and takes a fifth of the time
        return np.partition(score.numpy(), rank)[rank].item()
    return score.kthvalue(rank + 1).values.item()


def fake(z, attribution, gradient, x, baseline, step, steps, fraction, max_dist) -> tuple[Tensor, Tensor]:
    """What `reference` returns, without its values."""
    return z.new_empty(z.shape), z.new_empty(z.shape)


launch = None
if TRITON:
    # The key of a feature at z_hi. Other keys are the bits of |g|, which order as the numbers do.
    FINISHED = tl.constexpr(0x7FFFFFFF)
    LAST = tl.constexpr(0x7F7FFFFF)    # of the largest float32

    @triton.jit
    def _between(start, end, share):
        return tl.where(share < 0.5, start + (end - start) * share, end - (end - start) * (1 - share))

    @triton.jit
    def _caught_up(z, x, baseline, lowest):
        behind = _between(baseline, x, lowest)
        # Written so that a NaN in z stays, which tl.maximum and tl.minimum would drop.
        lags = tl.where(x >= baseline, z < behind, z > behind)
        return tl.where(lags, behind, z)

    @triton.jit
    def _prepare(
        z, gradient, x, baseline, keys, rooms, budgets, n, lowest, highest, left, BLOCK: tl.constexpr
    ):
        """Keys and rooms (B, n), budgets (B, pieces): program (piece, b) looks at a piece of an image."""
        piece, b = tl.program_id(0), tl.program_id(1)
        index = piece * BLOCK + tl.arange(0, BLOCK)
        inside = index < n
        place = b.to(tl.int64) * n + index
        end = tl.load(x + place, mask=inside, other=0)
        start = tl.load(baseline + place, mask=inside, other=0)
        now = _caught_up(tl.load(z + place, mask=inside, other=0), end, start, lowest)
        ahead = _between(start, end, highest)
        size = tl.abs(tl.load(gradient + place, mask=inside, other=0).to(tl.float32))
        key = tl.minimum(size.to(tl.int32, bitcast=True), LAST)    # NaN and infinity have larger bits
        tl.store(keys + place, tl.where(now == ahead, FINISHED, key), mask=inside)
        tl.store(rooms + place, tl.abs(ahead - now), mask=inside)
        budget = tl.sum(tl.abs(end - now) - left * tl.abs(end - start), 0)
        tl.store(budgets + b * tl.num_programs(0) + piece, budget)

    @triton.jit
    def _order_statistic(keys, n, rank, BLOCK: tl.constexpr):
        """The largest key that has at most `rank` keys below it, one bit after the other."""
        found = tl.full((), 0, tl.int32)
        bit = tl.full((), 0x40000000, tl.int32)
        for _ in range(31):
            below = tl.full((BLOCK,), 0, tl.int32)
            for start in range(0, n, BLOCK):
                index = start + tl.arange(0, BLOCK)
                key = tl.load(keys + index, mask=index < n, other=FINISHED)
                below += (key < (found | bit)).to(tl.int32)
            found = tl.where(tl.sum(below, 0) <= rank, found | bit, found)
            bit = bit >> 1
        return found

    @triton.jit
    def _select(keys, rooms, budgets, whole, partly, shares, n, pieces, rank, BLOCK: tl.constexpr):
        """Program b finds who moves: keys up to `whole` all the way, from there up to `partly` by a share."""
        b = tl.program_id(0)
        keys += b.to(tl.int64) * n
        rooms += b.to(tl.int64) * n
        parts = tl.full((BLOCK,), 0.0, tl.float32)
        for start in range(0, pieces, BLOCK):
            index = start + tl.arange(0, BLOCK)
            parts += tl.load(budgets + b * pieces + index, mask=index < pieces, other=0)
        budget = tl.sum(parts, 0)
        open_features = tl.full((BLOCK,), 0, tl.int32)
        for start in range(0, n, BLOCK):
            index = start + tl.arange(0, BLOCK)
            key = tl.load(keys + index, mask=index < n, other=FINISHED)
            open_features += (key < FINISHED).to(tl.int32)
        unfinished = tl.sum(open_features, 0)

        moved = tl.full((), 0, tl.int32)
        below = tl.full((), -1, tl.int32)
        upto = tl.full((), -1, tl.int32)
        share = tl.full((), 0.0, tl.float32)
        # Ends: `moved` grows in each turn, because the next in the ranking has a larger key.
        while (budget > 0) & (moved < unfinished):
            below = upto
            # Those that have moved are at z_hi now and would sort last, so the quantile is that much further
            # up in the keys as they were.
            upto = _order_statistic(keys, n, tl.minimum(moved + rank, unfinished - 1), BLOCK)
            count = tl.full((BLOCK,), 0, tl.int32)
            room = tl.full((BLOCK,), 0.0, tl.float32)
            for start in range(0, n, BLOCK):
                index = start + tl.arange(0, BLOCK)
                key = tl.load(keys + index, mask=index < n, other=FINISHED)
                count += (key <= upto).to(tl.int32)
                chosen = (key > below) & (key <= upto)
                room += tl.load(rooms + index, mask=chosen, other=0)
            moved = tl.sum(count, 0)
            total = tl.sum(room, 0)
            share = tl.minimum(budget / total, 1.0)
            budget -= total
        tl.store(whole + b, below)
        tl.store(partly + b, upto)
        tl.store(shares + b, share)

    @triton.jit
    def _move(
        z, attribution, gradient, x, baseline, keys, whole, partly, shares, new, new_attribution,
        n, lowest, highest, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """The new point and attribution (B, n): program (piece, b) moves a piece of an image."""
        b = tl.program_id(1)
        index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = index < n
        place = b.to(tl.int64) * n + index
        end = tl.load(x + place, mask=inside, other=0)
        start = tl.load(baseline + place, mask=inside, other=0)
        old = tl.load(z + place, mask=inside, other=0)
        now = _caught_up(old, end, start, lowest)
        ahead = _between(start, end, highest)
        key = tl.load(keys + place, mask=inside, other=FINISHED)
        moved = tl.where(key <= tl.load(partly + b), _between(now, ahead, tl.load(shares + b)), now)
        moved = tl.where(key <= tl.load(whole + b), ahead, moved)
        tl.store(new + place, moved, mask=inside)
        slope = tl.load(gradient + place, mask=inside, other=0).to(tl.float32)
        booked = tl.load(attribution + place, mask=inside, other=0) + (moved - old) * slope
        tl.store(new_attribution + place, booked, mask=inside)

    def launch(
        z: Tensor,
        attribution: Tensor,
        gradient: Tensor,
        x: Tensor,
        baseline: Tensor,
        step: int,
        steps: int,
        fraction: float,
        max_dist: float,
    ) -> tuple[Tensor, Tensor]:
        """The same by Triton; a float32 path. What is not contiguous is copied."""
        z, attribution, gradient, x, baseline = (
            tensor.contiguous() for tensor in (z, attribution, gradient, x, baseline)
        )
        batch, n = len(z), z[0].numel()
        lowest, highest, left = band(step, steps, max_dist)
        pieces = triton.cdiv(n, PIECE)
        keys = z.new_empty((batch, n), dtype=torch.int32)
        rooms = z.new_empty((batch, n))
        budgets = z.new_empty((batch, pieces))
        whole, partly = z.new_empty((2, batch), dtype=torch.int32)
        shares = z.new_empty(batch)
        new, new_attribution = torch.empty_like(z), torch.empty_like(z)
        _prepare[pieces, batch](
            z, gradient, x, baseline, keys, rooms, budgets, n, lowest, highest, left, BLOCK=PIECE
        )
        _select[batch,](
            keys, rooms, budgets, whole, partly, shares, n, pieces, rank(n, fraction),
            BLOCK=min(SELECT_PIECE, triton.next_power_of_2(n)), num_warps=16,
        )  # fmt: skip
        _move[pieces, batch](
            z, attribution, gradient, x, baseline, keys, whole, partly, shares, new, new_attribution,
            n, lowest, highest, BLOCK=PIECE,
        )  # fmt: skip
        return new, new_attribution


_operator = operator(
    f"{NAME}(Tensor z, Tensor attribution, Tensor gradient, Tensor x, Tensor baseline, SymInt step, "
    "SymInt steps, float fraction, float max_dist) -> (Tensor, Tensor)",
    reference,
    launch,
    fake,
)


def path_step(
    z: Tensor,
    attribution: Tensor,
    gradient: Tensor,
    x: Tensor,
    baseline: Tensor,
    *,
    step: int,
    steps: int,
    fraction: float,
    max_dist: float,
) -> tuple[Tensor, Tensor]:
    """One step of Guided IG's path (Kapishnikov et al. 2021, as its official code has it) for B images.

    z: (B, C, H, W), where the paths stand; `baseline` before the first step, x after the last (to rounding).
    attribution: (B, C, H, W), what has been booked so far; zeros before the first step.
    gradient: (B, C, H, W), of the explained scores at z. Its size orders the features, and it prices the
        move. A path that is guided by something else passes that here, and ignores the attribution.
    x, baseline: (B, C, H, W), the ends. All are float32 or all float64; only the gradient may have any float
        dtype.
    step, steps: this step's number, 0 … steps - 1, and how many there are.
    fraction: in [0, 1], how much of all features may move before the ranking is asked again; 1 is the
        straight line.
    max_dist: ≥ 0, how far a feature may be off the straight line, as a share of its own way; 0 is the
        straight line, 1 sets it free. Neither has a default here: the official code's (0.25, 0.02) and those
        of its examples (0.5, 1) are two different methods.

    Returns the new (z, attribution); the given ones are not changed. Every colour value moves on its own, not
    whole pixels [official code]. Where x equals the baseline nothing moves. A feature whose gradient is not
    finite moves last [our reading], and its attribution is not finite either.

    Raises TypeError for dtypes that are not floating point, or a path in half precision; ValueError for
    shapes that differ, several devices, step, fraction or max_dist out of range, or where a gradient would be
    lost.
    """
    tensors = {"z": z, "attribution": attribution, "gradient": gradient, "x": x, "baseline": baseline}
    check_shapes(NAME, **{name: (tensor, "BCHW") for name, tensor in tensors.items()})
    check_floats(NAME, gradient=gradient)
    check_device(NAME, **tensors)
    check_no_gradient(NAME, **tensors)
    for name in ("z", "attribution", "x", "baseline"):
        if tensors[name].dtype != z.dtype or z.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"{NAME}: z, attribution, x and baseline must all be float32 or all float64, but {name} is "
                f"{tensors[name].dtype}: half precision cannot hold many small steps."
            )
    if not 0 <= step < steps:
        raise ValueError(f"{NAME}: step must be 0 … steps - 1, but is {step} of {steps}.")
    if not 0 <= fraction <= 1 or not max_dist >= 0:
        raise ValueError(
            f"{NAME}: fraction must be in [0, 1] and max_dist not negative, but they are {fraction} and "
            f"{max_dist}."
        )
    return _operator(z, attribution, gradient, x, baseline, step, steps, float(fraction), float(max_dist))
