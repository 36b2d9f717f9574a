"""Tests of the exercises of notebook 08."""

import torch
from torch import Tensor


def _single(got, where: str) -> float:
    """The one finite number that was returned."""
    value = torch.as_tensor(got)
    assert value.numel() == 1, f"{where}: return one number; got shape {tuple(value.shape)}."
    assert value.isfinite(), f"{where}: got {value.item()}; look for 0/0."
    return value.item()


def _batch(got, expected: Tensor, where: str) -> Tensor:
    assert isinstance(got, Tensor), f"{where}: return a tensor, not {type(got).__name__}."
    assert got.shape == expected.shape, (
        f"{where}: expected shape {tuple(expected.shape)}, one for each, got {tuple(got.shape)}."
    )
    assert not got.isnan().any(), f"{where}: there is NaN in the answer."
    return got


def _same(got, expected, atol: float = 1e-5) -> bool:
    got, expected = (torch.as_tensor(value).double() for value in (got, expected))
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=0, atol=atol)


def _distances(heat: Tensor, mask: Tensor, p: float = 2) -> Tensor:
    """How far each maximum is from the mask: (P,)."""
    peaks, places = ((where).nonzero().double() for where in (heat == heat.max(), mask))
    return torch.cdist(peaks, places, p=p).amin(1)


def point(answer) -> None:
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[2:4, 3:6] = True
    cases = (
        ("one maximum on the object", [(2, 3)], 0),
        ("one maximum beside it", [(0, 0)], 0),
        ("three ties, one of them on the object, tolerance 0", [(0, 0), (3, 4), (6, 8)], 0),
        ("a maximum exactly as far away as the tolerance", [(6, 4)], 3),
        ("a maximum a little nearer than the tolerance", [(6, 4)], 3.1),
        ("a maximum across the corner, tolerance 1.2", [(1, 2)], 1.2),
        ("two ties, one within the tolerance", [(5, 5), (0, 8)], 2.5),
        ("a negative map, one maximum on the object", [(3, 3)], 0),
    )
    for where, peaks, tolerance in cases:
        heat = torch.linspace(0, 0.5, 63).view(7, 9) - (9 if "negative" in where else 0)
        for place in peaks:
            heat[place] = heat.max() if place != peaks[0] else heat.max() + 1
        near = _distances(heat, mask)
        expected = ((near == 0) | (near < tolerance)).double().mean().item()
        got = _single(answer(heat.clone(), mask.clone(), tolerance), where)
        if _same(got, expected):
            continue
        if len(peaks) > 1:
            assert not _same(got, float(near[0] == 0 or near[0] < tolerance)), (
                f"{where}: you looked at the first of the ties only; each counts by its share.")
            assert not _same(got, float((near == 0).any() or (near < tolerance).any())), (
                f"{where}: one tie that hits is no whole hit; each counts by its share.")
        assert not _same(got, (near < tolerance).double().mean()), (
            f"{where}: a maximum on the mask hits at every tolerance, 0 included.")
        assert not _same(got, (near <= tolerance).double().mean()), (
            f"{where}: exactly the tolerance away misses; it takes less.")
        square = _distances(heat, mask, p=float("inf"))
        assert not _same(got, ((square == 0) | (square < tolerance)).double().mean()), (
            f"{where}: that is a square around the mask; distances are measured along the straight line.")
        raise AssertionError(f"{where}: expected {expected:.3g}, got {got:.3g}.")


def mean_drop(answer) -> None:
    cases = (
        ("two pictures that lose", [0.8, 0.4], [0.4, 0.3]),
        ("one that loses, one that gains", [0.9, 0.2], [0.3, 0.6]),
        ("a sure picture and a doubtful one", [1.0, 0.01], [0.9, 0.001]),
        ("one with Y = 0", [0.5, 0.0, 0.5], [0.25, 0.0, 0.5]),
        ("one with Y = 0 that gains", [0.5, 0.0], [0.25, 0.3]),
    )
    for where, Y, O in cases:
        Y, O = torch.tensor(Y, dtype=torch.float64), torch.tensor(O, dtype=torch.float64)
        live = Y > 0
        y, o = Y[live], O[live]
        lost = (y - o).clamp(min=0) / y
        got = _single(answer(Y.clone(), O.clone()), where)
        if _same(got, lost.mean()):
            continue
        for sentence, wrong in (
            ("a picture that gains has a drop of 0, not less.", ((y - o) / y).mean()),
            ("that is the ratio of the means; papers mean the mean of the ratios.",
             (y - o).clamp(min=0).sum() / y.sum()),
            ("the drop is relative to Y; yours is in probabilities.", (y - o).clamp(min=0).mean()),
            ("divide by Y, what there was, and not by O.", ((y - o).clamp(min=0) / o).mean()),
            ("pictures with Y = 0 are left out, also of the number that you divide by.", lost.sum() / len(Y)),
            ("that is in per cent; here it is a share.", 100 * lost.mean()),
        ):
            assert not _same(got, wrong), f"{where}: {sentence}"
        raise AssertionError(f"{where}: expected {lost.mean():.4g}, got {got:.4g}.")


def curve_area(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = (
        ("one curve, even steps", 1, [0, 0.25, 0.5, 0.75, 1]),
        ("three curves, even steps", 3, [0, 0.5, 1]),
        ("two curves, uneven steps", 2, [0, 0.1, 0.4, 1]),
        ("as many curves as points, uneven steps", 3, [0, 0.9, 1]),
    )
    for where, count, shares in cases:
        shares = torch.tensor(shares, dtype=torch.float64)
        scores = torch.rand(count, len(shares), generator=generator).double()
        expected = torch.trapezoid(scores, shares, dim=1)
        got = _batch(answer(scores.clone(), shares.clone()), expected, where)
        if _same(got, expected):
            continue
        steps = shares.diff()
        for sentence, wrong in (
            ("that is the mean of the points; the ends count only half.", scores.mean(1)),
            ("the steps are not even: each trapezoid has its own width.",
             ((scores[:, 1:] + scores[:, :-1]) / 2).mean(1)),
            ("each step got the height at its beginning; take the mean of both ends.",
             (scores[:, :-1] * steps).sum(1)),
            ("each step got the height at its end; take the mean of both ends.",
             (scores[:, 1:] * steps).sum(1)),
            ("twice too large: the height of a trapezoid is the mean of its two sides.", 2 * expected),
        ):
            assert not _same(got, wrong), f"{where}: {sentence}"
        raise AssertionError(f"{where}: expected {expected.tolist()}, got {got.tolist()}.")


def harmonic(answer) -> None:
    cases = (
        ("three ordinary pictures", [0.9, 0.5, 0.7], [0.25, 0.6, 0.1], [0.0, 0.3, 0.5]),
        ("a perfect one and a doubtful one", [1.0, 0.2], [0.0, 0.2], [0.0, 0.2]),
        ("a coherency of 0", [0.0, 0.5], [0.5, 0.5], [0.5, 0.5]),
        ("a map of ones", [1.0, 0.5], [1.0, 0.5], [0.0, 0.5]),
        ("a drop of 1", [1.0, 0.5], [0.1, 0.5], [1.0, 0.5]),
        ("all three at their worst", [0.0], [1.0], [1.0]),
        ("a very small part", [1e-7], [0.5], [0.5]),
    )
    for where, coherency, complexity, lost in cases:
        given = [torch.tensor(values, dtype=torch.float64) for values in (coherency, complexity, lost)]
        parts = torch.stack([given[0], 1 - given[1], 1 - given[2]])
        expected = 3 / (1 / parts).sum(0)
        got = _batch(answer(*(values.clone() for values in given)), expected, where)
        if _same(got, expected, 1e-9):
            continue
        mean = parts.mean(1, keepdim=True).expand_as(parts)
        large, lossy = parts.clone(), parts.clone()
        large[1], lossy[2] = given[1], given[2]
        for sentence, wrong in (
            ("that is the arithmetic mean, in which one bad part is forgiven.", parts.mean(0)),
            ("complexity is good when small: 1 - complexity goes in.", 3 / (1 / large).sum(0)),
            ("the drop is good when small: 1 - drop goes in.", 3 / (1 / lossy).sum(0)),
            ("the 3 is missing.", expected / 3),
            ("you averaged the parts over the pictures first; each picture has a value of its own.",
             3 / (1 / mean).sum(0)),
        ):
            assert not _same(got, wrong), f"{where}: {sentence}"
        assert not _same(got, expected, 1e-3), f"{where}: nearly; was something added to a denominator?"
        raise AssertionError(f"{where}: expected {[round(v, 4) for v in expected.tolist()]}, "
                             f"got {[round(v, 4) for v in got.tolist()]}.")


TESTS = {"8.1": point, "8.2": mean_drop, "8.3": curve_area, "8.4": harmonic}
