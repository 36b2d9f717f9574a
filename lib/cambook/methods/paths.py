"""Paths from a baseline x' to an image x: their points, and what the network shows at each of them.

A path is any sequence of inputs. What is added up along it is another matter: see `accumulations`.
"""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .. import models
from .. import targets as targets_
from ..activations import Captured, capture, check_images
from ..kernels import path_step
from .look import Look, look


@dataclass(frozen=True)
class Point:
    """What one forward and one backward pass showed at one point of a path, for B images.

    z: (B, C, H, W), the point. scores: (B,), the explained score y there. gradients: ∂y/∂z, of z's shape.
    activations: (B, K, h, w), and layer_gradients: ∂y/∂A of that shape; both None without a layer. All are in
    the path's dtype.
    """

    z: Tensor
    scores: Tensor
    gradients: Tensor
    activations: Tensor | None
    layer_gradients: Tensor | None


@dataclass(frozen=True)
class Ends:
    """Both ends of a path, and how to look at a point between them: `evaluate(z)`.

    seen: the clean pass over the images, which is also the path's end. config: what was chosen.
    """

    model: nn.Module
    score: targets_.Kind
    seen: Look
    start: Point
    end: Point
    evaluate: Callable[[Tensor], Point]
    config: dict


def ends(
    method: str,
    model: nn.Module,
    images: Tensor,
    targets,
    layers,
    *,
    baseline: Tensor | None,
    score: targets_.Kind,
    dtype: torch.dtype | None,
) -> Ends:
    """Look at the images and at their baseline: one pass forwards and backwards each.

    layers: as in `look`; NO_LAYER for methods of the input's pixels. baseline: (1 or B, C, H, W) in the network's
    input space, None for `black`. score: as in `Targets.score`. dtype: of the points and of what is added up
    along them; None is float32, and float64 for a network in float64. Half precision would lose small steps.
    """
    if dtype not in (None, torch.float32, torch.float64):
        raise ValueError(f"A path is computed in torch.float32 or torch.float64, not in {dtype!r}.")
    images = _laid_out(check_images(model, images))
    seen = look(method, model, images, targets, layers, gradients=True, inputs=True, kind=score)
    dtype = dtype or torch.promote_types(seen.images.dtype, torch.float32)
    x = seen.images.detach().to(dtype, memory_format=torch.contiguous_format)
    start = black(model, x) if baseline is None else like(baseline, x)

    def evaluate(z: Tensor) -> Point:
        captured, scores = _pass(model, z, seen, score, inputs=True)
        of_layer = captured.activations.get(seen.layer), captured.gradients.get(seen.layer)
        return _point(z, scores, captured.input_gradients, *of_layer)

    end = _point(x, seen.scores, seen.input_gradients, seen.activations, seen.gradients)
    config = {"baseline": "black" if baseline is None else "given", "dtype": str(dtype).split(".")[1]}
    return Ends(model, score, seen, evaluate(start), end, evaluate, config)


def in_features(ends: Ends) -> Ends:
    """The same ends in the space of the layer's features: a path from A(x') to A(x), through the head only.

    At a point between them, the point takes the place of the layer's output and the network goes on from
    there. What is in front of the layer runs too, since an arbitrary network cannot be cut open, but no
    backward pass goes through it.
    """
    images, (name, layer) = ends.seen.images, models.layer(ends.model, ends.seen.layer)

    def evaluate(z: Tensor) -> Point:
        features = z.to(images.dtype)
        # Registered before the hook of `capture`, which therefore takes the point for the layer's output.
        hook = layer.register_forward_hook(lambda *_: features)
        try:
            captured, scores = _pass(ends.model, images, ends.seen, ends.score)
        finally:
            hook.remove()
        return _point(z, scores, captured.gradients[name], z, captured.gradients[name])

    start, end = (
        replace(point, z=point.activations, gradients=point.layer_gradients)
        for point in (ends.start, ends.end)
    )
    return replace(ends, start=start, end=end, evaluate=evaluate)


def straight(ends: Ends, steps: int) -> Iterator[Point]:
    """T + 1 points at equal distances on the straight line (Integrated Gradients)."""
    return given(ends, (torch.lerp(ends.start.z, ends.end.z, t / steps) for t in range(1, steps)))


def given(ends: Ends, between: Iterable[Tensor]) -> Iterator[Point]:
    """The start, any inputs (B, C, H, W) between, and the end."""
    yield ends.start
    for z in between:
        yield ends.evaluate(z)
    yield ends.end


def guided(
    ends: Ends,
    guide: Callable[[Point], Tensor],
    *,
    steps: int,
    fraction: float,
    max_dist: float,
    anchors: int = 1,
) -> Iterator[Point]:
    """T + 1 points of Guided IG's path: in each step the features with the smallest score move first.

    guide: what the network showed at a point -> (B, C, H, W), whose size is the score. Each image of the
    batch has its own path. anchors: the straight line is cut into so many pieces, with a guided path of its
    own along each of them. The rest as in `kernels.path_step`, which makes the steps.
    """
    point, nothing = ends.start, torch.zeros_like(ends.start.z)
    corners = [torch.lerp(ends.start.z, ends.end.z, piece / anchors) for piece in range(anchors + 1)]
    yield point
    for piece, (here, there) in enumerate(itertools.pairwise(corners)):
        for step in range(steps // anchors):
            z, _ = path_step(
                point.z, nothing, guide(point), there, here,
                step=step, steps=steps // anchors, fraction=fraction, max_dist=max_dist,
            )    # fmt: skip
            if piece == anchors - 1 and step == steps // anchors - 1:
                break    # z is x, to rounding, and that point is known
            point = ends.evaluate(z)
            yield point
    yield ends.end


def check_steps(steps: int, fraction: float = 1.0, max_dist: float = 1.0, anchors: int = 1) -> None:
    """Refuse numbers that describe no path, before any pass is made."""
    for name, number in (("steps", steps), ("anchors", anchors)):
        if isinstance(number, bool) or not hasattr(number, "__index__") or operator.index(number) < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {number!r}.")
    if steps % anchors:
        raise ValueError(f"{steps} steps cannot be shared out among {anchors} pieces: choose a multiple.")
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction is a share of the features, in [0, 1], not {fraction!r}.")
    if not max_dist >= 0:
        raise ValueError(
            f"max_dist is a share of the way, 0 (the straight line) to 1 (free), not {max_dist!r}."
        )


def check_path(path: Sequence[Tensor], images: Tensor) -> list[Tensor]:
    """The inputs of a caller's own path: two or more, of the images' shape, and the images at the end."""
    inputs = list(path)
    if len(inputs) < 2 or not all(isinstance(z, Tensor) for z in inputs):
        raise ValueError("A path is a sequence of two or more inputs, from the baseline to the images.")
    for t, z in enumerate(inputs):
        if z.shape != images.shape:
            raise ValueError(
                f"Point {t} of the path has shape {tuple(z.shape)}, unlike the images, {tuple(images.shape)}."
            )
    if not torch.allclose(inputs[-1].to(images), images, atol=1e-5):
        raise ValueError("A path ends at the images that are explained, but this one ends elsewhere.")
    return inputs


def black(model: nn.Module, images: Tensor) -> Tensor:
    """A black picture in the network's input space for each of the images (B, 3, H, W).

    Raises ValueError for a network that does not say how its inputs are normalised.
    """
    preprocessing = getattr(model, "preprocessing", None)
    if not isinstance(preprocessing, models.Preprocessing):
        raise ValueError(
            f"What is black for this {type(model).__name__} is not known, because it carries no "
            "preprocessing: call models.load(model) first, or give baseline=."
        )
    if images.shape[1] != 3:
        raise ValueError(f"Black is known for 3 channels, not for {images.shape[1]}: give baseline=.")
    return preprocessing.normalise(torch.zeros_like(images))


def like(baseline: Tensor, x: Tensor) -> Tensor:
    """The caller's baseline for each image, on the images' device and in their dtype."""
    if not isinstance(baseline, Tensor) or not baseline.is_floating_point():
        raise TypeError("The baseline is a float tensor in the network's input space, or None for black.")
    if baseline.shape not in (x.shape, (1, *x.shape[1:])):
        raise ValueError(
            f"The baseline has shape {tuple(baseline.shape)}, but must be one image of the images' size, "
            f"(1, {', '.join(map(str, x.shape[1:]))}), or one for each."
        )
    if not baseline.isfinite().all():
        raise ValueError("The baseline holds NaN or infinite values: a path cannot start there.")
    return baseline.detach().to(x).expand(x.shape).contiguous()


def _pass(
    model: nn.Module, images: Tensor, seen: Look, score: targets_.Kind, inputs: bool = False
) -> tuple[Captured, Tensor]:
    """One pass over points, for the targets that were resolved on the images; and the points' scores."""
    values = []

    def scores(output: Tensor) -> Tensor:
        values.append(seen.targets.score(output, kind=score))
        return values[-1]

    layers = [] if seen.layer is None else [seen.layer]
    images = _laid_out(images.to(seen.images.dtype))
    captured = capture(model, images, layers, scores, inputs=inputs)
    return captured, values[-1].detach()


def _laid_out(images: Tensor) -> Tensor:
    """The layout in which every point goes through the network, the end of the path too.

    In channels-last a pass forwards and backwards takes 0.45 to 0.8 of the time on a CPU. Another layout rounds
    otherwise on some processors, and the score would change where nothing moves.
    """
    return images.contiguous(memory_format=torch.channels_last)


def _point(z: Tensor, *parts: Tensor | None) -> Point:
    """A point with all parts in the dtype of z, and laid out as it is."""
    layout = torch.contiguous_format
    return Point(z, *(None if part is None else part.to(z.dtype, memory_format=layout) for part in parts))
