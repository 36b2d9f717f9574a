"""Tests of the exercises of notebook 03. Each wrong turn that readers take has a sentence of its own."""

import torch
from torch import Tensor

from .comparing import compare


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    """Random numbers whose memory is not in the order of the axes, as after a transposition."""
    return torch.randn(shape[::-1], generator=generator).permute(*reversed(range(len(shape))))


def attribute(answer) -> None:
    generator = torch.Generator().manual_seed(1)
    for steps, n in ((1, 2), (4, 3), (9, 5)):
        path, slopes = _random(generator, steps + 1, n), _random(generator, steps + 1, n)
        moved, mean = path[1:] - path[:-1], (slopes[:-1] + slopes[1:]) / 2
        expected = (mean * moved).sum(0)
        compare(f"{steps} steps, {n} features", answer(path.clone(), slopes.clone()), expected, {
            "each step is priced at its beginning; take the mean of both ends.": (slopes[:-1] * moved).sum(0),
            "each step is priced at its end; take the mean of both ends.": (slopes[1:] * moved).sum(0),
            "twice too much: the mean of two slopes is half of their sum.": 2 * expected,
            "the sign is turned round: a step is the next point minus this one.": -expected,
            "that is the variation, in which nothing cancels; the books have signs.":
                (mean * moved).abs().sum(0),
            "the mean slope times the whole way is right on a straight line only.":
                mean.mean(0) * (path[-1] - path[0]),
            "on a bent path each step has a slope of its own; do not take the mean of all points first.":
                slopes.mean(0) * (path[-1] - path[0]),
        })  # fmt: skip


def spend(answer) -> None:
    generator = torch.Generator().manual_seed(2)
    by_hand = torch.tensor([-3.0, 1.0, 0.5, 2.0]), torch.tensor([2.0, 2.0, 1.0, 3.0]), 4.0
    cases = [("the four features of section 4.2", *by_hand)]
    for n, share in ((3, 0.5), (8, 0.3), (8, 0.9)):
        room = torch.rand(n, generator=generator) + 0.1
        cases.append((f"{n} features", torch.randn(n, generator=generator), room, share * room.sum().item()))
    for case, g, room, budget in cases:
        rising = g.abs().argsort()
        ranked = room[rising]
        spent = ranked.cumsum(0)
        compare(case, answer(g.clone(), room.clone(), budget), _filled(room, budget, rising), {
            "a slope of −3 costs as much as one of 3: sort by its size.": _filled(room, budget, g.argsort()),
            "you filled up with the dearest first.": _filled(room, budget, rising.flip(0)),
            "all go by the same share: that is the straight line.": room * (budget / room.sum()),
            "right moves, wrong places: those are the moves in the order of the ranking.":
                _filled(room, budget, rising)[rising],
            "a move below 0: what is left of the budget ends at 0, use clamp(min=0).":
                _placed((budget - spent + ranked).minimum(ranked), rising),
            "each feature finds its own room spent already: take it off the cumulative sum.":
                _placed((budget - spent).clamp(min=0).minimum(ranked), rising),
        })  # fmt: skip
    got = answer(*by_hand[:2], 99.0)
    compare("a budget larger than all room", got, by_hand[1], {})


def _placed(ranked: Tensor, order: Tensor) -> Tensor:
    return torch.zeros_like(ranked).scatter(0, order, ranked)


def _filled(room: Tensor, budget: float, order: Tensor) -> Tensor:
    moves = torch.zeros_like(room)
    for i in order:
        moves[i] = min(room[i].item(), budget - moves.sum().item())
    return moves


def gig_map(answer) -> None:
    generator = torch.Generator().manual_seed(3)
    # The path of one step comes last: on it different wrong turns lead to the same place.
    for steps, B, K, h, w in ((6, 2, 3, 4, 5), (5, 3, 2, 3, 2), (1, 1, 2, 2, 3)):
        A, G = _random(generator, steps + 1, B, K, h, w), _random(generator, steps + 1, B, K, h, w)
        slope, moved = (G[:-1] + G[1:]) / 2, A[1:] - A[:-1]
        shares = (slope.mean((-2, -1), keepdim=True) * moved).sum(2)
        whole = (slope.mean((-2, -1), keepdim=True) * (A[1:] - A[0])).sum(2)
        left = (G[:-1].mean((-2, -1), keepdim=True) * moved).sum(2)
        points = (G[1:].mean((-2, -1), keepdim=True) * (A[1:] - A[0])).sum(2)
        compare(f"{steps} steps, {B} images", answer(A.clone(), G.clone()), shares.sum(0).relu(), {
            "there is a ReLU in each step; it comes once, behind the sum over the steps.":
                shares.relu().sum(0),
            "the ReLU at the end is missing.": shares.sum(0),
            "you did not average the gradient over the cells: that is 3.14.": (slope * moved).sum((0, 2)).relu(),
            "each point is compared with the baseline instead of the point before it.": whole.sum(0).relu(),
            "each step is priced at its beginning; take the mean of both ends.": left.sum(0).relu(),
            "that is the mean over the steps; the line integral is their sum.": shares.mean(0).relu(),
            "that is Integrated Grad-CAM's sum, 3.13; compare each point with the one before it.":
                points.relu().mean(0),
        })  # fmt: skip


def arrival_weights(answer) -> None:
    generator = torch.Generator().manual_seed(4)
    for T, K, h, w in ((2, 1, 2, 2), (7, 3, 2, 5)):
        G = _random(generator, T, K, h, w)
        pooled = G.mean((2, 3))
        later = pooled.flip(0).cumsum(0).flip(0)
        compare(f"{T} steps, {K} channels", answer(G.clone()), later / T, {
            "you summed from the start up to s; W_s sums from s to the end.": pooled.cumsum(0) / T,
            "the 1/T is missing.": later,
            "z_s itself belongs to the sum: what comes in step s is there at z_s.": (later - pooled) / T,
            "turn the sum round again: the first weight stands last.": later.flip(0) / T,
            "that is the sum over the cells; the bar is their mean.": later * h * w / T,
        })  # fmt: skip
    compare("a constant gradient, equation 3.18", answer(torch.ones(4, 1, 2, 2)),
             torch.tensor([[1.0], [0.75], [0.5], [0.25]]), {})  # fmt: skip


TESTS = {"3.1": attribute, "3.2": spend, "3.3": gig_map, "3.4": arrival_weights}
