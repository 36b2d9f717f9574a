"""Tests of the exercises of notebook 05. Each wrong turn that readers take has a sentence of its own."""

from functools import partial

import torch
from torch import Tensor

from .comparing import compare

_compare = partial(compare, nan="there is NaN in it; where does 0/0 or 0 · log 0 come from?")


def _minmax(maps: Tensor) -> Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low)


def gradient_masks(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for channels, height, width in ((5, 3, 4), (2, 2, 2)):
        A = torch.rand(channels, height, width, generator=generator) + 1
        alpha = torch.randn(channels, generator=generator)
        alpha[0], alpha[1] = 0.3, -2.0
        plain, negative = _minmax(A), (alpha < 0)[:, None, None]
        expected = torch.where(negative, 1 - plain, plain)
        _compare(f"{channels} channels", answer(alpha.clone(), A.clone()), expected, {
            "the sign of α is lost: for a negative one the least becomes the greatest.": plain,
            "a negative channel gets a mask too, and not an empty one.": plain * ~negative,
            "you normalised first, so the masks of negative channels are negative.":
                alpha[:, None, None] * plain,
            "those are the weighted maps; bring each to 0 … 1.": alpha[:, None, None] * A,
            "each channel has its own least and greatest value; you took those of all.":
                (alpha[:, None, None] * A - (alpha[:, None, None] * A).min())
                / ((alpha[:, None, None] * A).max() - (alpha[:, None, None] * A).min()),
        })  # fmt: skip


def merge_weights(answer) -> None:
    generator = torch.Generator().manual_seed(1)
    for channels, height, width in ((3, 2, 2), (6, 3, 5)):
        A = torch.rand(channels, height, width, generator=generator) ** 3
        alpha = 5 * torch.randn(channels, generator=generator)
        alpha[0], alpha[1] = 7, -12    # some cells above zero, some below
        beta = torch.randn(channels, generator=generator).softmax(0)

        def total(weights: Tensor, maps: Tensor = A) -> Tensor:
            return (weights[:, None, None] * maps).sum(0)

        share = alpha / alpha.abs().sum()
        got, expected = answer(alpha.clone(), beta.clone(), A.clone()), total(share + beta).relu()
        _compare(f"{channels} channels", got, expected, {
            "α is as large as the network's gradients happen to be; divide it by ‖α‖₁.":
                total(alpha + beta).relu(),
            "‖α‖₁ adds up the sizes, not the signed numbers.": total(alpha / alpha.sum() + beta).relu(),
            "that is ‖α‖₂; with it α and β are not of one size.": total(alpha / alpha.norm() + beta).relu(),
            "the ReLU comes last; below zero there is no evidence to show.": total(share + beta),
            "a ReLU on the weights lets no negative evidence through, so nothing can cancel.":
                total((share + beta).relu()),
            "those are merged maps: the ReLU of each before they are added.":
                total(share).relu() + total(beta).relu(),
            "β was forgotten.": total(share).relu(),
        })  # fmt: skip
    A, beta = torch.ones(2, 2, 2), torch.tensor([0.5, 0.5])
    _compare("no gradient at all", answer(torch.zeros(2), beta, A), torch.ones(2, 2), {})


def evenness(answer) -> None:
    generator = torch.Generator().manual_seed(2)
    cases = {
        "four equal weights": torch.ones(4) / 4,
        "½, ¼, ¼": torch.tensor([0.5, 0.25, 0.25]),
        "seven weights": torch.randn(7, generator=generator).softmax(0),
        "one weight takes all": torch.tensor([0.0, 1.0, 0.0]),
        "scores between 0 and 1 that do not add up to 1": torch.rand(5, generator=generator),
    }
    for case, beta in cases.items():
        share = beta / beta.sum()
        entropy = -torch.special.xlogy(share, share).sum()
        most = torch.tensor(float(len(beta))).log()
        got = answer(beta.clone())
        _compare(case, torch.as_tensor(got), entropy / most, {
            "the largest entropy is log K; divide by it.": entropy,
            "divide by log K, not by K.": entropy / len(beta),
            "the sign is turned round.": -entropy / most,
            "weights that do not add up to 1 are no shares yet.":
                -torch.special.xlogy(beta, beta).sum() / most,
            "β holds the weights, no scores: divide by their sum, without another softmax.":
                torch.special.entr(beta.softmax(0)).sum() / most,
            "that is the number of channels that have a say (eq. 2.8), as a share of K.":
                entropy.exp() / len(beta),
        })  # fmt: skip


def smallest(answer) -> None:
    for low, high, first in ((8, 128, 32), (13, 227, 17), (1, 2, 2), (7, 8, 8), (7, 224, 7), (1, 1024, 1000)):
        asked: list[int] = []

        def accepts(size: int, first: int = first, asked: list[int] = asked) -> bool:
            asked.append(size)
            # A loop that never ends would hang the reader's notebook.
            assert len(asked) <= high - low + 3, (
                f"from {low} to {high}: {size} is asked about again and again; does the interval shrink?"
            )
            return size >= first

        got, where = answer(accepts, low, high), f"from {low} to {high}, accepted from {first} on"
        assert isinstance(got, int), f"{where}: return a whole number, not {type(got).__name__}."
        assert all(low <= size <= high for size in asked), f"{where}: you asked about {asked[-1]}."
        assert got != first - 1, f"{where}: {got} is the largest that is refused; return the next one."
        assert got >= first, f"{where}: {got} is refused."
        assert got == first, f"{where}: {got} is accepted, but so is {got - 1}."
        limit = (high - low).bit_length() + 2
        assert len(asked) <= limit, (
            f"{where}: right, but you asked {len(asked)} times; halve the interval, and {limit} are enough."
        )


TESTS = {"5.1": gradient_masks, "5.2": merge_weights, "5.3": evenness, "5.4": smallest}
