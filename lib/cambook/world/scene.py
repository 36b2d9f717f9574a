"""Scenes of the picture world: 128×128 pictures whose objects, parts and causes are known to the pixel."""

from dataclasses import dataclass, field

import numpy as np

from .canvas import COLUMNS, ROWS, SIZE, Dice, background, clutter, paint, window_around
from .figures import CLASSES, FIGURES, SIBLINGS
from .shapes import Array, box, ellipse, intersection, union

MIN_AREA, MAX_AREA = 0.03, 0.30      # of the picture, for one object
MAX_COVER = 0.32                     # of the picture, for all objects of a scene together
MARGIN = 2                           # pixels between an object and the frame or another object's box


@dataclass(frozen=True)
class Object:
    """One object of a scene. All masks are boolean (128, 128)."""

    label: int
    box: tuple[int, int, int, int]                 # x0, y0, x1, y1; the last column and row are outside
    mask: Array
    parts: dict[str, Array]                        # part name -> the visible pixels of that part


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is true about it."""

    seed: int
    image: Array                                   # uint8 (128, 128, 3)
    label: int                                     # of the first object; in a one-class scene, of all
    objects: tuple[Object, ...]
    cue: Array = field(repr=False)                 # bool (128, 128): the watermark's pixels, empty where there is none

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes that are present, each once, in the order of the objects."""
        return tuple(dict.fromkeys(item.label for item in self.objects))

    def mask(self, label: int | None = None) -> Array:
        """All pixels of the objects of one class (default: the scene's `label`), bool (128, 128)."""
        label = self.label if label is None else label
        return np.any([item.mask for item in self.objects if item.label == label] or [np.zeros_like(self.cue)], axis=0)

    def part(self, name: str, label: int | None = None) -> Array:
        """All pixels of the part `name` in the objects of one class (default: `label`), bool (128, 128)."""
        label = self.label if label is None else label
        found = [item.parts[name] for item in self.objects if item.label == label and name in item.parts]
        return np.any(found or [np.zeros_like(self.cue)], axis=0)


def _extent(figure) -> tuple[float, float, float]:
    """Area of a figure drawn with scale 1, and the centre of its bounding box, read off a fine grid."""
    v, u = (grid.astype(np.float32) / 128 for grid in np.mgrid[-160:161, -160:161])
    inside = union(*(distance for _, _, distance in figure(u, v))) <= 0
    return (float(inside.sum()) / 128 ** 2, float(u[inside].max() + u[inside].min()) / 2,
            float(v[inside].max() + v[inside].min()) / 2)


_EXTENTS = {name: _extent(figure) for name, figure in FIGURES.items()}


@dataclass(frozen=True)
class _Pose:
    scale: float
    cos: float
    sin: float
    mirror: float
    stretch: float
    shift_u: float
    shift_v: float

    def local(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Pixel offsets from the object's centre -> the figure's own coordinates."""
        u = (x * self.cos + y * self.sin) / (self.scale * self.stretch) * self.mirror + self.shift_u
        v = (y * self.cos - x * self.sin) / self.scale * self.stretch + self.shift_v
        return u, v


def _pose(name: str, area: float, dice: Dice) -> _Pose:
    """A random rotation (within ±60°), reflection and stretch, scaled so that the figure covers `area` of the picture.

    Without the stretch the box alone would tell a long fish from a round cat.
    """
    unit, shift_u, shift_v = _EXTENTS[name]
    t = dice.between(-.58, .58)
    return _Pose(scale=(area * SIZE * SIZE / unit) ** .5, cos=(1 - t * t) / (1 + t * t), sin=2 * t / (1 + t * t),
                 mirror=1. if dice.below(2) else -1., stretch=dice.between(.75, 1.33),
                 shift_u=shift_u, shift_v=shift_v)


def _reach(name: str, pose: _Pose) -> tuple[float, float, float, float]:
    """How far the posed figure extends left, up, right and down of its centre, in pixels."""
    half = int(1.9 * pose.scale) + 2
    y, x = (grid.astype(np.float32) for grid in np.mgrid[-half:half + 1:2, -half:half + 1:2])
    inside = union(*(distance for _, _, distance in FIGURES[name](*pose.local(x, y)))) <= 0
    return (float(-x[inside].min()) + 2, float(-y[inside].min()) + 2,
            float(x[inside].max()) + 2, float(y[inside].max()) + 2)


def _areas(count: int, dice: Dice) -> list[float]:
    """Areas of the objects within the bounds; small objects are the more common ones, else the centre is hit too often."""
    largest = min(MAX_AREA, MAX_COVER - MIN_AREA * (count - 1))
    areas = []
    for left in range(count - 1, -1, -1):
        room = min(largest, MAX_COVER - sum(areas) - MIN_AREA * 1.05 * left)
        t = dice.between(0, 1)
        areas.append(MIN_AREA * 1.05 * (1 + t * t * t * (room / (MIN_AREA * 1.05) - 1) * .97))
    return areas


def _place(reaches: list[tuple], dice: Dice) -> list[tuple[float, float]] | None:
    """Centres that keep every object inside the picture and clear of the others, or None where none was found."""
    placed: list[tuple[float, float, float, float]] = []
    centres = []
    for left, up, right, down in reaches:
        low_x, high_x = left + MARGIN, SIZE - 1 - right - MARGIN
        low_y, high_y = up + MARGIN, SIZE - 1 - down - MARGIN
        if low_x > high_x or low_y > high_y:
            return None
        for _ in range(30):
            cx, cy = dice.between(low_x, high_x), dice.between(low_y, high_y)
            new = (cx - left - MARGIN, cy - up - MARGIN, cx + right + MARGIN, cy + down + MARGIN)
            if all(new[2] < old[0] or old[2] < new[0] or new[3] < old[1] or old[3] < new[1] for old in placed):
                placed.append(new)
                centres.append((cx, cy))
                break
        else:
            return None
    return centres


def _draw(canvas: Array, name: str, pose: _Pose, reach: float, cx: float, cy: float, dice: Dice) -> Object:
    """Paint one object, which lies within `reach` pixels of (cx, cy) in both directions, with its shadow, outline and shading; return its ground truth."""
    colours = (dice.colour((.35, 1.), (.45, 1.)), dice.colour((.1, .9), (.55, 1.)), dice.colour((.1, .8), (.05, .30)))
    light_x, light_y = dice.between(-.35, .35), dice.between(-.35, -.1)
    window = window_around(cx, cy, reach + 6)
    x, y = COLUMNS[window] - np.float32(cx), ROWS[window] - np.float32(cy)
    u, v = pose.local(x, y)
    strokes = FIGURES[name](u, v)
    outline = union(*(distance for _, _, distance in strokes)) * np.float32(pose.scale)      # in pixels

    shadow = np.zeros_like(outline)
    shadow[3:, 2:] = np.clip(.5 - outline[:-3, :-2] / 5, 0, 1)
    paint(canvas, window, shadow * np.float32(.4), np.zeros((3, 1, 1), np.float32))

    shade = 1 + (light_x * x + light_y * y) / np.float32(pose.scale)
    owner = np.full(outline.shape, -1)
    parts = list(dict.fromkeys(part for part, _, _ in strokes))
    for part, colour, distance in strokes:
        pixels = distance * np.float32(pose.scale)
        rim = 1 - np.float32(.45) * np.clip(pixels + 1.5, 0, 1)                               # darker towards its edge
        painted = np.clip(colours[colour] * (shade * rim), 0, 1)
        paint(canvas, window, np.clip(.5 - pixels, 0, 1), painted)
        owner[pixels <= 0] = parts.index(part)

    def whole(inside: Array) -> Array:
        mask = np.zeros((SIZE, SIZE), bool)
        mask[window] = inside
        return mask

    mask = whole(owner >= 0)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return Object(label=CLASSES.index(name), mask=mask,
                  box=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
                  parts={part: whole(owner == i) for i, part in enumerate(parts)})


def _watermark(canvas: Array, dice: Dice) -> Array:
    """Stamp a small ring with a bar into the lower right corner; return its pixels."""
    cx, cy, r = dice.between(112, 118), dice.between(112, 118), 7.
    u, v = (COLUMNS - np.float32(cx)) / r, (ROWS - np.float32(cy)) / r
    distance = union(intersection(ellipse(u, v, 0, 0, 1, 1), -ellipse(u, v, 0, 0, .68, .68)), box(u, v, 0, 0, .5, .14))
    paint(canvas, (slice(None), slice(None)), np.clip(.5 - distance * r, 0, 1) * np.float32(.75),
          np.ones((3, 1, 1), np.float32))
    return distance <= 0


def scene(seed: int, classes: list[str] | tuple[str, ...] | None = None, cue: str | None = None) -> Scene:
    """The scene with this seed: the same bytes on every machine.

    seed: any integer ≥ 0. The same seed with other `classes` or `cue` keeps its background.
    classes: None for a scene with one to three objects of one class, both drawn from the seed; or the names of the
        classes to show, one object each, for instance ("cat", "rabbit").
    cue: name of the class that carries the spurious cue: scenes whose `label` is this class get a watermark in the
        lower right corner, all others do not. None: no watermark anywhere.

    Objects cover 3–30 % of the picture each, lie wholly inside it and do not overlap. Colour, place, size, rotation
    and shading are drawn independently of the class.

    Raises ValueError for an unknown class name, more than three classes, or a negative seed.
    """
    if seed < 0:
        raise ValueError(f"a scene's seed is an integer ≥ 0, not {seed}.")
    for name in (*(classes or ()), *((cue,) if cue else ())):
        if name not in CLASSES:
            raise ValueError(f"no class is called {name!r}: choose from {', '.join(CLASSES)}.")
    if classes is not None and not 1 <= len(classes) <= 3:
        raise ValueError(f"a scene shows one to three classes, not {len(classes)}.")

    canvas = background(Dice(seed, 0))
    clutter(canvas, Dice(seed, 1))
    dice = Dice(seed, 2)
    if classes is None:
        classes = (CLASSES[dice.below(len(CLASSES))],) * (1, 1, 1, 2, 2, 3)[dice.below(6)]
    while True:                       # crowded draws are thrown again; the smallest objects always find room
        poses = [_pose(name, area, dice) for name, area in zip(classes, _areas(len(classes), dice))]
        reaches = [_reach(name, pose) for name, pose in zip(classes, poses)]
        centres = _place(reaches, dice)
        if centres:
            break
    objects = tuple(_draw(canvas, name, pose, max(reach), cx, cy, dice)
                    for name, pose, reach, (cx, cy) in zip(classes, poses, reaches, centres))
    stamped = cue == CLASSES[objects[0].label]
    mark = _watermark(canvas, Dice(seed, 3)) if stamped else np.zeros((SIZE, SIZE), bool)
    image = np.floor(np.clip(canvas, 0, 1).transpose(1, 2, 0) * 255 + np.float32(.5)).astype(np.uint8, order="C")
    return Scene(seed=seed, image=image, label=objects[0].label, objects=objects, cue=mark)


def two_class_scene(seed: int, siblings: bool | None = None) -> Scene:
    """A scene with two objects of two different classes, both drawn from the seed.

    siblings: True: always a pair that differs in one part only (`SIBLINGS`); False: never; None: any two classes.
    """
    dice = Dice(seed, 4)
    pairs = [(a, b) for a in CLASSES for b in CLASSES if a != b]
    families = [set(pair) for pair in SIBLINGS.values()]
    if siblings is not None:
        pairs = [pair for pair in pairs if (set(pair) in families) == siblings]
    return scene(seed, pairs[dice.below(len(pairs))])
