"""Tests of the exercises of notebook 09. Each wrong turn that readers take has a sentence of its own."""

import torch
from torch import Tensor

from .comparing import compare


def _compare(case: str, got, expected: Tensor, wrong_turns: dict[str, Tensor]) -> None:
    """A single number may come as Python's own."""
    got = torch.tensor(got) if isinstance(got, (int, float)) else got
    compare(case, got, expected, wrong_turns, rtol=1e-5, atol=1e-6)


def paired(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for n, draws in ((6, 4), (1, 3), (30, 50)):
        a, b = torch.rand(2, n, dtype=torch.float64, generator=generator)
        picked = torch.randint(n, (draws, n), generator=generator)
        gaps = a - b
        _compare(f"{n} scenes, {draws} draws", answer(a.clone(), b.clone(), picked.clone()), gaps[picked].mean(1), {
            "those are B − A; the difference is A − B.": -gaps[picked].mean(1),
            "each draw has its own scenes, in the rows of `picked`; the mean runs along them.":
                gaps[picked].mean(0),
            "a and b are resampled together: the same scenes for both.":
                a[picked].mean(1) - b[picked.roll(1, 0)].mean(1),
            "that is the mean of all scenes, the same for each draw.": gaps.mean().expand(draws),
        })  # fmt: skip


def places(answer) -> None:
    for case, scores in {
        "four, two of them equal": [0.3, 0.7, 0.3, 0.1],
        "all different, some negative": [-1.0, 2.0, 0.5, -3.0, 1.0],
        "all equal": [0.2, 0.2, 0.2],
        "one alone": [5.0],
        "three share the first place": [1.0, 1.0, 0.0, 1.0],
    }.items():
        s = torch.tensor(scores, dtype=torch.float64)
        above, equal = (s[None] > s[:, None]).sum(1), (s[None] == s[:, None]).sum(1) - 1
        below = (s[None] < s[:, None]).sum(1)
        _compare(case, answer(s.clone()), 1 + above + equal / 2, {
            "1 is the best, and the best has the highest score.": 1 + below + equal / 2,
            "each score equals itself, which does not count.": 1 + above + (equal + 1) / 2,
            "whoever is equal shares: half a place for each other.": 1.0 + above,
            "a full place for each equal other is too much; half of one.": 1.0 + above + equal,
            "the best place is 1, not 0.": above + equal / 2,
        })  # fmt: skip


def agreement(answer) -> None:
    for case, one, two in (
        ("the same order", [1.0, 2, 3, 4], [1.0, 2, 3, 4]),
        ("reversed", [1.0, 2, 3, 4], [4.0, 3, 2, 1]),
        ("two neighbours exchanged", [1.0, 2, 3, 4], [2.0, 1, 3, 4]),
        ("a tie in one of the columns", [1.0, 2, 2, 4, 5], [2.0, 1, 3, 5, 4]),
        ("large numbers", [10.0, -200, 3000], [0.1, 0.2, 0.3]),
    ):
        a, b = torch.tensor([one, two], dtype=torch.float64)
        m = len(a)
        both = torch.sign(a[:, None] - a[None]) * torch.sign(b[:, None] - b[None])
        _compare(case, answer(a.clone(), b.clone()), both.sum() / (m * (m - 1)), {
            "each pair was counted two times: divide by m (m − 1).": 2 * both.sum() / (m * (m - 1)),
            "a method is no pair with itself: there are m (m − 1) / 2 pairs.": both.sum() / (m * m),
            "those that disagree count against it.": (both > 0).sum() / (m * (m - 1)),
            "a pair with a tie counts as neither, but stays among the pairs.": both.sum() / (both != 0).sum(),
        })  # fmt: skip


def lifts(answer) -> None:
    generator = torch.Generator().manual_seed(1)
    heats = torch.rand(4, 6, 9, generator=generator)
    cues = torch.zeros(4, 6, 9, dtype=torch.bool)
    cues[0, 4:, 6:] = cues[1, :1, :2] = cues[2, 2:5, 3:8] = cues[3, 0, 0] = True
    dark = heats.clone()
    dark[1] = 0
    for case, given in (("four cues of different sizes", heats), ("the second map without light", dark)):
        light = (given * cues).sum((1, 2)) / given.sum((1, 2))
        area = cues.double().mean((1, 2))
        _compare(case, answer(given.clone(), cues.clone()), light / area, {
            "that is the share of the light; divide by the share of the area.": light,
            "each cue has its own area; you divided all by the same.": light / cues.double().mean(),
            "that is upside down.": area / light,
            "a map without light has no lift: NaN, not 0.": (light / area).nan_to_num(0),
            "the light is a share of its own map's, not of all maps'.":
                (given * cues).sum((1, 2)) / given.sum() / area,
        })  # fmt: skip


TESTS = {"9.1": paired, "9.2": places, "9.3": agreement, "9.4": lifts}
