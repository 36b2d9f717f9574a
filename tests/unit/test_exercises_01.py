"""The exercises of notebook 01: right answers pass, and each classical wrong turn is called by its name."""

import pytest
import torch

from cambook.exercises.nb01 import TESTS


def coefficients(A, g):
    return torch.where(g == 0, 0, 1 / (2 + A.sum((2, 3), keepdim=True) * g))


RIGHT = {
    "1.1": lambda A, W, targets: (W[targets][:, :, None, None] * A).sum(1),
    "1.2": lambda A, g: torch.einsum("bk,bkhw->bhw", g.mean((2, 3)), A).relu(),
    "1.3": coefficients,
    "1.4": lambda A, W, c: torch.einsum("k,khw->hw", W[c] - W.mean(0), A),
}

WRONG = [
    ("1.1", lambda A, W, targets: (W[targets[0]][:, None, None] * A).sum(1), "every image got the first image's class"),
    ("1.1", lambda A, W, targets: RIGHT["1.1"](A, W, targets).relu(), "leave the ReLU out"),
    ("1.1", lambda A, W, targets: (W[targets][:, :, None, None] * A).mean(1), "mean over the channels"),
    ("1.1", lambda A, W, targets: (W[targets][:, :, None, None] * A).sum(1) / A[0, 0].numel(), "which is Grad-CAM"),
    ("1.1", lambda A, W, targets: torch.einsum("ck,bkhw->bchw", W, A), "expected shape"),
    ("1.1", lambda A, W, targets: 3, "return a tensor"),
    ("1.2", lambda A, g: (g.mean((2, 3), keepdim=True) * A).sum(1), "the ReLU is missing"),
    ("1.2", lambda A, g: (g.relu().mean((2, 3), keepdim=True) * A).sum(1), "not on the gradients"),
    ("1.2", lambda A, g: (g.mean((2, 3), keepdim=True).relu() * A).sum(1), "not on the weights"),
    ("1.2", lambda A, g: (g.mean((2, 3), keepdim=True) * A).sum(1).abs(), "does not turn them positive"),
    ("1.2", lambda A, g: (g.sum((2, 3), keepdim=True) * A).sum(1).relu(), "Z times too large"),
    ("1.2", lambda A, g: (g.mean((0, 2, 3), keepdim=True) * A).sum(1).relu(), "ran over the images too"),
    ("1.2", lambda A, g: (g * A).sum(1).relu(), "you did not average"),
    ("1.2", lambda A, g: 2 * RIGHT["1.2"](A, g), "expected .*, got"),
    ("1.3", lambda A, g: torch.nan_to_num(g**2 / (2 * g**2 + (A * g**3).sum((2, 3), keepdim=True))), "swallowed g³"),
    ("1.3", lambda A, g: torch.where(g == 0, 0, 1 / (2 + A.sum((1, 2, 3), keepdim=True) * g)), "ran over the channels"),
    ("1.3", lambda A, g: torch.where(g == 0, 0, 1 / (2 + A.mean((2, 3), keepdim=True) * g)), "mean of A"),
    ("1.3", lambda A, g: 1 / (2 + A.sum((2, 3), keepdim=True) * g), "a is zero too"),
    ("1.3", lambda A, g: g**2 / (2 * g**2 + A.sum((2, 3), keepdim=True) * g**3), "look for 0/0"),
    ("1.3", lambda A, g: torch.nan_to_num(g**2 / (2 * g**2 + A.sum((2, 3), keepdim=True) * g**3)), "Divide g² out"),
    ("1.3", lambda A, g: g**2 / (2 * g**2 + A.sum((2, 3), keepdim=True) * g**3 + 1e-12), "larger than g²"),
    ("1.4", lambda A, W, c: torch.einsum("k,khw->hw", W[c], A), "plain CAM"),
    ("1.4", lambda A, W, c: torch.einsum("k,khw->hw", W[c] - W[c].mean(), A), "mean over the channels"),
    ("1.4", lambda A, W, c: (m := torch.einsum("k,khw->hw", W[c], A)) - m.mean(), "mean of the map"),
    ("1.4", lambda A, W, c: torch.einsum("k,khw->hw", W[c] - (W.sum(0) - W[c]) / 3, A), "left the class itself out"),
]


@pytest.mark.parametrize("number", TESTS)
def test_a_right_answer_passes(number):
    TESTS[number](RIGHT[number])


@pytest.mark.parametrize(("number", "answer", "sentence"), WRONG, ids=[f"{n} {s[:20]}" for n, _, s in WRONG])
def test_a_wrong_turn_is_called_by_its_name(number, answer, sentence):
    with pytest.raises(AssertionError, match=sentence):
        TESTS[number](answer)
