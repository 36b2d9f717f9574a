"""The checker of notebook 04's exercises accepts right answers and names what is wrong with the usual wrong ones."""

import pytest
import torch

from cambook.check import check_exercise


def largest(M):
    return M / M.max() if M.max() > 0 else M


def fuse(maps, lam, N=largest, last=largest):
    R = maps[-1]
    for S in maps[-2::-1]:
        R = N(S * (lam + R))
    return last(R)


def trusted(logits, c):
    return [i for i in range(len(logits)) if i == 0 or logits[i].argmax() == c]


def fair(maps):
    return largest(torch.stack(maps).prod(0) ** (1 / len(maps)))


def outside(maps, lam):
    R = maps[-1]
    for S in maps[-2::-1]:
        R = largest(lam + S * R)
    return R


def nothing(M):
    return M


@pytest.mark.parametrize(
    "number, answer", [("4.1", fuse), ("4.2", lambda q: q / (1 - q)), ("4.3", trusted), ("4.4", fair)]
)
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("4.1", lambda maps, lam: fuse(maps[::-1], lam), "the largest one comes first"),
    ("4.1", lambda maps, lam: fuse(maps, lam, N=nothing), "not only the last one"),
    ("4.1", lambda maps, lam: fuse(maps, lam, nothing, nothing), "N stands around each"),
    ("4.1", lambda maps, lam: fuse(maps, 0), "that is the product"),
    ("4.1", outside, "inside the bracket"),
    ("4.1", lambda maps, lam: fuse(maps, lam, lambda M: M / M.max()), "look before you divide"),
    ("4.1", lambda maps, lam: fuse(maps, lam).tolist(), "not list"),
    ("4.1", lambda maps, lam: fuse(maps, lam)[0], "expected shape"),
    ("4.1", lambda maps, lam: fuse(maps, lam) / 2, "expected "),
    ("4.2", lambda q: q / (1 + q), "solve it for λ"),
    ("4.2", lambda q: 2 * q, "promises"),
    ("4.2", lambda q: (1 - q) / q, "upside down"),
    ("4.2", lambda q: 1 - q, "larger promise"),
    ("4.2", lambda q: torch.tensor(q), "return a number"),
    ("4.3", lambda logits, c: (logits.argmax(1) == c).nonzero()[:, 0], "the original scale stays"),
    ("4.3", lambda logits, c: [True, *(logits[1:].argmax(1) == c).tolist()], "not True and False"),
    ("4.3", lambda logits, c: [0, *(i for i in range(1, len(logits)) if logits[i].softmax(0)[c] > .5)], "first place"),
    ("4.3", lambda logits, c: trusted(logits, c)[::-1], "in their order"),
    ("4.3", lambda logits, c: [0, 1, 2, 3], "expected the scales"),
    ("4.4", lambda maps: largest(torch.stack(maps).prod(0)), "which sharpens"),
    ("4.4", lambda maps: torch.stack(maps).mean(0), "can speak alone"),
    ("4.4", lambda maps: largest(torch.stack(maps).mean(0)), "can speak alone"),
    ("4.4", lambda maps: torch.stack(maps).prod(0) ** (1 / len(maps)), "at the end"),
    ("4.4", lambda maps: fair(maps) / fair(maps).max(), "look before you divide"),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said, said
