"""Colours: from maps and photos to uint8 pictures. NumPy only: the command line needs no matplotlib."""

import io

import numpy as np

# Eleven colours of matplotlib's "inferno" (CC0), evenly spaced: lightness rises steadily, so the map also
# reads in grey and for colour-blind eyes. In between we interpolate; the largest error against the original
# is 4 %.
INFERNO = np.array(
    [
        (0, 0, 4), (22, 11, 57), (66, 10, 104), (106, 23, 110), (147, 38, 103), (188, 55, 84),
        (221, 81, 58), (243, 120, 25), (252, 165, 10), (246, 215, 70), (252, 255, 164),
    ]
)  # fmt: skip

# ColorBrewer's RdBu, reversed: blue below zero, white at zero, red above; safe for the common colour
# deficiencies.
BLUE_RED = np.array(
    [
        (5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
        (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31),
    ]
)  # fmt: skip


def array(values) -> np.ndarray:
    """A NumPy array of a tensor, an array or nested lists."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        if values.is_floating_point() and values.element_size() < 4:
            values = values.float()  # NumPy knows no bfloat16
        values = values.numpy()
    return np.asarray(values)


def heat(map) -> np.ndarray:
    """Colour a map with values in [0, 1]: dark = 0, bright yellow = 1.

    map: (H, W) tensor or array. Returns (H, W, 3) uint8. ValueError when values leave [0, 1]: a map that was
    stretched silently would look like another map.
    """
    return _interpolate(_unit_map(map), INFERNO)


def signed(map, limit: float | None = None) -> np.ndarray:
    """Colour a map with positive and negative values: blue < 0, white = 0, red > 0.

    map: (H, W). limit: the magnitude that gets the full colour; default the map's largest, so that zero is
    always white and both signs share one scale. Returns (H, W, 3) uint8.
    """
    map = _plane(map)
    limit = float(np.abs(map).max()) if limit is None else float(limit)
    if limit == 0:
        return _interpolate(np.full(map.shape, 0.5), BLUE_RED)
    return _interpolate(np.clip(0.5 + 0.5 * map / limit, 0, 1), BLUE_RED)


def outline(picture, mask, colour: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """Draw the inner edge of a region, one pixel wide, on a copy of the picture.

    picture: (H, W, 3) uint8. mask: (H, W) bool. Returns (H, W, 3) uint8.
    """
    picture, mask = _photo(picture), array(mask)
    if mask.dtype != bool or mask.shape != picture.shape[:2]:
        raise ValueError(
            f"mask must be a bool array of the picture's size {picture.shape[:2]}; "
            f"got {mask.dtype} {mask.shape}."
        )
    # A pixel is on the edge when one of its four neighbours is outside; the frame of the picture is no edge.
    around = np.pad(mask, 1, mode="edge")
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    drawn = picture.copy()
    drawn[mask & ~inside] = colour
    return drawn


def overlay(photo, map, contour: bool = True) -> np.ndarray:
    """A heat map over its photo.

    photo: (H, W, 3) uint8. map: (H, W) in [0, 1], same size. Returns (H, W, 3) uint8.
    The photo becomes grey, so every colour in the result comes from the map; the heat is laid on more thickly
    where it is larger and is shaded by the photo's lightness, so the object stays visible under it. contour
    draws a thin light line at half of the map's maximum, which needs no colour at all to be read.
    """
    photo, map = _photo(photo), _unit_map(map)
    if map.shape != photo.shape[:2]:
        raise ValueError(
            f"the map is {map.shape}, the photo {photo.shape[:2]}: give both the same height and width."
        )
    grey = (photo @ np.array([0.299, 0.587, 0.114]))[..., None] / 255
    thickness = 0.8 * map[..., None] ** 0.6
    mixed = (1 - thickness) * 0.9 * grey + thickness * heat(map) / 255 * (0.75 + 0.25 * grey)
    painted = np.round(255 * np.clip(mixed, 0, 1)).astype(np.uint8)
    if contour and map.max() > 0:
        painted = outline(painted, map >= 0.5 * map.max(), (240, 240, 240))
    return painted


def png(picture) -> bytes:
    """The PNG file of a (H, W, 3) uint8 picture, as bytes.

    Each channel is rounded to a multiple of 8 (white stays white): half the bytes of the full picture, and
    the eye does not see the difference. A palette of 256 colours would be smaller still, but it shifts
    colours.
    """
    from PIL import Image

    rounded = np.clip(np.round(_photo(picture) / 8) * 8, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rounded).save(file, "PNG", optimize=True)
    return file.getvalue()


def _interpolate(unit: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    places = np.linspace(0, 1, len(anchors))
    colours = [np.interp(unit, places, anchors[:, channel]) for channel in range(3)]
    return np.round(np.stack(colours, axis=-1)).astype(np.uint8)


def _plane(map) -> np.ndarray:
    map = array(map)
    if map.ndim != 2:
        raise ValueError(
            f"a map has two dimensions (H, W); got shape {map.shape}: pick one, as in explanation.map[0]."
        )
    map = map.astype(np.float64)
    if not np.isfinite(map).all():
        raise ValueError("the map holds NaN or infinite values, which have no colour.")
    return map


def _unit_map(map) -> np.ndarray:
    map = _plane(map)
    if map.min() < -1e-6 or map.max() > 1 + 1e-6:
        raise ValueError(
            f"the map runs from {map.min():.3g} to {map.max():.3g}, not within [0, 1]: "
            "divide by its maximum, or use show.signed for maps with a sign."
        )
    return np.clip(map, 0, 1)


def _photo(picture) -> np.ndarray:
    picture = array(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"a photo is a uint8 array (H, W, 3); got {picture.dtype} {picture.shape}: "
            "net.preprocessing.photo(tensor) makes one from a normalised tensor."
        )
    return picture
