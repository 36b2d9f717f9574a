"""The checker of notebook 06's exercises accepts right answers and names what is wrong with the usual wrong ones."""

import pytest
import torch
import torch.nn.functional as F

from cambook.check import check_exercise


def robust(Z, low=0.1, high=99.9, divide=lambda lo, hi: hi, floor=1e-12):
    lo, hi = (torch.quantile(Z.double(), q / 100) for q in (low, high))
    return ((Z - lo) / divide(lo, hi).clamp(min=floor)).clamp(0, 1).float()


def weights(own, keep, remove, variant):
    if variant == "plus":
        return keep
    return ((keep if variant == "pm" else 0) + own - remove).relu()


def exact(C, s):
    mean = F.avg_pool2d(C[None], s)[0].repeat_interleave(s, 0).repeat_interleave(s, 1)
    return C / mean.clamp(min=1e-12)


def resize(Z, size, **more):
    return F.interpolate(Z[None, None], tuple(size), mode="bilinear", **more)[0, 0]


def lnorm(C, small):
    return C / resize(resize(C, small), C.shape).clamp(min=1e-12)


def depths(cams):
    steps = [cams[0]]
    for C in cams[1:]:
        steps.append(resize(steps[-1], C.shape) * lnorm(C, steps[-1].shape))
    return steps


SOLUTIONS = [("6.1", robust), ("6.2", weights), ("6.3", exact), ("6.4", depths)]


@pytest.mark.parametrize("number, answer", SOLUTIONS)
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("6.1", lambda Z: (Z - Z.min()) / (Z.max() - Z.min()), "one shouting pixel"),
    ("6.1", lambda Z: robust(Z, divide=lambda lo, hi: hi - lo), "divides by hi"),
    ("6.1", lambda Z: robust(Z, 1, 99), "0.1 and 99.9"),
    ("6.1", lambda Z: (Z - torch.quantile(Z.double(), 0.001)) / torch.quantile(Z.double(), 0.999), "not clipped"),
    ("6.1", lambda Z: robust(Z, floor=0), "floor"),
    ("6.1", lambda Z: robust(Z, floor=1e-2), "all five become 1"),
    ("6.1", lambda Z: robust(Z)[None], "shape"),
    ("6.1", lambda Z: robust(Z) ** 2, "differ from equation 6.1"),
    ("6.2", lambda own, keep, remove, v: keep + (own - remove).relu() if v == "pm" else weights(own, keep, remove, v),
     "one ReLU"),
    ("6.2", lambda own, keep, remove, v: own - remove if v == "minus" else weights(own, keep, remove, v), "below zero"),
    ("6.2", lambda own, keep, remove, v: (remove - own).relu() if v == "minus" else weights(own, keep, remove, v),
     "turned round"),
    ("6.2", lambda own, keep, remove, v: weights(own, keep, remove, v) / 2, "no mean"),
    ("6.2", lambda own, keep, remove, v: weights(own, keep, remove, v).softmax(0), "no softmax"),
    ("6.2", lambda *a: weights(*a) / weights(*a).sum(), "nothing is normalised"),
    ("6.2", lambda *a: weights(*a)[None], "shape"),
    ("6.2", lambda own, keep, remove, v: weights(own, remove, keep, v), "keep for remove"),
    ("6.2", lambda own, keep, remove, v: weights(0, keep, remove, v), "own is missing"),
    ("6.2", lambda own, keep, remove, v: keep, "expected ["),
    ("6.3", lambda C, s: C / F.avg_pool2d(C[None], s)[0].repeat_interleave(s, 0).repeat_interleave(s, 1), "floor the divisor"),
    ("6.3", lambda C, s: lnorm(C, (C.shape[0] // s, C.shape[1] // s)), "repeat each"),
    ("6.3", lambda C, s: C / C.mean(), "whole map"),
    ("6.3", lambda C, s: exact(C, 2) if s % 2 == 0 else exact(C, s) * 1.5, "must be 1"),
    ("6.3", lambda C, s: exact(C, s)[:-1], "shape"),
    ("6.3", lambda C, s: C / resize(C, (C.shape[0] // s, C.shape[1] // s)).repeat_interleave(s, 0).repeat_interleave(s, 1)
     .clamp(min=1e-12), "does not see the whole block"),
    ("6.4", lambda cams: [cams[0], *(resize(cams[0], C.shape) * lnorm(C, cams[0].shape) for C in cams[1:])], "not C_L"),
    ("6.4", lambda cams: depths(cams)[::-1], "shape"),
    ("6.4", lambda cams: depths(cams)[:1], "a list of 3"),
    ("6.4", lambda cams: [lnorm(cams[0], cams[0].shape), *depths(cams)[1:]], "C_L itself"),
    ("6.4", lambda cams: [P * 2 if i else P for i, P in enumerate(depths(cams))], "equation 6.11"),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said, said


def recursion(cams, above=lambda P: P, small=lambda C, P: P.shape, floor=1e-12):
    steps = [cams[0]]
    for C in cams[1:]:
        mean = resize(resize(C, small(C, steps[-1])), C.shape)
        steps.append(resize(above(steps[-1]), C.shape) * C / mean.clamp(min=floor))
    return steps


@pytest.mark.parametrize("slip, words", [
    ({"above": robust}, "passed on as it is"),
    ({"small": lambda C, P: [max(1, side // 2) for side in C.shape]}, "not always half"),
    ({"floor": 0}, "floor the divisor"),
])    # fmt: skip
def test_a_slip_of_the_recursion_is_named(slip, words, capsys):
    check_exercise("6.4", lambda cams: recursion(cams, **slip))
    assert words in capsys.readouterr().out


def test_a_recursion_without_divisor_or_with_the_wrong_map_is_named(capsys):
    def without(cams):
        steps = [cams[0]]
        for C in cams[1:]:
            steps.append(resize(steps[-1], C.shape) * C)
        return steps

    def previous(cams):
        return [cams[0], *(resize(B, C.shape) * lnorm(C, B.shape) for B, C in zip(cams, cams[1:], strict=False))]

    check_exercise("6.4", without)
    assert "the divisor is missing" in capsys.readouterr().out
    check_exercise("6.4", previous)
    assert "not the C before it" in capsys.readouterr().out
