"""Maps and masks, against values that can be counted by hand."""

import math

import pytest
import torch

from cambook.metrics import (
    box_masks,
    class_averages,
    difficult,
    energy_in_box,
    energy_pointing_game,
    pointing_game,
    relevance_rank,
)
from cambook.world import scene


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


@pytest.mark.parametrize("tolerance", [0.5, 1, 1.5, 2, 5, 5.2, 7.3, 40])
def test_tolerance_from_every_pixel(tolerance):
    """One map for each pixel of an awkward picture, against distances to all pixels of the mask."""
    mask = torch.rand(7, 11, generator=torch.Generator().manual_seed(0)) > 0.95
    pixels, maps = torch.cartesian_prod(torch.arange(7), torch.arange(11)).double(), torch.eye(77).view(77, 7, 11)
    near = torch.cdist(pixels, pixels[mask.flatten()]).amin(1) < tolerance
    assert pointing_game(maps, mask.expand(77, -1, -1), tolerance).values.bool().tolist() == near.tolist()


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


@pytest.mark.parametrize("game", [pointing_game, energy_pointing_game, relevance_rank])
def test_bad_input_is_said_in_a_sentence(game):
    mask = box(0, 0, 5, 5)
    for maps, masks, says in (
        (torch.zeros(1, 40, 61), mask, r"must both be \(B, H, W\).*F.interpolate.*\(40, 60\)"),
        (torch.zeros(1, 40, 60), mask[0], r"masks must be \(B, H, W\)"),
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


# Boxes


def test_box_masks_are_half_open_unions_and_not_transposed():
    masks = box_masks([[(30, 5, 50, 10)], [(0, 0, 2, 1), (58, 38, 99, 99)], []], (40, 60))
    assert torch.equal(masks[0:1], box(30, 5, 50, 10))
    assert torch.equal(masks[1:2], box(0, 0, 2, 1) | box(58, 38, 60, 40))  # cut off at the picture's end
    assert masks[1].sum() == 2 + 4 and not masks[2].any()


def test_a_pixel_belongs_to_the_box_that_holds_its_centre():
    (mask,) = box_masks([torch.tensor([[1.4, 0.6, 3.6, 2.0]])], (4, 6))
    assert mask.nonzero().tolist() == [[1, 1], [1, 2], [1, 3]]


def test_the_world_draws_the_same_boxes():
    for item in scene(3).objects:
        (mask,) = box_masks([[item.box]], (128, 128))
        object_ = torch.from_numpy(item.mask)
        assert not (object_ & ~mask).any()
        assert torch.equal(mask.any(0), object_.any(0)) and torch.equal(mask.any(1), object_.any(1))


def test_bad_boxes_are_said_in_a_sentence():
    for boxes, says in (
        ([(1, 2, 3, 4)], r"image 0 must be a list of \(x0, y0, x1, y1\)"),
        ([[], [(1, 2, 3)]], r"image 1 must be a list"),
        ([[(5, 2, 3, 4)]], "x0 ≤ x1"),
        ([[(1, 2, 3, float("nan"))]], "must be finite"),
    ):
        with pytest.raises(ValueError, match=says):
            box_masks(boxes, (8, 8))


def test_an_object_that_is_difficult_in_all_its_boxes_is_left_out():
    """TorchRay's rule for VOC; scored as a miss or, as elsewhere, as a hit it would move the mean."""
    maps = torch.cat([point(5, 5), point(5, 5)])
    result = pointing_game(maps, box_masks([[(0, 0, 9, 9)], []], (40, 60)), tolerance=15)
    assert result.mean == 1 and result.excluded.tolist() == [False, True]


# Averages and subsets


def test_micro_and_class_averages_differ():
    """Class 7: two hits of two and one excluded; class 2: none of one; class 5 has no image left."""
    maps = torch.cat([point(5, 5)] * 4 + [torch.zeros(1, 40, 60)])
    masks = torch.cat([box(0, 0, 9, 9)] * 2 + [box(20, 20, 30, 30), box(0, 0, 0, 0), box(0, 0, 9, 9)])
    result = pointing_game(maps, masks)
    averages = class_averages(result, [7, 7, 2, 7, 5])
    assert result.mean == pytest.approx(2 / 3) and averages.mean == 0.5
    assert averages.classes.tolist() == [2, 7] and averages.values.tolist() == [0, 1]
    assert averages.counts.tolist() == [1, 2]
    assert math.isnan(class_averages(pointing_game(maps[4:], masks[4:]), [5]).mean)


def test_bad_classes_are_said_in_a_sentence():
    result = pointing_game(point(1, 1), box(0, 0, 5, 5))
    for classes in ([1, 2], 3, [1.0], [True]):
        with pytest.raises(ValueError, match="classes must be 1 integers"):
            class_averages(result, classes)


def test_difficult_means_small_and_not_alone():
    masks = torch.cat([box(0, 0, 29, 20), box(0, 0, 30, 20), box(0, 0, 29, 20), box(0, 0, 30, 20)])
    assert difficult(masks, [True, True, False, False]).tolist() == [True, False, False, False]
    for distractors in ([True], [0, 1, 0, 1]):
        with pytest.raises(ValueError, match="distractors must be 4 bools"):
            difficult(masks, distractors)


def test_the_energys_floor_is_the_mean_area_of_the_images_that_count():
    maps = torch.cat([torch.ones(2, 40, 60), torch.zeros(1, 40, 60)])
    masks = torch.cat([box(0, 0, 30, 20), box(0, 0, 60, 20), box(0, 0, 60, 40)])
    result = energy_pointing_game(maps, masks)
    assert result.floor == pytest.approx((0.25 + 0.5) / 2) == result.mean


def test_energy_depends_on_the_maps_zero():
    map, mask = point(5, 5), box(0, 0, 6, 6)
    assert energy_pointing_game(map, mask).mean == 1
    assert energy_pointing_game(map + 0.1, mask).mean == pytest.approx((1 + 36 * 0.1) / (1 + 2400 * 0.1))


# Relevance rank


def test_relevance_rank_by_hand():
    """Three pixels on the object; of the map's best three, 9 and 7 lie there."""
    map = torch.tensor([[[9.0, 8, 7], [1, 2, 3]]])
    mask = torch.tensor([[[True, False, True], [True, False, False]]])
    assert relevance_rank(map, mask).values.item() == pytest.approx(2 / 3)
    assert relevance_rank(map - 50, mask).values.item() == pytest.approx(2 / 3)
    assert relevance_rank(map, ~mask).values.item() == pytest.approx(1 / 3)
    assert relevance_rank(map, torch.ones_like(mask)).values.item() == 1


def test_relevance_rank_shares_ties_out():
    """One pixel is best; the second place is tied between four, one of which lies on the object."""
    map = torch.tensor([[[1.0, 1, 5], [1, 1, 0]]])
    mask = torch.tensor([[[True, False, True], [False, False, False]]])
    assert relevance_rank(map, mask).values.item() == pytest.approx((1 + 1 / 4) / 2)


def test_relevance_rank_excludes_flat_maps_and_empty_masks():
    maps = torch.cat([point(5, 5), torch.full((1, 40, 60), 0.3), point(5, 5)])
    masks = torch.cat([box(0, 0, 10, 10), box(0, 0, 10, 10), box(0, 0, 0, 0)])
    result = relevance_rank(maps, masks)
    assert result.excluded.tolist() == [False, True, True] and result.values[1:].isnan().all()


def test_energy_in_the_box_by_hand():
    """Three of four parts of the light: two inside, one on the box's border, one outside."""
    map = point(10, 10) + point(12, 20) + point(19, 29) + point(20, 30)
    found = energy_in_box(map, box(5, 8, 30, 20))
    assert found.values.item() == pytest.approx(3 / 4)
