"""The checker of notebook 00's exercises accepts right answers and names what is wrong with the usual wrong ones."""

import pytest
import torch

from cambook.check import check_exercise


def rescale(raw):
    R = raw.clamp(min=0)
    if R.max() == R.min():
        return torch.zeros_like(R)
    return (R - R.min()) / (R.max() - R.min())


def box_energy(map, box):
    x0, y0, x1, y1 = box
    return map[y0:y1, x0:x1].sum() / map.sum()


def centre_hits(masks):
    return masks[:, masks.shape[1] // 2, masks.shape[2] // 2].float().mean()


def rescale_without_guard(raw):
    R = raw.clamp(min=0)
    return (R - R.min()) / (R.max() - R.min())


@pytest.mark.parametrize("number, answer", [("0.1", rescale), ("0.2", box_energy), ("0.3", centre_hits)])
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("0.1", rescale_without_guard, "0/0"),
    ("0.1", lambda raw: (raw - raw.min()) / (raw.max() - raw.min()), "maximum 2"),
    ("0.1", lambda raw: raw.clamp(min=0) / raw.clamp(min=0).max().clamp(min=1e-9), "smallest value must become 0"),
    ("0.1", lambda raw: rescale(raw) * (raw.max() / (raw.max() + 1e-8)), "dims it"),
    ("0.2", lambda map, box: map[box[0]:box[2], box[1]:box[3]].sum() / map.sum(), "rows and columns are swapped"),
    ("0.2", lambda map, box: map[box[1]:box[3] + 1, box[0]:box[2] + 1].sum() / map.sum(), "outside the box"),
    ("0.3", lambda masks: masks[:, masks.shape[1] // 2, masks.shape[2] // 2].mean(), "stopped with "),
    ("0.3", lambda masks: masks[:, masks.shape[2] // 2, masks.shape[1] // 2].float().mean(), "expected 0.75"),
])
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said
