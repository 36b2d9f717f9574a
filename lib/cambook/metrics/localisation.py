"""Does the map lie on the object? Two games with the exact mask (or box) of the explained class."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ._result import Result, check_maps, check_not_negative, is_flat


@dataclass(frozen=True, eq=False)
class PointingResult(Result):
    """values: the share of the tied maxima that hit. excluded: flat maps and empty masks."""

    ties: torch.Tensor  # (B,) int64: number of pixels that share the maximum


@dataclass(frozen=True, eq=False)
class EnergyResult(Result):
    """values: the share of the map's sum inside the mask. excluded: all-zero maps and empty masks."""

    area: torch.Tensor  # (B,) float64: share of the pixels inside the mask, the value of a uniform map


def pointing_game(maps: torch.Tensor, masks: torch.Tensor, tolerance: float = 0.0) -> PointingResult:
    """Does the map's maximum lie on the object?

    maps: (B, H, W), any range. masks: (B, H, W) bool, the object (or box, half-open) of the explained class.
    tolerance: pixels of these maps; a maximum also hits when it is less than this far from the mask. 15 is the
    habit on photos: 14 pixels off hits, 15 misses (official code: TorchRay). 0 is for exact masks.
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
    scores. Scaling a map changes nothing, adding a constant does: the value depends on what the map calls
    zero. An all-zero map and an empty mask are excluded, not scored.
    ValueError for other shapes, masks that are not bool, NaN, or negative values.
    """
    maps, masks = _inputs(maps, masks)
    check_not_negative(maps)
    total = maps.sum(dim=(1, 2))
    inside = (maps * masks).sum(dim=(1, 2))
    area = masks.double().mean(dim=(1, 2))
    return _finish(EnergyResult, inside / total, total == 0, masks, area=area)


def _inputs(maps, masks) -> tuple[torch.Tensor, torch.Tensor]:
    maps, masks = check_maps(maps), torch.as_tensor(masks)
    if maps.shape != masks.shape:
        raise ValueError(
            f"maps and masks must both be (B, H, W), of one size; got {tuple(maps.shape)} "
            f"and {tuple(masks.shape)}."
        )
    if masks.dtype != torch.bool:
        raise ValueError(
            f"masks must be bool, True on the object; got {masks.dtype}: compare first, as in masks > 0."
        )
    return maps, masks.to(maps.device)


def _grown(masks: torch.Tensor, tolerance: float) -> torch.Tensor:
    """The masks and every pixel less than `tolerance` away from them."""
    reach = int(tolerance)
    if reach == 0:
        return masks
    steps = torch.arange(-reach, reach + 1, device=masks.device)
    disc = steps[:, None] ** 2 + steps[None] ** 2 < tolerance**2
    near = F.conv2d(masks[:, None].float(), disc[None, None].float(), padding=reach)
    return near[:, 0] > 0.5


def _finish(kind: type, values: torch.Tensor, no_map: torch.Tensor, masks: torch.Tensor, **more):
    excluded = no_map | ~masks.any(dim=2).any(dim=1)
    return kind(values=values, excluded=excluded, **more)
