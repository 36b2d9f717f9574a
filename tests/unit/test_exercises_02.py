"""The checker of notebook 02's exercises accepts right answers and names what is wrong with the usual wrong ones."""

import pytest
import torch
import torch.nn.functional as F

from cambook.check import check_exercise


def wide(A, size, **options):
    return F.interpolate(A[None, None], size, mode="bilinear", **options)[0, 0]


def minmax(M, eps=0.):
    return (M - M.min()) / (M.max() - M.min() + eps)


def mask(A, size):
    if A.max() == A.min():
        return torch.zeros(size)
    return minmax(wide(A, size))


def increase(score, X, H, baseline):
    return score(X * H[:, None]) - score(baseline[None])


def over_grey(answers, empty, c):
    return (answers.softmax(1)[:, c] - empty.softmax(0)[c]).clamp(min=0)


def strongest(A, m):
    spread = A.flatten(1).std(1)
    return spread.argsort(descending=True)[: min(m, int((spread > 0).sum()))]


@pytest.mark.parametrize("number, answer", [("2.1", mask), ("2.2", increase), ("2.3", over_grey), ("2.4", strongest)])
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("2.1", lambda A, size: minmax(wide(A, size)), "0/0"),
    ("2.1", lambda A, size: wide(minmax(A), size), "normalised first"),
    ("2.1", lambda A, size: minmax(wide(A, size, align_corners=True)), "align_corners=True"),
    ("2.1", lambda A, size: minmax(wide(A, size), 1e-5), "dims it"),
    ("2.1", lambda A, size: minmax(A), "of that size"),
    ("2.1", lambda A, size: wide(A, size) / wide(A, size).max(), "between 0 and 1"),
    ("2.1", lambda A, size: minmax(F.interpolate(A[None, None], size)[0, 0]), "differ from N(U(A))"),
    ("2.2", lambda score, X, H, baseline: score(X * H[:, None]) - score(X[None]), "score of the picture"),
    ("2.2", lambda score, X, H, baseline: score(X * H[:, None]), "is not subtracted"),
    ("2.2", lambda score, X, H, baseline: score(baseline[None]) - score(X * H[:, None]), "turned round"),
    ("2.2", lambda score, X, H, baseline: (score((X * H)[None]) - score(baseline[None])).expand(len(H))
     if len(H) == 3 else increase(score, X, H, baseline), "all three colours"),
    ("2.2", lambda score, X, H, baseline: score(X * H[0]) - score(baseline), "(N, 3, H, W)"),
    ("2.3", lambda answers, empty, c: answers.softmax(1)[:, c], "not subtracted"),
    ("2.3", lambda answers, empty, c: answers.softmax(1)[:, c] - empty.softmax(0)[c], "must weigh 0"),
    ("2.3", lambda answers, empty, c: (answers.softmax(1)[:, c] - empty.softmax(0)[c]).abs(), "absolute value"),
    ("2.3", lambda answers, empty, c: (answers.softmax(0)[:, c] - empty.softmax(0)[c]).clamp(min=0), "dimension 1"),
    ("2.3", lambda answers, empty, c: (answers[:, c] - empty[c]).clamp(min=0), "those are logits"),
    ("2.3", lambda answers, empty, c: over_grey(answers, empty, c) / 2, "expected ["),
    ("2.3", lambda answers, empty, c: over_grey(answers, empty, c)[None], "one a question"),
    ("2.4", lambda A, m: A.flatten(1).std(1).topk(m).indices, "alive"),
    ("2.4", lambda A, m: A.flatten(1).amax(1).topk(m).indices, "has no mask"),
    ("2.4", lambda A, m: A.flatten(1)[1:].mean(1).topk(m).indices + 1, "hardly varies"),
    ("2.4", lambda A, m: strongest(A, m).sort().values, "most varied"),
    ("2.4", lambda A, m: strongest(A, m + 1), "expected 3 channels"),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said, said
