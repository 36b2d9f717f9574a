"""Tests of the exercises of notebook 04. Each wrong turn that readers take has a sentence of its own."""

from functools import partial

import torch
from torch import Tensor

from .comparing import compare

_compare = partial(
    compare, nan="NaN; a map without evidence is 0/0 unless you look before you divide."
)


def _maps(generator: torch.Generator, scales: int, *size: int) -> list[Tensor]:
    """Maps (H, W) in [0, 1] with zeros in them and a maximum of 1, as the scales of one picture."""
    raw = [(torch.rand(*size, generator=generator) - 0.3).clamp(min=0) for _ in range(scales)]
    return [_largest(map) for map in raw]


def _largest(map: Tensor) -> Tensor:
    return map / map.max() if map.max() > 0 else map


def _fused(maps: list[Tensor], lam: float, between: bool = True) -> Tensor:
    R = maps[-1]
    for S in reversed(maps[:-1]):
        R = S * (lam + R)
        R = _largest(R) if between else R
    return R


def fuse(answer) -> None:
    generator = torch.Generator().manual_seed(1)
    for scales, lam in ((2, 1.0), (3, 1.0), (4, 0.25), (3, 4.0), (1, 1.0)):
        maps = _maps(generator, scales, 5, 6)
        got = answer([map.clone() for map in maps], lam)
        outside = maps[-1]
        for S in reversed(maps[:-1]):
            outside = _largest(lam + S * outside)
        _compare(f"{scales} scales, λ = {lam:g}", got, _fused(maps, lam), {
            "you began with the original scale; the largest one comes first and the original last.":
                _fused(maps[::-1], lam),
            "each R_i is divided by its maximum, not only the last one.": _largest(_fused(maps, lam, False)),
            "nothing is divided by its maximum; N stands around each R_i.": _fused(maps, lam, False),
            "λ is missing: that is the product.": _fused(maps, 0.0),
            "the λ stands inside the bracket, S (λ + R), so that S = 0 stays 0.": outside,
        })  # fmt: skip
    zero = torch.zeros(4, 4)
    _compare("an original scale without evidence", answer([zero, *_maps(generator, 2, 4, 4)], 1.0), zero, {})


def smallest(answer) -> None:
    for q in (0.5, 0.25, 0.75, 0.9, 0.0):
        got, want = answer(q), q / (1 - q)
        assert isinstance(got, (int, float)), f"q = {q:g}: return a number, not {type(got).__name__}."
        if abs(got - want) < 1e-6:
            continue
        for sentence, wrong in {
            "that is the promise which λ = q gives; solve it for λ.": q / (1 + q),
            "upside down.": (1 - q) / q if q else float("inf"),
            "a larger promise needs a larger λ.": 1 - q,
        }.items():
            assert abs(got - wrong) > 1e-6, f"q = {q:g}: {sentence}"
        raise AssertionError(f"q = {q:g}: λ = {got:.4g} promises {got / (1 + got):.4g}.")


def trusted(answer) -> None:
    c = 2
    logits = torch.tensor([[0.0, 1.0, 5.0], [4.0, 1.0, 3.9], [9.0, -1.0, 9.5], [0.1, 0.3, 0.2]])
    cases = {
        "classes 2, 0, 2, 1 on top, asked for 2": (logits, c, [0, 2]),
        "asked for 0": (logits, 0, [0, 1]),
        "asked for 1": (logits, 1, [0, 3]),
        "one scale": (logits[:1], 0, [0]),
    }
    for case, (given, asked, want) in cases.items():
        got = answer(given.clone(), asked)
        got = got.tolist() if isinstance(got, Tensor) else list(got)
        assert not any(isinstance(i, bool) for i in got), f"{case}: return the scales' numbers, not True and False."
        if got == want:
            continue
        top = given.argmax(1) == asked
        assert got != top.nonzero()[:, 0].tolist(), f"{case}: the original scale stays, whatever its answer."
        likely = given.softmax(1)[:, asked] > 0.5
        likely[0] = True
        assert got != likely.nonzero()[:, 0].tolist(), (
            f"{case}: first place is asked for, not more than half of the probability."
        )
        assert sorted(got) != want, f"{case}: keep the scales in their order, the original first."
        raise AssertionError(f"{case}: expected the scales {want}, got {got}.")


def fair(answer) -> None:
    generator = torch.Generator().manual_seed(2)
    for scales in (1, 2, 3):
        maps = _maps(generator, scales, 4, 7)
        product = torch.stack(maps).prod(0)
        _compare(f"{scales} scales", answer([map.clone() for map in maps]), _largest(product ** (1 / scales)), {
            "that is the product itself, which sharpens.": _largest(product),
            "that is the arithmetic mean; one scale can speak alone there.": torch.stack(maps).mean(0),
            "the arithmetic mean, normalised; one scale can speak alone there.":
                _largest(torch.stack(maps).mean(0)),
            "divide by the maximum at the end.": product ** (1 / scales),
        })  # fmt: skip
    one = _maps(generator, 1, 5, 5)[0]
    _compare("a map three times", answer([one, one, one]), one, {"it sharpens a map that learnt nothing.": one**3})
    zero = torch.zeros(3, 3)
    _compare("scales without a place in common", answer([zero, torch.ones(3, 3)]), zero, {})


TESTS = {"4.1": fuse, "4.2": smallest, "4.3": trusted, "4.4": fair}
