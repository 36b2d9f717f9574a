"""The checker of notebook 08's exercises accepts right answers and names the usual mistakes."""

import pytest
import torch

from cambook.check import check_exercise


def distances(heat, mask, p=2.0):
    return torch.cdist((heat == heat.max()).nonzero().double(), mask.nonzero().double(), p=p).amin(1)


def point(heat, mask, tolerance, p=2.0):
    near = distances(heat, mask, p)
    return ((near == 0) | (near < tolerance)).double().mean()


def first_tie(heat, mask, tolerance):
    alone = torch.zeros_like(heat)
    alone.view(-1)[heat.argmax()] = 1
    return point(alone, mask, tolerance)


def mean_drop(Y, O):
    Y, O = Y[Y > 0], O[Y > 0]
    return ((Y - O).clamp(min=0) / Y).mean()


def curve_area(scores, shares):
    return ((scores[:, 1:] + scores[:, :-1]) / 2 * shares.diff()).sum(1)


def harmonic(coherency, complexity, lost):
    return 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - lost))


def live(Y, O):
    return Y[Y > 0], O[Y > 0]


@pytest.mark.parametrize("number, answer", [
    ("8.1", point),
    ("8.1", lambda *given: float(point(*given))),
    ("8.2", mean_drop),
    ("8.3", curve_area),
    ("8.3", lambda scores, shares: torch.trapezoid(scores, shares, dim=1)),
    ("8.4", harmonic),
])  # fmt: skip
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("8.1", first_tie, "first of the ties only"),
    ("8.1", lambda h, m, t: (distances(h, m) == 0).any() | (distances(h, m) < t).any(), "no whole hit"),
    ("8.1", lambda h, m, t: (distances(h, m) < t).double().mean(), "0 included"),
    ("8.1", lambda h, m, t: (distances(h, m) <= t).double().mean(), "exactly the tolerance"),
    ("8.1", lambda h, m, t: point(h, m, t, p=float("inf")), "straight line"),
    ("8.1", lambda h, m, t: point(h, m, 0), "expected 1, got 0"),
    ("8.1", lambda h, m, t: (h == h.max()) & m, "one number"),
    ("8.2", lambda Y, O: ((live(Y, O)[0] - live(Y, O)[1]) / live(Y, O)[0]).mean(), "not less"),
    ("8.2", lambda Y, O: (live(Y, O)[0] - live(Y, O)[1]).clamp(min=0).sum() / Y.sum(), "ratio of the means"),
    ("8.2", lambda Y, O: (live(Y, O)[0] - live(Y, O)[1]).clamp(min=0).mean(), "in probabilities"),
    ("8.2", lambda Y, O: ((live(Y, O)[0] - live(Y, O)[1]).clamp(min=0) / live(Y, O)[1]).mean(), "not by O"),
    ("8.2", lambda Y, O: ((Y - O).clamp(min=0) / Y).nan_to_num(0).mean(), "also of the number"),
    ("8.2", lambda Y, O: ((Y - O).clamp(min=0) / Y).mean(), "0/0"),
    ("8.2", lambda Y, O: 100 * mean_drop(Y, O), "in per cent"),
    ("8.2", lambda Y, O: mean_drop(Y, O) + 0.1, "expected 0.375"),
    ("8.3", lambda s, t: s.mean(1), "ends count only half"),
    ("8.3", lambda s, t: ((s[:, 1:] + s[:, :-1]) / 2).mean(1), "not even"),
    ("8.3", lambda s, t: (s[:, :-1] * t.diff()).sum(1), "at its beginning"),
    ("8.3", lambda s, t: (s[:, 1:] * t.diff()).sum(1), "at its end"),
    ("8.3", lambda s, t: ((s[:, 1:] + s[:, :-1]) * t.diff()).sum(1), "twice too large"),
    ("8.3", lambda s, t: torch.trapezoid(s, t, dim=1).sum(), "one for each"),
    ("8.3", lambda s, t: torch.trapezoid(s, t, dim=1) + 1, "expected ["),
    ("8.3", lambda s, t: torch.trapezoid(s, t, dim=1).tolist(), "return a tensor"),
    ("8.4", lambda a, b, d: (a + 1 - b + 1 - d) / 3, "arithmetic mean"),
    ("8.4", lambda a, b, d: 3 / (1 / a + 1 / b + 1 / (1 - d)), "1 - complexity"),
    ("8.4", lambda a, b, d: 3 / (1 / a + 1 / (1 - b) + 1 / d), "1 - drop"),
    ("8.4", lambda a, b, d: 1 / (1 / a + 1 / (1 - b) + 1 / (1 - d)), "the 3 is missing"),
    ("8.4", lambda a, b, d: harmonic(a.mean(), b.mean(), d.mean()).expand_as(a), "of its own"),
    ("8.4", lambda a, b, d: harmonic(a + 1e-6, b - 1e-6, d - 1e-6), "added to a denominator"),
    ("8.4", lambda a, b, d: 3 * a * (1 - b) * (1 - d) / (a * (2 - b - d) + (1 - b) * (1 - d)), "NaN"),
    ("8.4", lambda a, b, d: harmonic(a, b, d) / 2, "expected ["),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said, said
