"""Tests of the exercises of notebook 06."""

import numpy as np
import torch
import torch.nn.functional as F

from ..methods.poly_cam import robust_normalise


def _same(got, expected, atol: float = 1e-5) -> bool:
    got, expected = got.double(), expected.double()
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-4, atol=atol)


def _tensor(got, shape: tuple, where: str) -> None:
    assert isinstance(got, torch.Tensor) and tuple(got.shape) == tuple(shape), (
        f"{where}: expected a tensor of shape {tuple(shape)}, got {tuple(getattr(got, 'shape', ()))}."
    )


def robust(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    busy = torch.randn(40, 30, generator=generator).relu()
    busy[3, 5] = 60.0
    far = 5 + torch.rand(25, 48, generator=generator)
    for what, Z in (("a busy map with one shout", busy), ("a map between 5 and 6", far.T)):
        low, high = np.percentile(Z.double().numpy(), [0.1, 99.9])
        got = answer(Z.clone())
        _tensor(got, Z.shape, what)
        if _same(got, ((Z - low) / high).clamp(0, 1), 1e-4):
            continue
        assert not _same(got, ((Z - Z.min()) / (Z.max() - Z.min())), 1e-4), (
            f"{what}: that is minimum and maximum; one shouting pixel dims all others. Take percentiles."
        )
        assert not _same(got, ((Z - low) / (high - low)).clamp(0, 1), 1e-4), (
            f"{what}: you divided by hi − lo; the official code divides by hi."
        )
        assert not _same(got, (Z - low) / high, 1e-4), f"{what}: it is not clipped to [0, 1]."
        low, high = np.percentile(Z.double().numpy(), [1, 99])
        assert not _same(got, ((Z - low) / high).clamp(0, 1), 1e-4), (
            f"{what}: those are 1 and 99 per cent; 0.1 and 99.9 are asked for."
        )
        raise AssertionError(f"{what}: the values differ from equation 6.1.")
    few = torch.zeros(112, 112)
    few[0, :5] = torch.tensor([1e-3, 1, 2, 3, 100])
    got = answer(few)
    assert not got.isnan().any(), "five bright pixels of 112²: hi is 0, and 0/0 is NaN; floor it at 1e-12."
    assert (got == (few > 0)).all(), "five bright pixels of 112²: over the floor of 1e-12 all five become 1."


def weights(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    cases = [(0.5, torch.tensor([0.5, 0.25, 0.1]), torch.tensor([0.25, 0.45, 0.9]))]
    cases += [(0.8, *torch.rand(2, 9, generator=generator)), (0.2, *torch.rand(2, 4, generator=generator))]
    for own, keep, remove in cases:
        drop = own - remove
        for variant, expected in (
            ("plus", keep),
            ("minus", drop.clamp(min=0)),
            ("pm", (keep + drop).clamp(min=0)),
        ):
            where = f"{variant!r} with {len(keep)} channels"
            got = answer(own, keep.clone(), remove.clone(), variant)
            _tensor(got, keep.shape, where)
            if _same(got, expected):
                continue
            assert not _same(got, keep + drop.clamp(min=0)), (
                f"{where}: there is one ReLU, around the sum; a second half below zero still counts."
            )
            swapped = {"plus": remove, "minus": own - keep, "pm": remove + own - keep}[variant].clamp(min=0)
            assert not _same(got, swapped), f"{where}: you took keep for remove, and remove for keep."
            assert not _same(got, (expected - own if variant == "pm" else -remove).clamp(min=0)), (
                f"{where}: own is missing, what the picture itself scores."
            )
            assert not _same(got, expected / 2), f"{where}: it is a sum and no mean."
            assert (got >= 0).all(), f"{where}: a weight is never below zero."
            assert not _same(got, (-drop).clamp(min=0)), (
                f"{where}: the sign is turned round; a channel counts whose removal lowers the score."
            )
            assert not _same(got, expected.softmax(0)), f"{where}: there is no softmax over the channels."
            shares = expected / expected.sum()
            assert not _same(got, shares), f"{where}: nothing is normalised over the channels."
            told = [[round(value, 3) for value in tensor.tolist()] for tensor in (expected, got)]
            raise AssertionError(f"{where}: expected {told[0]}, got {told[1]}.")


def exact(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for height, width, s in ((4, 6, 2), (9, 6, 3), (8, 4, 4), (3, 5, 1)):
        C = torch.rand(width, height, generator=generator).T    # not contiguous
        if s > 1:
            C[:s, :s] = 0
        mean = F.avg_pool2d(C[None], s)[0]
        spread = mean.repeat_interleave(s, 0).repeat_interleave(s, 1)
        expected = torch.where(spread > 0, C / spread.clamp(min=1e-12), 0)
        got, where = answer(C.clone(), s), f"{height}×{width} in blocks of {s}×{s}"
        _tensor(got, C.shape, where)
        assert not got.isnan().any(), f"{where}: a block of zeros became NaN: floor the divisor."
        if _same(got, expected, 1e-4):
            continue
        stretched = F.interpolate(mean[None, None], C.shape, mode="bilinear", align_corners=False)[0, 0]
        assert not _same(got, C / stretched.clamp(min=1e-12), 1e-4), (
            f"{where}: you stretched the means bilinearly (equation 6.9); here, repeat each of them."
        )
        whole = C / C.mean().clamp(min=1e-12)
        assert not _same(got, whole, 1e-4), f"{where}: that is one mean for the whole map."
        centre = F.interpolate(C[None, None], mean.shape, mode="bilinear", align_corners=False)[0, 0]
        centre = centre.repeat_interleave(s, 0).repeat_interleave(s, 1)
        assert not _same(got, C / centre.clamp(min=1e-12), 1e-4), (
            f"{where}: bilinear shrinking by {s} does not see the whole block; take its mean."
        )
        raise AssertionError(f"{where}: the mean of a block must be 1, or 0 where the block is empty.")


def depths(answer) -> None:
    generator = torch.Generator().manual_seed(0)
    for sizes in (((2, 3), (4, 6), (8, 12)), ((3, 3), (3, 3), (12, 12)), ((4, 5),)):
        cams = [torch.rand(size, generator=generator) for size in sizes]
        for cam in cams[1:]:
            cam[:, : cam.shape[1] // 2] = 0    # where 0/0 must be 0
        where = f"{len(cams)} layers of {', '.join(f'{h}×{w}' for h, w in sizes)}"
        got = answer([cam.clone() for cam in cams])
        assert isinstance(got, (list, tuple)) and len(got) == len(cams), (
            f"{where}: expected a list of {len(cams)} maps, P_L first."
        )
        for depth, (one, other) in enumerate(zip(got, _steps(cams), strict=True)):
            _tensor(one, other.shape, f"{where}, map {depth}")
            assert not one.isnan().any(), f"{where}, map {depth}: a dark region became NaN: floor the divisor."
            if _same(one, other, 1e-4):
                continue
            assert depth > 0, f"{where}: the first map is C_L itself."
            for wrong, sentence in (
                ({"lnorm": False}, "the divisor is missing: C itself is multiplied instead of LNorm(C)"),
                ({"before": "first C"}, "each step takes the P before it, not C_L"),
                ({"before": "previous C"}, "each step takes the P before it, not the C before it"),
                ({"before": "N(P)"}, "P is passed on as it is; only the copy that is shown is normalised"),
                ({"small": "half"}, "C is shrunk to the size of P, which is not always half of its own"),
            ):
                slip = _steps(cams, **wrong)[depth]
                assert not _same(one, slip, 1e-4), f"{where}, map {depth}: {sentence}."
            raise AssertionError(f"{where}, map {depth}: the values differ from equation 6.11.")


def _steps(cams: list, *, lnorm: bool = True, before: str = "P", small: str = "P") -> list:
    """Equation 6.11, or with a usual mistake.

    No divisor; the first C, the previous C or a normalised P instead of P; C shrunk to a half instead of to P.
    """

    def resize(Z, size):
        return F.interpolate(Z[None, None], tuple(size), mode="bilinear", align_corners=False)[0, 0]

    steps = [cams[0]]
    for number, C in enumerate(cams[1:]):
        above = {
            "P": steps[-1],
            "first C": cams[0],
            "previous C": cams[number],
            "N(P)": robust_normalise(steps[-1]),
        }[before]
        half = [max(1, side // 2) for side in C.shape]
        mean = resize(resize(C, half if small == "half" else above.shape), C.shape)
        steps.append(resize(above, C.shape) * (C / mean.clamp(min=1e-12) if lnorm else C))
    return steps


TESTS = {"6.1": robust, "6.2": weights, "6.3": exact, "6.4": depths}
