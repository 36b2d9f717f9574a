"""What every metric returns, and the checks on maps that they share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Result:
    """One value for each image.

    values: (B,) float64, NaN where excluded.
    excluded: (B,) bool, the images on which the metric says nothing: a flat map, an empty mask, ….
    """

    values: Tensor
    excluded: Tensor

    def __post_init__(self):
        values = self.values.double().masked_fill(self.excluded, float("nan"))
        object.__setattr__(self, "values", values)

    @property
    def mean(self) -> float:
        """Mean over the images that are not excluded; NaN when none is left."""
        return self.values[~self.excluded].mean().item()


@dataclass(frozen=True, eq=False)
class NetworkResult(Result):
    """A result that the network was asked for. forwards: how many images went through it."""

    forwards: int


def check_maps(maps: Tensor) -> Tensor:
    """The maps as float64 (B, H, W), in which sums of half-precision maps do not overflow.

    Raises ValueError for another shape, nothing in it, NaN or infinity.
    """
    maps = torch.as_tensor(maps).detach()
    if maps.ndim != 3 or maps.numel() == 0:
        raise ValueError(f"the maps must be (B, H, W), one for each image; got {tuple(maps.shape)}.")
    if not torch.isfinite(maps).all():
        raise ValueError(
            "the maps hold NaN or infinite values: look where they come from before scoring them."
        )
    return maps.double()


def check_maps_of(maps: Tensor, images: Tensor) -> Tensor:
    """As `check_maps`, and on the device of the images (B, C, H, W), whose number and size they must have."""
    maps = check_maps(maps)
    batch, height, width = len(images), *images.shape[-2:]
    if maps.shape != (batch, height, width):
        raise ValueError(
            f"the maps must be (B, H, W) = {(batch, height, width)} like the images, but are "
            f"{tuple(maps.shape)}: another size is brought there by F.interpolate(maps[:, None], "
            f'({height}, {width}), mode="bilinear")[:, 0].'
        )
    return maps.to(images.device)


def check_not_negative(maps: Tensor) -> None:
    """Raise ValueError where a map is signed."""
    if (maps < 0).any():
        raise ValueError("the maps must not be negative: take explanation.map, or clamp at 0.")


def check_unit(maps: Tensor) -> None:
    """Raise ValueError where a map leaves [0, 1], so that it is no mask."""
    check_not_negative(maps)
    if (maps > 1).any():
        raise ValueError(
            f"the maps must lie in [0, 1], but reach {maps.max().item():g}: take explanation.map, or divide "
            "each map by its maximum."
        )


def is_flat(maps: Tensor) -> Tensor:
    """(B,) bool: which maps have the same value everywhere, and so say nothing about where."""
    return maps.amax((1, 2)) == maps.amin((1, 2))
