"""The checker of notebook 09's exercises accepts right answers and names what is wrong with the usual wrong ones."""

import pytest
import torch

from cambook.check import check_exercise


def paired(a, b, picked):
    return (a - b)[picked].mean(1)


def places(scores, own=1, share=0.5, first=1):
    above = (scores[None] > scores[:, None]).sum(1)
    equal = (scores[None] == scores[:, None]).sum(1) - own
    return first + above + share * equal


def ahead(s):
    return torch.sign(s[:, None] - s[None])


def agreement(a, b):
    return (ahead(a) * ahead(b)).sum() / (len(a) * (len(a) - 1))


def agreement_without_ties(a, b):
    both = ahead(a) * ahead(b)
    return both.sum() / (both != 0).sum()


def lifts(heats, cues):
    return (heats * cues).sum((1, 2)) / heats.sum((1, 2)) / cues.double().mean((1, 2))


@pytest.mark.parametrize(
    "number, answer",
    [
        ("9.1", paired),
        ("9.2", places),
        ("9.3", agreement),
        ("9.3", lambda a, b: float(agreement(a, b))),
        ("9.4", lifts),
    ],
)
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("9.1", lambda a, b, picked: paired(b, a, picked), "the difference is A − B"),
    ("9.1", lambda a, b, picked: (a - b)[picked].mean(0), "expected shape"),
    ("9.1", lambda a, b, picked: a[picked].mean(1) - b[picked.roll(1, 0)].mean(1), "resampled together"),
    ("9.1", lambda a, b, picked: (a - b).mean().expand(len(picked)), "the same for each draw"),
    ("9.1", lambda a, b, picked: paired(a, b, picked).tolist(), "not list"),
    ("9.2", lambda s: places(-s), "highest score"),
    ("9.2", lambda s: places(s, own=0), "equals itself"),
    ("9.2", lambda s: places(s, share=0), "shares"),
    ("9.2", lambda s: places(s, share=1), "half of one"),
    ("9.2", lambda s: places(s, first=0), "is 1, not 0"),
    ("9.3", lambda a, b: 2 * agreement(a, b), "counted two times"),
    ("9.3", lambda a, b: agreement(a, b) * (len(a) - 1) / len(a), "no pair with itself"),
    ("9.3", lambda a, b: (ahead(a) * ahead(b) > 0).sum() / (len(a) * (len(a) - 1)), "count against it"),
    ("9.3", agreement_without_ties, "stays among the pairs"),
    ("9.3", lambda a, b: torch.corrcoef(torch.stack([a, b]))[0, 1], "expected "),
    ("9.4", lambda h, c: (h * c).sum((1, 2)) / h.sum((1, 2)), "divide by the share of the area"),
    ("9.4", lambda h, c: (h * c).sum((1, 2)) / h.sum((1, 2)) / c.double().mean(), "its own area"),
    ("9.4", lambda h, c: 1 / lifts(h, c), "upside down"),
    ("9.4", lambda h, c: lifts(h, c).nan_to_num(0), "NaN, not 0"),
    ("9.4", lambda h, c: (h * c).sum((1, 2)) / h.sum() / c.double().mean((1, 2)), "its own map's"),
    ("9.4", lambda h, c: lifts(h, c)[0], "expected shape"),
])  # fmt: skip
def test_a_wrong_answer_is_told_why(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert said.startswith(f"exercise {number}: not right yet") and words in said
