"""Tests of the exercises of notebook 07."""

import torch


def _same(got, expected, atol: float = 1e-5) -> bool:
    return got.shape == expected.shape and torch.allclose(
        got.double(), expected.double(), rtol=0, atol=atol
    )


def _minmax(L: torch.Tensor) -> torch.Tensor:
    return (L - L.min()) / (L.max() - L.min()) if L.max() > L.min() else torch.zeros_like(L)


def beta_of(answer) -> None:
    generator = torch.Generator().manual_seed(0)

    def score(images):    # (N, 3, H, W) → (N,); not linear, and not 0 at 0
        assert images.ndim == 4 and images.shape[1] == 3, (
            f"score takes pictures (N, 3, H, W), but got {tuple(images.shape)}."
        )
        return torch.sigmoid((images * slope).sum((1, 2, 3)) + 0.7)

    for height, width in ((4, 5), (3, 3), (6, 2)):    # a map of 3×3 on three colours fits by accident
        slope = torch.randn(3, height, width, generator=generator)
        X = torch.randn(3, height, width, generator=generator)
        L = torch.rand(height, width, generator=generator)
        seen, clean = score(torch.stack([X * L, X]))
        empty = score(torch.zeros(1, 3, height, width))[0]
        got, where = torch.as_tensor(answer(score, X, L)).double(), f"a picture of {height}×{width}"
        assert got.numel() == 1, f"{where}: β is one number, but yours has shape {tuple(got.shape)}."
        got, expected = got.reshape(()), (seen - empty).double()
        if _same(got, expected):
            continue
        assert not _same(got, seen.double()), f"{where}: the score of the empty picture is not subtracted."
        assert not _same(got, -expected), f"{where}: the sign is turned round."
        assert not _same(got, (seen - clean).double()), (
            f"{where}: you subtracted the score of the picture; β compares with the empty one."
        )
        assert not _same(got, expected.clamp(min=0)), f"{where}: a negative β stays negative."
        raise AssertionError(f"{where}: expected {expected:.3f}, got {got:.3f}.")


def shares(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for channels, height, width, theta in ((3, 2, 2, 0), (5, 3, 4, 10), (6, 4, 3, 70), (4, 5, 5, 90)):
        G = torch.randn(channels, height, width, generator=generator) + 0.5
        G[0] = 0.25    # a constant: nothing is strictly below
        G[1] = -G[1].abs() - 0.1
        t = torch.quantile(G.flatten(1), theta / 100, dim=1)[:, None, None]
        got, where = answer(G.clone(), theta), f"{channels} channels of {height}×{width} at θ = {theta}"
        assert isinstance(got, torch.Tensor) and got.shape == G.shape, f"{where}: expected {tuple(G.shape)}."
        assert not got.isnan().any(), f"{where}: NaN; a channel without a positive gradient gets zeros."
        expected = _shares(G, G >= t)
        if _same(got, expected):
            continue
        assert not _same(got, _shares(G, G >= torch.quantile(G, theta / 100))), (
            f"{where}: one threshold for all channels; each has its own."
        )
        assert not _same(got[0], torch.zeros(height, width)), (
            f"{where}: the constant channel is gone; only what is strictly below its percentile goes."
        )
        assert not _same(got, _shares(G, G == G)), f"{where}: nothing was cut."
        assert not (got < 0).any(), f"{where}: a share is negative; ReLU comes before the sum."
        R = G.where(G >= t, G * 0).relu()
        assert not _same(got, R / R.sum()), f"{where}: one sum for all channels; each is divided by its own."
        assert not _same(got * G.relu().sum((1, 2), keepdim=True).clamp(min=1e-9), expected) and not _same(
            got, R
        ), f"{where}: the shares of a channel must add up to one."
        raise AssertionError(f"{where}: the values differ by up to {(got - expected).abs().max():.2f}.")


def _shares(G: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    R = G.where(kept, G * 0).relu()
    total = R.sum((1, 2), keepdim=True)
    return R / total.where(total > 0, total * 0 + 1)


def unite(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = ((0.2, 0.6), (0.3, -0.4), (-0.4, 0.3), (-0.5, -0.2), (0.0, -0.1), (0.02, 0.06), (0.0, 0.0))
    for b_d, b_r in cases:
        den, reg = (_minmax(torch.rand(4, 5, generator=generator)) for _ in range(2))
        got, where = answer(den.clone(), reg.clone(), b_d, b_r), f"scores {b_d} (denoised) and {b_r} (region)"
        assert isinstance(got, torch.Tensor) and got.shape == reg.shape, f"{where}: expected a map of 4×5."
        assert not got.isnan().any(), f"{where}: NaN."
        mixed = max(b_d, 0) * den + max(b_r, 0) * reg
        expected = reg if max(b_d, b_r) <= 0 else _minmax(mixed)
        if _same(got, expected):
            continue
        assert not _same(got, _minmax(b_d * den + b_r * reg)) and not _same(got, 1 - reg), (
            f"{where}: a negative score counts as 0; else it turns its map inside out."
        )
        assert min(b_d, b_r) >= 0 or not _same(got, _minmax(abs(b_d) * den + abs(b_r) * reg)), (
            f"{where}: a negative score counts as 0, not as a positive one."
        )
        assert max(b_d, b_r) > 0, f"{where}: no score is positive, so the region map comes back as it is."
        assert min(b_d, b_r) > 0 or not _same(got, reg), (
            f"{where}: only if neither score is positive does the region map come back; one is."
        )
        assert not _same(got, _minmax(max(b_r, 0) * den + max(b_d, 0) * reg)), (
            f"{where}: each map gets its own score; yours are exchanged."
        )
        assert not _same(_minmax(got), expected), (
            f"{where}: bring the mixture to [0, 1] by its minimum and maximum."
        )
        raise AssertionError(f"{where}: the values differ by up to {(got - expected).abs().max():.2f}.")


def idle(answer) -> None:
    cases = (
        (((-1.0, 1.0), (2.0, 4.0)), 100 / 3, "three of four positive"),
        (((0.0, 0.0), (0.0, 3.0)), 100.0, "one positive: it is the maximum"),
        (((1.0, 2.0), (3.0, 4.0)), 0.0, "all positive"),
        (((-1.0, -2.0), (0.0, -4.0)), 100.0, "none positive"),
        (((1.0, 1.0, 5.0), (-1.0, 6.0, 7.0)), 40.0, "the smallest positive value occurs twice"),
        (((2.0, 2.0), (2.0, 2.0)), 100.0, "a constant: nothing is ever strictly below"),
        (((0.0, -3.0, 1.0), (0.0, 2.0, -1.0), (0.0, 0.5, 0.0)), 75.0, "six of nine are not positive"),
    )
    for values, expected, words in cases:
        got = float(answer(torch.tensor(values)))
        if abs(got - expected) < 1e-3:
            continue
        G = torch.tensor(values)
        share = 100 * float((G <= 0).float().mean())
        assert not abs(got - share) < 1e-3 or share in (0, 100), (
            f"{words}: that is the share of entries that are not positive; count places, not entries."
        )
        raise AssertionError(
            f"{words}: expected θ = {expected:.3f}, got {got:.3f} for {list(map(list, values))}."
        )


TESTS = {"7.1": beta_of, "7.2": shares, "7.3": unite, "7.4": idle}
