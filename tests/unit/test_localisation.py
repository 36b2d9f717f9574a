"""The pointing games, against values that can be counted by hand."""

import math

import pytest
import torch

from cambook.metrics import energy_pointing_game, pointing_game


def point(row, column, height=40, width=60):
    map = torch.zeros(1, height, width)
    map[0, row, column] = 1
    return map


def box(x0, y0, x1, y1, height=40, width=60):
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[0, y0:y1, x0:x1] = True
    return mask


def test_a_point_hits_inside_the_box_and_misses_its_half_open_end():
    mask = box(30, 5, 50, 10)  # wide, not square, off the diagonal: a transposed index would miss
    inside = [pointing_game(point(row, column), mask).values.item() for row, column in ((5, 30), (9, 49))]
    outside = [
        pointing_game(point(row, column), mask).values.item()
        for row, column in ((10, 30), (5, 50), (4, 30), (30, 5))
    ]
    assert inside == [1, 1] and outside == [0, 0, 0, 0]


def test_tolerance_is_strict_and_euclidean():
    mask = box(20, 20, 21, 21)
    hit = {
        far: pointing_game(point(20, 20 + far), mask, tolerance=15).values.item() for far in (0, 14, 15, 16)
    }
    assert hit == {0: 1, 14: 1, 15: 0, 16: 0}
    assert pointing_game(point(30, 30), mask, tolerance=14.2).values.item() == 1  # 10² + 10² = 200 < 14.2²
    assert pointing_game(point(30, 30), mask, tolerance=14.1).values.item() == 0
    assert pointing_game(point(20, 21), mask, tolerance=0.5).values.item() == 0


def test_tied_maxima_count_by_their_share():
    map = torch.zeros(1, 4, 4)
    map[0, 0, 0] = map[0, 1, 1] = map[0, 3, 3] = map[0, 3, 2] = 7.0
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 1] = True
    result = pointing_game(map, mask)
    assert result.values.item() == 0.25 and result.ties.item() == 4 and not result.excluded.item()


def test_signed_maps_point_too():
    map = point(3, 3) - 5
    assert pointing_game(map, box(3, 3, 4, 4)).values.item() == 1


def test_flat_maps_and_empty_masks_are_excluded_from_the_mean():
    maps = torch.cat([point(5, 5), point(5, 5), torch.full((1, 40, 60), 0.3), point(5, 5)])
    masks = torch.cat([box(0, 0, 10, 10), box(20, 20, 30, 30), box(0, 0, 10, 10), box(0, 0, 0, 0)])
    result = pointing_game(maps, masks)
    assert result.excluded.tolist() == [False, False, True, True]
    assert result.values[2:].isnan().all()
    assert result.mean == 0.5
    assert math.isnan(pointing_game(maps[2:], masks[2:]).mean)


def test_energy_is_the_share_inside_and_area_the_share_of_pixels():
    map = torch.ones(1, 4, 5)
    map[0, 1, 2] = 6.0  # sum 25, of which 6 + 1 inside
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[0, 1, 2:4] = True
    result = energy_pointing_game(map, mask)
    assert result.values.item() == pytest.approx(7 / 25) and result.area.item() == pytest.approx(2 / 20)
    assert energy_pointing_game(3 * map, mask).values.item() == pytest.approx(7 / 25)


def test_a_transposed_box_would_score_zero():
    assert energy_pointing_game(box(30, 5, 50, 10).float(), box(30, 5, 50, 10)).values.item() == 1


def test_a_uniform_map_scores_the_area_and_is_not_excluded():
    mask = box(10, 10, 40, 20)
    result = energy_pointing_game(torch.full((1, 40, 60), 0.2), mask)
    assert result.values.item() == pytest.approx(result.area.item()) and not result.excluded.item()


def test_energy_excludes_zero_maps_and_empty_masks():
    maps = torch.cat([point(5, 5), torch.zeros(1, 40, 60), point(5, 5)])
    masks = torch.cat([box(0, 0, 10, 10), box(0, 0, 10, 10), box(0, 0, 0, 0)])
    result = energy_pointing_game(maps, masks)
    assert result.excluded.tolist() == [False, True, True]
    assert result.values[1:].isnan().all() and result.mean == 1


def test_half_precision_sums_do_not_overflow():
    maps = torch.full((1, 400, 600), 1.0, dtype=torch.float16)  # the sum, 240000, is beyond float16
    assert energy_pointing_game(maps, box(0, 0, 300, 400, 400, 600)).values.item() == pytest.approx(0.5)


@pytest.mark.parametrize("game", [pointing_game, energy_pointing_game])
def test_bad_input_is_said_in_a_sentence(game):
    mask = box(0, 0, 5, 5)
    for maps, masks, says in (
        (torch.zeros(1, 40, 61), mask, r"must both be \(B, H, W\)"),
        (torch.zeros(40, 60), mask[0], r"must be \(B, H, W\)"),
        (torch.zeros(0, 40, 60), mask[:0], r"must be \(B, H, W\)"),
        (torch.zeros(1, 40, 60), mask.float(), "masks must be bool"),
        (torch.full((1, 40, 60), float("nan")), mask, "NaN or infinite"),
    ):
        with pytest.raises(ValueError, match=says):
            game(maps, masks)


def test_negative_energy_and_negative_tolerance_are_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        energy_pointing_game(point(1, 1) - 0.1, box(0, 0, 5, 5))
    for tolerance in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="tolerance is a distance"):
            pointing_game(point(1, 1), box(0, 0, 5, 5), tolerance=tolerance)
