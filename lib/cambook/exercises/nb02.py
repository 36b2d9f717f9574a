"""Tests of the exercises of notebook 02."""

import torch
import torch.nn.functional as F


def _minmax(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low)


def _wide(channel: torch.Tensor, size: tuple[int, int], corners: bool = False) -> torch.Tensor:
    return F.interpolate(channel[None, None], size, mode="bilinear", align_corners=corners)[0, 0]


def _same(got, expected, atol: float = 1e-5) -> bool:
    return got.shape == expected.shape and torch.allclose(got.double(), expected.double(), rtol=0, atol=atol)


def mask(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    peak = torch.zeros(3, 3)
    peak[1, 1] = 5.
    cases = ((peak, (6, 12)), (torch.randn(4, 5, generator=generator), (9, 7)),
             (torch.randn(5, 4, generator=generator).T, (8, 10)))            # not square, negative, not contiguous
    for channel, size in cases:
        got, where = answer(channel.clone(), size), f"a {channel.shape[0]}×{channel.shape[1]} channel for {size}"
        assert isinstance(got, torch.Tensor) and tuple(got.shape) == size, f"{where}: the mask must be a tensor of that size."
        if _same(got, _minmax(_wide(channel, size))):
            continue
        assert not _same(got, _wide(_minmax(channel), size)), f"{where}: you normalised first, so the peak is cut off; upsample first."
        assert not _same(got, _minmax(_wide(channel, size, True))), f"{where}: that is align_corners=True; use torch's default."
        assert got.min() >= 0 and got.max() <= 1, f"{where}: a mask lies between 0 and 1; yours runs from {got.min():.2f} to {got.max():.2f}."
        raise AssertionError(f"{where}: the values differ from N(U(A)) by up to {(got - _minmax(_wide(channel, size))).abs().max():.2f}.")
    faint = answer(1e-6 * peak, (6, 6))
    assert faint.max() > .99, "a faint channel must get a full mask too: an epsilon in the denominator dims it."
    for value in (0., 3.):
        got = answer(torch.full((2, 2), value), (4, 6))
        assert not got.isnan().any(), f"a channel that is {value:g} everywhere became NaN: 0/0 needs its own answer, zeros."
        assert (got == 0).all(), f"a channel that is {value:g} everywhere has no place to show: its mask is zero."


def increase(answer) -> None:
    generator = torch.Generator().manual_seed(0)

    def score(images):                                    # (N, 3, H, W) → (N,); not linear, and not 0 at 0
        assert images.ndim == 4 and images.shape[1] == 3, f"score takes pictures (N, 3, H, W), but got {tuple(images.shape)}."
        return (images.tanh() * slope).sum((1, 2, 3)) + 2

    for count, height, width in ((2, 4, 5), (3, 4, 5), (1, 6, 3)):           # 3 masks fit 3 colours by accident
        slope = torch.randn(3, height, width, generator=generator)
        X = torch.randn(3, height, width, generator=generator)
        H = torch.rand(count, height, width, generator=generator)
        baseline = torch.randn(3, height, width, generator=generator)
        expected = torch.stack([score((X * one)[None])[0] for one in H]) - score(baseline[None])
        got, where = answer(score, X, H, baseline), f"{count} masks on a picture of {height}×{width}"
        assert isinstance(got, torch.Tensor) and tuple(got.shape) == (count,), f"{where}: expected {count} numbers, one a mask."
        if _same(got, expected, 1e-4):
            continue
        assert not _same(got, expected + score(baseline[None]) - score(X[None]), 1e-4), (
            f"{where}: you subtracted the score of the picture; the increase is over the baseline.")
        assert not _same(got, expected + score(baseline[None]), 1e-4), f"{where}: the score of the baseline is not subtracted."
        assert not _same(got, -expected, 1e-4), f"{where}: the sign is turned round."
        raise AssertionError(f"{where}: expected {[round(value, 2) for value in expected.tolist()]}, "
                             f"got {[round(value, 2) for value in got.tolist()]}; does mask k hide the same places in all three colours?")


def over_grey(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for count, classes, c in ((6, 4, 2), (5, 5, 0), (8, 3, 1)):
        answers, empty = (3 * torch.randn(*shape, generator=generator) for shape in ((count, classes), (classes,)))
        answers[0, c], empty[c] = answers[0, c] + 9, 0.                      # one view convinces in any case
        p, grey = answers.softmax(1)[:, c], empty.softmax(0)[c]
        got, where = answer(answers.clone(), empty.clone(), c), f"{count} questions, {classes} classes, class {c}"
        assert isinstance(got, torch.Tensor) and tuple(got.shape) == (count,), (
            f"{where}: expected {count} numbers, one a question.")
        if _same(got, (p - grey).clamp(min=0)):
            continue
        assert not _same(got, p), f"{where}: those are the code's own weights; the empty picture is not subtracted."
        assert not _same(got, p - grey), f"{where}: a view that convinces less than plain grey must weigh 0, not less."
        assert not _same(got, (p - grey).abs()), f"{where}: less than plain grey counts as 0, not as its absolute value."
        assert not _same(got, (answers.softmax(0)[:, c] - grey).clamp(min=0)), (
            f"{where}: the softmax of the answers runs over the classes, along dimension 1.")
        assert not _same(got, (answers[:, c] - empty[c]).clamp(min=0)), (
            f"{where}: those are logits; take the probabilities first, then the difference.")
        raise AssertionError(f"{where}: expected {[round(value, 3) for value in (p - grey).clamp(min=0).tolist()]}, "
                             f"got {[round(value, 3) for value in got.tolist()]}.")


def strongest(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for channels, height, width, m in ((6, 3, 4, 3), (20, 5, 2, 7)):
        A = torch.rand(channels, height, width, generator=generator) * torch.rand(channels, 1, 1, generator=generator)
        A[0] = 9.                                         # loud, but the same everywhere
        A[1] = torch.rand(height, width, generator=generator) * .01 + 8.     # loud, and nearly the same everywhere
        got, where = _indices(answer(A.clone(), m)), f"{m} of {channels} channels"
        expected = A.flatten(1).std(1).topk(m).indices.tolist()
        assert len(got) == m, f"{where}: expected {m} channels, got {len(got)}."
        assert 0 not in got, f"{where}: channel 0 is the same everywhere, so it has no mask."
        assert set(got) != set(A.flatten(1).amax(1).topk(m).indices.tolist()), f"{where}: loud is not the same as varied; take the spread."
        assert 1 not in got, f"{where}: channel 1 is loud but hardly varies; rank by the standard deviation, not by mean or maximum."
        assert set(got) == set(expected), f"{where}: expected channels {sorted(expected)}, got {sorted(got)}."
        assert got == expected, f"{where}: the right channels, but not from the most varied to the least."
    A = torch.zeros(5, 2, 2)
    A[3, 0, 0] = A[4, 1, 1] = 1.
    A[4] *= 2
    got = _indices(answer(A, 4))
    assert got == [4, 3], f"only channels 3 and 4 of five are alive, so asking for 4 must give those two; got {got}."


def _indices(answer) -> list[int]:
    return [int(index) for index in answer]


TESTS = {"2.1": mask, "2.2": increase, "2.3": over_grey, "2.4": strongest}
