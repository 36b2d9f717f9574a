"""From a signed weighted sum to a map: the range, the place, and what has no evidence."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cambook.explanation import Explanation, to_map


def test_map_by_hand():
    """ReLU first, then bilinear with half-pixel centres, then min-max."""
    heat, flat = to_map(torch.tensor([[[-8.0, 0.0, 2.0]]]), (1, 6))
    # ReLU: 0 0 2; centres of six pixels lie at -0.25, 0.25, 0.75, 1.25, 1.75, 2.25 of the three cells.
    assert heat[0, 0].tolist() == [0, 0, 0, 0.25, 0.75, 1]
    assert flat.tolist() == [False] and heat.dtype == torch.float32


def test_map_is_the_formula():
    raw = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    large = F.interpolate(raw.relu()[:, None], (20, 33), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    heat, _ = to_map(raw, (20, 33))
    torch.testing.assert_close(heat, (large - low) / (high - low), atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-30, 1e30])
def test_largest_value_is_exactly_one(scale):
    """Whatever the magnitude: an epsilon in the division would dim weak maps."""
    raw = torch.rand(4, 5, 7, generator=torch.Generator().manual_seed(1)) * scale
    heat, flat = to_map(raw, (31, 44))
    assert heat.amax((1, 2)).tolist() == [1, 1, 1, 1] and heat.amin((1, 2)).tolist() == [0, 0, 0, 0]
    assert not flat.any()


@pytest.mark.parametrize("value", [0.0, -3.0, 0.1, 1e-30])
def test_without_evidence_the_map_is_zero_and_says_so(value):
    """Nothing positive, or the same everywhere: zero, not NaN and not rounding noise stretched to a map."""
    raw = torch.full((2, 3, 5), value)
    raw[1, 2, 1] = 4
    heat, flat = to_map(raw, (13, 17))
    assert flat.tolist() == [True, False]
    assert heat[0].abs().max() == 0 and heat[1].max() == 1


def test_one_cell_has_no_where():
    heat, flat = to_map(torch.tensor([[[3.0]]]), (8, 8))
    assert flat.all() and heat.abs().max() == 0


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 8), (4, 0), (2, 6), (4, 8)])
def test_an_impulse_stays_where_it_is(row, column):
    """Rows are rows and columns are columns where height and width differ."""
    raw = torch.zeros(1, 5, 9)
    raw[0, row, column] = 1
    heat, _ = to_map(raw, (5 * 11, 9 * 7))
    ys, xs = torch.nonzero(heat[0] == 1).double().mean(0).tolist()
    assert abs(ys - (row * 11 + 5)) <= 5 and abs(xs - (column * 7 + 3)) <= 3


def test_each_image_has_its_own_range():
    raw = torch.stack([torch.rand(4, 4), 1000 * torch.rand(4, 4)])
    together, _ = to_map(raw, (9, 9))
    torch.testing.assert_close(together[0], to_map(raw[:1], (9, 9))[0][0])


def test_explanation_as_numpy():
    heat, flat = to_map(torch.rand(2, 3, 4), (6, 8))
    e = Explanation(
        map=heat, raw=torch.rand(2, 3, 4), layers=["a"], targets=torch.tensor([1, 2]), scores=torch.rand(2),
        forwards=2, config={}, flat=flat,
    )    # fmt: skip
    array = e.numpy()
    assert isinstance(array, np.ndarray) and array.shape == (2, 6, 8) and array.dtype == np.float32
    assert e.trace == {}


def test_explanation_in_one_line():
    """A notebook cell that ends in an explanation shows what it is, not its numbers."""
    heat, flat = to_map(torch.tensor([[[0.0, 1.0]], [[-1.0, -1.0]]]), (6, 8))
    e = Explanation(
        map=heat, raw=heat, layers=["relu"], targets=torch.tensor([1, 2]), scores=torch.rand(2),
        forwards=3, config={"method": "cam"}, flat=flat,
    )    # fmt: skip
    assert repr(e) == "Explanation(cam at relu: 2 maps of 6x8, targets [1, 2], flat: [1], 3 forwards)"
