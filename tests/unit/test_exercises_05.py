"""The checker of notebook 05's exercises takes right answers and names what is wrong with the usual ones."""

import math

import pytest
import torch

from cambook.check import check_exercise


def minmax(M):
    low, high = M.amin((-2, -1), keepdim=True), M.amax((-2, -1), keepdim=True)
    return (M - low) / (high - low)


def total(weights, A):
    return (weights[:, None, None] * A).sum(0)


def gradient_masks(alpha, A):
    return minmax(alpha[:, None, None] * A)


def merge_weights(alpha, beta, A):
    size = alpha.abs().sum()
    return total((alpha / size if size > 0 else alpha) + beta, A).relu()


def evenness(beta):
    share = beta / beta.sum()
    return -torch.special.xlogy(share, share).sum() / math.log(len(beta))


def smallest(accepts, low, high):
    if accepts(low):
        return low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if accepts(middle) else (middle, high)
    return high


def everything(accepts, low, high):
    return next(size for size in range(low, high + 1) if accepts(size))


def endless(accepts, low, high):
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if accepts(middle) else (middle, high)
    return low


def refused(accepts, low, high):
    found = smallest(accepts, low, high)
    return found if found == low else found - 1


ANSWERS = [("5.1", gradient_masks), ("5.2", merge_weights), ("5.3", evenness), ("5.4", smallest)]


@pytest.mark.parametrize(("number", "answer"), ANSWERS)
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [
        ("5.1", lambda alpha, A: minmax(A), "sign of α is lost"),
        ("5.1", lambda alpha, A: minmax(A) * (alpha > 0)[:, None, None], "not an empty one"),
        ("5.1", lambda alpha, A: alpha[:, None, None] * minmax(A), "normalised first"),
        ("5.1", lambda alpha, A: alpha[:, None, None] * A, "bring each to 0"),
        ("5.1", lambda alpha, A: minmax((alpha[:, None, None] * A).flatten(1)).view_as(A), "of all"),
        ("5.1", lambda alpha, A: minmax(alpha[:, None] * A), "RuntimeError"),
        ("5.1", lambda alpha, A: gradient_masks(alpha, A)[0], "expected shape"),
        ("5.1", lambda alpha, A: gradient_masks(alpha, A).tolist(), "return a tensor"),
        ("5.1", lambda alpha, A: gradient_masks(alpha, A) ** 2, "expected"),
        ("5.2", lambda a, b, A: total(a + b, A).relu(), "divide it by ‖α‖₁"),
        ("5.2", lambda a, b, A: total(a / a.sum() + b, A).relu(), "signed numbers"),
        ("5.2", lambda a, b, A: total(a / a.norm() + b, A).relu(), "‖α‖₂"),
        ("5.2", lambda a, b, A: total(a / a.abs().sum() + b, A), "the ReLU comes last"),
        ("5.2", lambda a, b, A: total((a / a.abs().sum() + b).relu(), A), "nothing can cancel"),
        ("5.2", lambda a, b, A: total(a / a.abs().sum(), A).relu() + total(b, A).relu(), "merged maps"),
        ("5.2", lambda a, b, A: total(a / a.abs().sum(), A).relu(), "β was forgotten"),
        ("5.2", lambda a, b, A: total(a / a.abs().sum() + b, A).relu(), "NaN"),
        ("5.3", lambda beta: evenness(beta) * math.log(len(beta)), "divide by it"),
        ("5.3", lambda beta: evenness(beta) * math.log(len(beta)) / len(beta), "not by K"),
        ("5.3", lambda beta: -evenness(beta), "turned round"),
        ("5.3", lambda beta: -torch.special.xlogy(beta, beta).sum() / math.log(len(beta)), "no shares yet"),
        ("5.3", lambda beta: evenness(beta.softmax(0)), "another softmax"),
        ("5.3", lambda beta: (evenness(beta) * math.log(len(beta))).exp() / len(beta), "eq. 2.8"),
        ("5.3", lambda beta: torch.distributions.Categorical(beta).entropy() * math.nan, "NaN"),
        ("5.4", everything, "halve the interval"),
        ("5.4", endless, "again and again"),
        ("5.4", refused, "largest that is refused"),
        ("5.4", lambda accepts, low, high: high, "but so is"),
        ("5.4", lambda accepts, low, high: low, "is refused"),
        ("5.4", lambda accepts, low, high: float(smallest(accepts, low, high)), "whole number"),
        ("5.4", lambda accepts, low, high: (accepts(low - 1), low)[1], "you asked about"),
    ],
)
def test_wrong_turns_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert said.startswith(f"exercise {number}: not right yet") and words in said


@pytest.mark.parametrize("number", ["5.1", "5.2", "5.3", "5.4"])
def test_unwritten(number, capsys):
    check_exercise(number, lambda *given: ...)
    assert "not yet written" in capsys.readouterr().out
