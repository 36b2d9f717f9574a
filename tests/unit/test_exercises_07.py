"""The checker of notebook 07's exercises accepts right answers and names the usual mistakes."""

import pytest
import torch

from cambook.check import check_exercise


def minmax(M):
    return (M - M.min()) / (M.max() - M.min())


def beta_of(score, X, L):
    seen, empty = score(torch.stack([X * L, 0 * X]))
    return seen - empty


def shares(G, theta, threshold=None):
    t = torch.quantile(G.flatten(1), theta / 100, dim=1)[:, None, None] if threshold is None else threshold
    R = torch.where(G < t, 0, G).relu()
    total = R.sum((1, 2), keepdim=True)
    return R / torch.where(total > 0, total, 1)


def unite(L_den, L_reg, b_d, b_r):
    if max(b_d, b_r) <= 0:
        return L_reg
    return minmax(max(b_d, 0) * L_den + max(b_r, 0) * L_reg)


def idle(G):
    values = G.flatten()
    if not (values > 0).any():
        return 100.0
    first = values[values > 0].min()
    return 100 * ((values <= first).sum().item() - 1) / (len(values) - 1)


def strictly(G, theta):
    t = torch.quantile(G.flatten(1), theta / 100, dim=1)[:, None, None]
    R = torch.where(G <= t, 0, G).relu()
    total = R.sum((1, 2), keepdim=True)
    return R / torch.where(total > 0, total, 1)


def kept(G, theta):
    t = torch.quantile(G.flatten(1), theta / 100, dim=1)[:, None, None]
    return torch.where(G < t, 0, G)


def without_relu(G, theta):
    R = kept(G, theta)
    return R / R.sum((1, 2), keepdim=True)


@pytest.mark.parametrize(
    "number, answer", [("7.1", beta_of), ("7.2", shares), ("7.3", unite), ("7.4", idle)]
)
def test_the_solution_passes(number, answer, capsys):
    check_exercise(number, answer)
    assert capsys.readouterr().out.startswith(f"PASS exercise {number}")


@pytest.mark.parametrize("number, answer, words", [
    ("7.1", lambda score, X, L: score((X * L)[None])[0], "not subtracted"),
    ("7.1", lambda score, X, L: -beta_of(score, X, L), "turned round"),
    ("7.1", lambda score, X, L: score((X * L)[None])[0] - score(X[None])[0], "score of the picture"),
    ("7.1", lambda score, X, L: score(X * L) - score(0 * X), "(N, 3, H, W)"),
    ("7.1", lambda score, X, L: score((X * L)[None]).expand(2), "one number"),
    ("7.1", lambda score, X, L: beta_of(score, X, L) / 2, "expected"),
    ("7.1", lambda score, X, L: beta_of(score, X, L).clamp(min=0), "negative β"),
    ("7.2", lambda G, theta: G.relu() / G.relu().sum((1, 2), keepdim=True), "NaN"),
    ("7.2", strictly, "strictly below"),
    ("7.2", lambda G, theta: shares(G, theta, torch.quantile(G, theta / 100)), "one threshold"),
    ("7.2", lambda G, theta: shares(G, 0), "nothing was cut"),
    ("7.2", lambda G, theta: torch.where(shares(G, theta) > 0, G, 0), "add up to one"),
    ("7.2", lambda G, theta: shares(G, theta).sum((1, 2)), "expected ("),
    ("7.2", lambda G, theta: shares(G, theta / 2 + 5), "differ by"),
    ("7.2", without_relu, "ReLU comes before"),
    ("7.2", lambda G, theta: kept(G, theta).relu() / kept(G, theta).relu().sum(), "one sum for all"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: unite(L_den, L_reg, abs(b_d), abs(b_r)), "not as a positive one"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: L_reg if min(b_d, b_r) <= 0 else unite(L_den, L_reg, b_d, b_r),
     "one is"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: minmax(b_d * L_den + b_r * L_reg), "counts as 0"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: unite(L_den, L_reg, b_r, b_d), "exchanged"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: max(b_d, 0) * L_den + max(b_r, 0) * L_reg, "minimum and maximum"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: unite(L_den, L_reg, b_d, b_r) if max(b_d, b_r) > 0 else 0 * L_reg,
     "as it is"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: minmax(max(b_d, 0) * L_den + max(b_r, 0) * L_reg), "NaN"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: minmax(L_den + L_reg), "differ by"),
    ("7.3", lambda L_den, L_reg, b_d, b_r: 0.5, "a map of 4×5"),
    ("7.4", lambda G: 100 * (G <= 0).float().mean(), "share of entries"),
    ("7.4", lambda G: 100 * (G <= 0).sum().item() / (G.numel() - 1) if (G > 0).any() else 100,
     "occurs twice"),
    ("7.4", lambda G: 0, "three of four positive"),
    ("7.4", lambda G: idle(G) if (G > 0).any() else 0, "none positive"),
])  # fmt: skip
def test_the_usual_mistakes_are_named(number, answer, words, capsys):
    check_exercise(number, answer)
    said = capsys.readouterr().out
    assert "not right yet" in said and words in said, said
