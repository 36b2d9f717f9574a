"""Does the map lie on the object? Games with the exact mask (or the boxes) of the explained class.

One row is one pair of an image and a class: an image that shows three classes is three rows, each with the
map and the mask of its class (as in TorchRay's code), or one, where only the top-1 class is asked about.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ._result import Result, check_maps, check_not_negative, is_flat

# An object of less than this share of the picture is small: see `difficult`.
SMALL = 1 / 4


@dataclass(frozen=True, eq=False)
class PointingResult(Result):
    """values: the share of the tied maxima that hit. excluded: flat maps and empty masks."""

    ties: torch.Tensor  # (B,) int64: number of pixels that share the maximum


@dataclass(frozen=True, eq=False)
class EnergyResult(Result):
    """values: the share of the map's sum inside the mask. excluded: all-zero maps and empty masks."""

    area: torch.Tensor  # (B,) float64: share of the pixels inside the mask, the value of a uniform map

    @property
    def floor(self) -> float:
        """The `mean` that uniform maps would have on the same images."""
        return self.area[~self.excluded].mean().item()


@dataclass(frozen=True, eq=False)
class ClassAverages:
    """The mean of each class, and of the classes.

    classes: (C,) int64, rising, those with at least one image that is not excluded.
    values: (C,) float64, the mean over the images of each. counts: (C,) int64, how many those are.
    """

    classes: torch.Tensor
    values: torch.Tensor
    counts: torch.Tensor

    @property
    def mean(self) -> float:
        """Every class counts the same, however many images it has; NaN when there is none."""
        return self.values.mean().item()


def pointing_game(maps: torch.Tensor, masks: torch.Tensor, tolerance: float = 0.0) -> PointingResult:
    """Does the map's maximum lie on the object?

    maps: (B, H, W), any range. masks: (B, H, W) bool, the object (or box, half-open) of the explained class.
    tolerance: pixels of these maps; a maximum also hits when it is less than this far from the mask. 15 is
    the habit on photos: 14 pixels off hits, 15 misses (official code: TorchRay). 0 is for exact masks. The 15
    are pixels of the original photo: for maps of half that size the same tolerance is 7.5.
    A maximum that several pixels share counts by the share of them that hit: naive argmax would take the
    first, which favours whatever is at the top left (our reading; ties are reported).
    A flat map points nowhere and an empty mask cannot be hit: both are excluded, not scored.
    ValueError for other shapes, masks that are not bool, NaN, or a negative tolerance.
    """
    maps, masks = _inputs(maps, masks)
    if not 0 <= tolerance < float("inf"):
        raise ValueError(f"tolerance is a distance in pixels, 0 or more; got {tolerance}.")
    largest = maps.amax(dim=(1, 2), keepdim=True)
    maxima = maps == largest
    ties = maxima.sum(dim=(1, 2))
    hits = (maxima & _grown(masks, tolerance)).sum(dim=(1, 2))
    return _finish(PointingResult, hits.double() / ties, is_flat(maps), masks, ties=ties)


def energy_pointing_game(maps: torch.Tensor, masks: torch.Tensor) -> EnergyResult:
    """Which share of the map's sum lies on the object?

    Sum of the map inside / sum of the map (paper: Score-CAM, there with boxes).
    maps: (B, H, W), not negative. masks: (B, H, W) bool. Compare each value with `area`, which a uniform map
    scores, and the mean with `floor`. Scaling a map changes nothing, adding a constant does: the value
    depends on what the map calls zero. An all-zero map and an empty mask are excluded, not scored.
    (Score-CAM's table leaves out, in addition, objects that cover more than half of the picture: area > 0.5.)
    ValueError for other shapes, masks that are not bool, NaN, or negative values.
    """
    maps, masks = _inputs(maps, masks)
    check_not_negative(maps)
    total = maps.sum(dim=(1, 2))
    inside = (maps * masks).sum(dim=(1, 2))
    area = masks.double().mean(dim=(1, 2))
    return _finish(EnergyResult, inside / total, total == 0, masks, area=area)


def relevance_rank(maps: torch.Tensor, masks: torch.Tensor) -> Result:
    """Of the K pixels that the map ranks first, which share lies on the object, K being the object's size?

    The relevance rank accuracy of Arras et al. (from memory; as in Quantus's code). Unlike the energy it
    depends on the order of the pixels only, not on what the map calls zero; a random map scores the object's
    share of the picture.
    maps: (B, H, W), any range. masks: (B, H, W) bool. Where the K-th pixel is tied with others, these count
    by the share of them that lies on the object (our reading; a sort would take any).
    A flat map ranks nothing and an empty mask has no pixels: both are excluded, not scored.
    ValueError for other shapes, masks that are not bool, or NaN.
    """
    maps, masks = _inputs(maps, masks)
    values, inside = maps.flatten(1), masks.flatten(1)
    size = inside.sum(dim=1)
    last = values.sort(dim=1, descending=True).values.gather(1, (size - 1).clamp(min=0)[:, None])
    above, tied = values > last, values == last
    share = (tied & inside).sum(dim=1).double() / tied.sum(dim=1)
    hits = (above & inside).sum(dim=1) + (size - above.sum(dim=1)) * share
    return _finish(Result, hits / size, is_flat(maps), masks)


def class_averages(result: Result, classes: Sequence[int] | torch.Tensor) -> ClassAverages:
    """The average that TorchRay's tables print: first over the images of a class, then over the classes.

    result: of any metric; its own `mean` is the micro average, in which a frequent class counts for more.
    classes: (B,) integers, the explained class of each image, for example `explanation.targets`.
    Excluded images count nowhere, and a class that has no others is not listed.
    ValueError for another number of classes than values, or classes that are not integers.
    """
    classes = torch.as_tensor(classes, device=result.values.device)
    if classes.shape != result.values.shape or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(
            f"classes must be {len(result.values)} integers, one for each image; got {classes.dtype} of "
            f"shape {tuple(classes.shape)}."
        )
    kept = ~result.excluded
    found, place, counts = torch.unique(classes[kept], return_inverse=True, return_counts=True)
    sums = torch.zeros(len(found), dtype=torch.float64, device=classes.device)
    sums.index_add_(0, place, result.values[kept])
    return ClassAverages(classes=found.long(), values=sums / counts, counts=counts)


def difficult(masks: torch.Tensor, distractors: Sequence[bool] | torch.Tensor) -> torch.Tensor:
    """Which images belong to the pointing game's difficult subset: (B,) bool.

    The object is small, less than a quarter of the picture, and something of another class is there too
    (Zhang et al. 2018, from memory). The centre of the picture does worst on these: show it in the table.
    Index by it what goes into a game: `pointing_game(maps[hard], masks[hard], tolerance=15)`.
    masks: (B, H, W) bool, all objects of the explained class. distractors: (B,) bool, whether the picture
    shows another class.
    ValueError for other shapes and types.
    """
    masks = _check_masks(masks)
    distractors = torch.as_tensor(distractors, device=masks.device)
    if distractors.shape != masks.shape[:1] or distractors.dtype != torch.bool:
        raise ValueError(
            f"distractors must be {len(masks)} bools, one for each mask; got {distractors.dtype} of shape "
            f"{tuple(distractors.shape)}."
        )
    return (masks.double().mean(dim=(1, 2)) < SMALL) & distractors


def box_masks(boxes: Sequence, size: tuple[int, int]) -> torch.Tensor:
    """Masks (B, H, W) bool in which all boxes of an image are filled.

    boxes: for each image a list of its boxes (x0, y0, x1, y1), or a tensor (n, 4), in pixels of the maps; []
        is an empty mask, which the games exclude. So an object of VOC that counts as difficult in all its
        boxes is left out by giving none of them (as in TorchRay's code). size: (H, W).
    A pixel belongs to a box that holds its centre. For whole numbers this means that column x1 and row y1 are
    outside (half-open, as the picture world's boxes); VOC counts from 1 and includes the end, so its boxes
    are (x0 - 1, y0 - 1, x1, y1) here. What lies beyond the picture is cut off.
    ValueError for boxes that are not lists of four finite numbers with x0 ≤ x1 and y0 ≤ y1.
    """
    height, width = size
    column, row = torch.arange(width).double() + 0.5, torch.arange(height).double() + 0.5
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for number, (mask, given) in enumerate(zip(masks, boxes, strict=True)):
        for x0, y0, x1, y1 in _four(number, given):
            mask |= ((y0 <= row) & (row < y1))[:, None] & (x0 <= column) & (column < x1)
    return masks


def _four(number: int, given) -> list[list[float]]:
    table = torch.as_tensor(given).double().cpu()
    if table.numel() == 0:
        return []
    if table.ndim != 2 or table.shape[1] != 4:
        raise ValueError(
            f"the boxes of image {number} must be a list of (x0, y0, x1, y1), one box or more; got shape "
            f"{tuple(table.shape)}."
        )
    if not (table.isfinite().all() and (table[:, :2] <= table[:, 2:]).all()):
        raise ValueError(
            f"the boxes of image {number} must be finite (x0, y0, x1, y1) with x0 ≤ x1 and y0 ≤ y1; got "
            f"{table.tolist()}."
        )
    return table.tolist()


def _inputs(maps, masks) -> tuple[torch.Tensor, torch.Tensor]:
    maps, masks = check_maps(maps), _check_masks(masks)
    if maps.shape != masks.shape:
        height, width = masks.shape[1:]
        raise ValueError(
            f"maps and masks must both be (B, H, W), of one size; got {tuple(maps.shape)} "
            f"and {tuple(masks.shape)}: maps are brought to the masks' size by F.interpolate(maps[:, None], "
            f'({height}, {width}), mode="bilinear")[:, 0].'
        )
    return maps, masks.to(maps.device)


def _check_masks(masks) -> torch.Tensor:
    masks = torch.as_tensor(masks)
    if masks.ndim != 3 or masks.numel() == 0:
        raise ValueError(f"the masks must be (B, H, W), one for each image; got {tuple(masks.shape)}.")
    if masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool, True on the object; got {masks.dtype}: compare first, as in masks > 0."
        )
    return masks


def _grown(masks: torch.Tensor, tolerance: float) -> torch.Tensor:
    """The masks and every pixel less than `tolerance` away from them."""
    height, width = masks.shape[1:]
    reach = min(math.ceil(tolerance) - 1, height + width)    # the largest whole distance that still hits
    if reach < 1:
        return masks
    # A disc is a stack of rows, and running sums say which rows meet the mask. A convolution with the disc takes a
    # hundred times as long on a photo with a tolerance of 15.
    sums = F.pad(masks.int(), (reach + 1, reach, reach, reach)).cumsum(2, dtype=torch.int32)
    grown = masks.clone()
    for down in range(-reach, reach + 1):
        half = sum(across**2 + down**2 < tolerance**2 for across in range(1, reach + 1))
        row = sums[:, reach + down :][:, :height]
        grown |= row[:, :, reach + half + 1 :][:, :, :width] > row[:, :, reach - half :][:, :, :width]
    return grown


def _finish(kind: type, values: torch.Tensor, no_map: torch.Tensor, masks: torch.Tensor, **more):
    excluded = no_map | ~masks.any(dim=2).any(dim=1)
    return kind(values=values, excluded=excluded, **more)
