"""The canvas of a scene: colours, textured backgrounds, clutter, and painting through a coverage mask.

A canvas is float32 (3, SIZE, SIZE) with values in [0, 1]: channels first, because numpy is fast along long rows only.
"""

import numpy as np

from .shapes import Array, box, ellipse, intersection, polygon

SIZE = 128


class Dice:
    """Random draws from one seed. Only uniform numbers are drawn, whose stream is the same on every machine."""

    def __init__(self, *seed: int):
        self._random = np.random.Generator(np.random.PCG64(seed)).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._random())

    def below(self, n: int) -> int:
        return min(int(self._random() * n), n - 1)

    def field(self, rows: int, columns: int) -> Array:
        """(rows, columns) independent numbers in [0, 1)."""
        return self._random((rows, columns)).astype(np.float32)

    def colour(self, saturation: tuple[float, float], value: tuple[float, float]) -> Array:
        """A colour (3, 1, 1) of any hue."""
        hue, s, v = self.between(0, 6), self.between(*saturation), self.between(*value)
        ramp = [min(max(abs((hue + shift) % 6 - 3) - 1, 0.0), 1.0) for shift in (0, 4, 2)]
        return np.array([[[v * (1 - s * (1 - r))]] for r in ramp], np.float32)


ROWS, COLUMNS = (grid.astype(np.float32) for grid in np.mgrid[:SIZE, :SIZE])


def _stretch(field: Array) -> Array:
    """Stretch a coarse field to the canvas, bilinearly, corner to corner."""
    def weights(n: int) -> tuple[Array, Array, Array]:
        at = np.arange(SIZE, dtype=np.float32) * np.float32(n - 1) / np.float32(SIZE - 1)
        low = np.minimum(at.astype(np.int64), n - 2)
        return low, low + 1, at - low.astype(np.float32)

    r0, r1, fr = weights(field.shape[0])
    c0, c1, fc = weights(field.shape[1])
    rows = field[r0] * (1 - fr)[:, None] + field[r1] * fr[:, None]
    return rows[:, c0] * (1 - fc) + rows[:, c1] * fc


def _wave(x: Array) -> Array:
    """Triangle wave with period 1 and values in [0, 1]."""
    return np.abs(2 * (x - np.floor(x)) - 1)


def _texture(dice: Dice) -> Array:
    """A pattern (SIZE, SIZE) in [0, 1]: stripes, checks, dots, weave or cloud."""
    t, step = dice.between(-1, 1), dice.between(6, 18)
    c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)       # a rotation without sine and cosine
    along, across = (COLUMNS * c + ROWS * s) / step, (ROWS * c - COLUMNS * s) / step
    kind = dice.below(5)
    if kind == 0:
        return np.clip(4 * _wave(along) - 1.5, 0, 1)
    if kind == 1:
        return ((np.floor(along) + np.floor(across)) % 2).astype(np.float32)
    if kind == 2:
        du, dv = _wave(along), _wave(across)
        return np.clip(3.5 - 6 * np.sqrt(du * du + dv * dv), 0, 1)
    if kind == 3:
        return np.where((np.floor(along) + np.floor(across)) % 2 > 0, _wave(2 * along), _wave(2 * across))
    return _stretch(dice.field(9, 9))


def background(dice: Dice) -> Array:
    """A new canvas: a colour gradient, a pattern over it, and unevenness at two scales."""
    corners = [dice.colour((.05, .55), (.35, .95)) for _ in range(4)]
    across, down = COLUMNS[:1] / (SIZE - 1), ROWS[:, :1] / (SIZE - 1)
    canvas = ((corners[0] * (1 - across) + corners[1] * across) * (1 - down)
              + (corners[2] * (1 - across) + corners[3] * across) * down)
    ink, strength = dice.colour((.05, .6), (.2, 1.)), dice.between(.1, .45)
    cover = _texture(dice) * np.float32(strength)
    canvas = canvas * (1 - cover) + ink * cover
    uneven = (_stretch(dice.field(6, 6)) - .5) * .25 + (_stretch(dice.field(43, 43)) - .5) * .12
    return np.clip(canvas * (1 + uneven), 0, 1)


def paint(canvas: Array, window: tuple[slice, slice], cover: Array, colour: Array) -> None:
    """Blend `colour` (3, 1, 1) or (3, h, w) into a window of the canvas, in place; `cover` (h, w) is in [0, 1]."""
    below = canvas[:, window[0], window[1]]
    below += (colour - below) * cover


def window_around(cx: float, cy: float, reach: float) -> tuple[slice, slice]:
    """The part of the canvas within `reach` pixels of (cx, cy), as two slices (rows, columns)."""
    return (slice(max(int(cy - reach), 0), min(int(cy + reach) + 2, SIZE)),
            slice(max(int(cx - reach), 0), min(int(cx + reach) + 2, SIZE)))


def clutter(canvas: Array, dice: Dice) -> None:
    """Scatter 8 to 20 small bits that look like parts of objects but belong to none."""
    for _ in range(8 + dice.below(13)):
        cx, cy, r = dice.between(0, SIZE), dice.between(0, SIZE), dice.between(2, 8)
        t, slim, kind = dice.between(-1, 1), dice.between(.35, 1), dice.below(4)
        colour, cover = dice.colour((.1, 1.), (.15, 1.)), dice.between(.6, 1)
        window = window_around(cx, cy, 1.5 * r)
        x, y = COLUMNS[window] - cx, ROWS[window] - cy
        if x.size == 0:
            continue
        c, s = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        u, v = (x * c + y * s) / r, (y * c - x * s) / r
        distance = (ellipse(u, v, 0, 0, 1, slim) if kind == 0 else
                    box(u, v, 0, 0, 1, .5 * slim) if kind == 1 else
                    polygon(u, v, (0, -1), (slim, .7), (-slim, .7)) if kind == 2 else
                    intersection(ellipse(u, v, 0, 0, 1, 1), -ellipse(u, v, 0, 0, .55, .55)))
        paint(canvas, window, np.clip(.5 - distance * r, 0, 1) * cover, colour)
