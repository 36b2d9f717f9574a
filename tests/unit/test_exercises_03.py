"""The checker of notebook 03's exercises accepts right answers and names what is wrong with the usual wrong ones."""

import pytest
import torch

from cambook.check import check_exercise


def attribute(path, slopes):
    return ((slopes[:-1] + slopes[1:]) / 2 * path.diff(dim=0)).sum(0)


def spend(g, room, budget, order=lambda g: g.abs().argsort(), own=1, clamp=0.0):
    order = order(g)
    before = room[order].cumsum(0) - own * room[order]
    u = torch.zeros_like(room)
    u[order] = (budget - before).clamp(min=clamp).minimum(room[order])
    return u


def pooled(G):
    return G.mean((-2, -1), keepdim=True)


def gig_map(A, G):
    return (pooled(G[:-1] + G[1:]) / 2 * A.diff(dim=0)).sum((0, 2)).relu()


def arrival_weights(G):
    return torch.stack([G[s:].mean((2, 3)).sum(0) for s in range(len(G))]) / len(G)


@pytest.mark.parametrize(
    "number, answer", [("3.1", attribute), ("3.2", spend), ("3.3", gig_map), ("3.4", arrival_weights)]
)
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("3.1", lambda path, g: (g[:-1] * path.diff(dim=0)).sum(0), "at its beginning"),
    ("3.1", lambda path, g: (g[1:] * path.diff(dim=0)).sum(0), "at its end"),
    ("3.1", lambda path, g: 2 * attribute(path, g), "half of their sum"),
    ("3.1", lambda path, g: -attribute(path, g), "turned round"),
    ("3.1", lambda path, g: ((g[:-1] + g[1:]) / 2 * path.diff(dim=0)).abs().sum(0), "have signs"),
    ("3.1", lambda path, g: ((g[:-1] + g[1:]) / 2).mean(0) * (path[-1] - path[0]), "straight line only"),
    ("3.1", lambda path, g: g.mean(0) * (path[-1] - path[0]), "bent path"),
    ("3.1", lambda path, g: attribute(path, g).sum(), "expected shape"),
    ("3.1", lambda path, g: attribute(path, g) + 1, "expected "),
    ("3.2", lambda g, room, budget: spend(g, room, budget, lambda g: g.argsort()), "sort by its size"),
    ("3.2", lambda g, room, budget: spend(g, room, budget, lambda g: g.abs().argsort().flip(0)), "dearest first"),
    ("3.2", lambda g, room, budget: room * (budget / room.sum()), "straight line"),
    ("3.2", lambda g, room, budget: spend(g, room, budget)[g.abs().argsort()], "wrong places"),
    ("3.2", lambda g, room, budget: spend(g, room, budget, clamp=-torch.inf), "below 0"),
    ("3.2", lambda g, room, budget: spend(g, room, budget, own=0), "spent already"),
    ("3.2", lambda g, room, budget: spend(g, room, min(budget, 5)), "larger than all room"),
    ("3.2", lambda g, room, budget: spend(g, room, budget).tolist(), "not list"),
    ("3.3", lambda A, G: (pooled(G[:-1] + G[1:]) / 2 * A.diff(dim=0)).sum(2).relu().sum(0), "in each step"),
    ("3.3", lambda A, G: (pooled(G[:-1] + G[1:]) / 2 * A.diff(dim=0)).sum((0, 2)), "at the end is missing"),
    ("3.3", lambda A, G: ((G[:-1] + G[1:]) / 2 * A.diff(dim=0)).sum((0, 2)).relu(), "that is 3.14"),
    ("3.3", lambda A, G: (pooled(G[:-1] + G[1:]) / 2 * (A[1:] - A[0])).sum((0, 2)).relu(), "with the baseline"),
    ("3.3", lambda A, G: (pooled(G[:-1]) * A.diff(dim=0)).sum((0, 2)).relu(), "at its beginning"),
    ("3.3", lambda A, G: (pooled(G[:-1] + G[1:]) / 2 * A.diff(dim=0)).sum(2).mean(0).relu(), "is their sum"),
    ("3.3", lambda A, G: (pooled(G[1:]) * (A[1:] - A[0])).sum(2).relu().mean(0), "Integrated Grad-CAM's sum"),
    ("3.4", lambda G: G.mean((2, 3)).cumsum(0) / len(G), "from s to the end"),
    ("3.4", lambda G: arrival_weights(G) * len(G), "1/T is missing"),
    ("3.4", lambda G: arrival_weights(G) - G.mean((2, 3)) / len(G), "belongs to the sum"),
    ("3.4", lambda G: G.mean((2, 3)).flip(0).cumsum(0) / len(G), "stands last"),
    ("3.4", lambda G: arrival_weights(G) * G[0, 0].numel(), "is their mean"),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said, said
