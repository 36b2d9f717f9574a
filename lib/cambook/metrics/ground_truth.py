"""Pictures with what is true about them, brought to what a network sees."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..models import Preprocessing, open_photo
from ..world import CLASSES, SIBLINGS, Scene
from .localisation import box_masks


@dataclass(frozen=True, eq=False)
class Picture:
    """A photograph, one class in it, and the boxes of that class.

    name: as it is to be called in a table. photo: a path, or uint8 (H, W, 3). target: the class's number.
    boxes: (x0, y0, x1, y1) in pixels of the photo, half-open, as in `box_masks`.
    """

    name: str
    photo: str | Path | np.ndarray
    target: int
    boxes: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, eq=False)
class Example:
    """One picture in a network's input: image (3, H, W), normalised; mask, box and part (H, W) bool.

    mask: the objects of the class `target`; box: their boxes, filled, which are the mask of a photograph;
    part: what of them tells the class from its sibling, empty where that is not known. All are empty where
    the network's crop has left nothing of them.
    """

    name: str
    image: Tensor
    target: int
    mask: Tensor
    box: Tensor
    part: Tensor


def example(item: Scene | Picture, preprocessing: Preprocessing) -> Example:
    """The scene or picture as the network sees it. TypeError for anything else.

    Of a scene the class is its `label`, that of the first object. Its masks take the way of its pixels, but
    with the nearest neighbour instead of a mean, so that they stay masks.
    """
    if isinstance(item, Scene):
        image = preprocessing(item.image)[0]
        boxes = [thing.box for thing in item.objects if thing.label == item.label]
        return Example(
            name=f"{item.seed} {'+'.join(CLASSES[label] for label in item.labels)}",
            image=image,
            target=item.label,
            mask=_seen(item.mask(), preprocessing),
            box=_filled(boxes, item.image, image, preprocessing),
            part=_seen(_distinguishing(item), preprocessing),
        )
    if isinstance(item, Picture):
        photo = item.photo if isinstance(item.photo, np.ndarray) else np.asarray(open_photo(item.photo))
        image = preprocessing(photo)[0]
        box = _filled(item.boxes, photo, image, preprocessing)
        return Example(item.name, image, item.target, mask=box, box=box, part=torch.zeros_like(box))
    raise TypeError(
        "A table is made of scenes (world.scene) or pictures (metrics.Picture), not of "
        f"{type(item).__name__}."
    )


def _filled(boxes: Sequence, photo: np.ndarray, image: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Boxes of a photo (H, W, 3), filled, in the input (3, h, w) that was made of it: (h, w) bool."""
    height, width = photo.shape[:2]
    seen = [preprocessing.box(box, width, height) for box in boxes]
    return box_masks([seen], tuple(image.shape[1:]))[0]


def _distinguishing(scene: Scene) -> np.ndarray:
    """The pixels of the part in which the scene's class differs from its sibling; none if it has none."""
    name = CLASSES[scene.label]
    part = next((part for part, pair in SIBLINGS.items() if name in pair), "")
    return scene.part(part)


def _seen(mask: np.ndarray, preprocessing: Preprocessing) -> Tensor:
    as_pixels = dataclasses.replace(preprocessing, mean=0.0, std=1.0, interpolation="nearest")
    return as_pixels(255 * mask.astype(np.uint8))[0, 0] > 0.5
