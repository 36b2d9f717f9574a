"""Do the pixels that the map ranks first matter first? The score as they are inserted or deleted in order."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from .. import scoring
from .. import targets as targets_
from ..models.running import check_images
from ._result import NetworkResult, check_maps_of, is_flat

TIES = ("first", "last")


@dataclass(frozen=True, eq=False)
class CurveResult(NetworkResult):
    """values: the area under each image's curve. excluded: flat maps, and scores that are not finite.

    curves: (B, S) float64, the score when a share of the pixels is inserted or deleted; NaN where excluded.
    fractions: (S,) float64, these shares, rising to 1.
    ties: (B,) int64, how many pixels share their value with another, so that the map does not order them.
    """

    curves: Tensor
    fractions: Tensor
    ties: Tensor


def insertion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    protocol: str = "rise",
    steps: int | None = None,
    ties: str = "first",
    score: targets_.Kind = "probability",
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
) -> CurveResult:
    """The area under the score as the pixels of highest value are put in first; higher is better.

    protocol        steps   insertion begins with        deletion ends with   the area
    "rise"          224     a blur of 11 px, σ 5         zeros                trapezoids
    "polycam"       224     a true blur of 11 px, σ 5    the same blur        mean of the scores after a step
    "scorecam"      100     zeros                        zeros                trapezoids
    "groupcam"      112     a true blur of 51 px, σ 50   zeros                trapezoids

    "rise": official code, also the blur, which is nearly a box and darkens 5 px along the border.
    "polycam": official code; the image before the first step has no point. "groupcam": official code, with
    448 of 224² pixels a step. "scorecam": the paper sets "pixel values to zero or one" in steps of 1 %, which
    we read as those of the mask. Zeros are the mean colour, because images are normalised. The numbers of two
    protocols do not compare.

    images: (B, C, H, W), normalised. maps: (B, H, W), of the images' size and any range: only the order of
        the pixels counts, and a pixel is put in with all its channels.
    targets: as in `targets.resolve`; None is the clean image's top-1 class, all along the curve.
    steps: None is the protocol's number, or one pixel a step where the image has fewer. They are as even as
        whole pixels allow, and the area is taken over the true fractions.
    ties: which of equal pixels goes "first", that of the smallest or of the largest ("last") flat index. The
        official codes sort and turn round, which is "last" as far as their sort is stable.
    score: "probability" (softmax over the classes; official codes), "logit", or a function of the output.
    precision, chunk, progress: as in `scoring.masked_scores`. `steps` images go through the network for each
        image, and one more; the clean image, an end of the curve, is asked about once, flat maps only that.

    Raises ValueError or TypeError, in one sentence, for an unknown option, images too small for the blur, and
    images, maps or targets that do not fit.
    """
    return _curve(
        model, images, maps, targets, protocol, steps, ties, score, precision, chunk, progress, insert=True
    )


def deletion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    protocol: str = "rise",
    steps: int | None = None,
    ties: str = "first",
    score: targets_.Kind = "probability",
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
) -> CurveResult:
    """The area under the score as the pixels of highest value are taken away first; lower is better.

    Protocols, arguments, result and errors: as in `insertion`.
    """
    return _curve(
        model, images, maps, targets, protocol, steps, ties, score, precision, chunk, progress, insert=False
    )


def _curve(
    model, images, maps, targets, protocol, steps, ties, score, precision, chunk, progress, *, insert: bool
) -> CurveResult:
    if protocol not in PROTOCOLS:
        raise ValueError(f"The protocol is one of {', '.join(PROTOCOLS)}, not {protocol!r}.")
    if ties not in TIES:
        raise ValueError(f"The ties are taken {' or '.join(TIES)}, not {ties!r}.")
    chosen = PROTOCOLS[protocol]
    images = check_images(model, images)
    maps = check_maps_of(maps, images)
    pixels = maps[0].numel()
    steps = _check_steps(steps, min(chosen.steps, pixels), pixels)
    substrate = (chosen.inserted_into if insert else chosen.replaced_by)(images)

    clean = scoring.outputs(model, images, chunk=chunk)
    targets = targets_.resolve(targets, clean)
    counts = torch.arange(0 if chosen.trapezoids else 1, steps + 1, device=images.device) * pixels // steps
    untouched = counts == (pixels if insert else 0)    # where the picture is the clean image
    asked = torch.nonzero(~untouched).squeeze(1)
    live = torch.nonzero(~is_flat(maps)).squeeze(1)
    got = scoring.perturbed_scores(
        model,
        *((substrate, images) if insert else (images, substrate)),
        _ranks(maps, ties),
        counts[asked].repeat(len(live)),
        live.repeat_interleave(len(asked)),
        targets,
        kind=score,
        precision=precision,
        chunk=chunk,
        progress=progress,
    )
    curves = torch.full((len(images), len(counts)), float("nan"), dtype=torch.float64, device=images.device)
    curves[live[:, None], asked] = got.values.double().view(len(live), len(asked))
    curves[:, untouched] = targets.score(clean, kind=score).double()[:, None]

    excluded = ~curves.isfinite().all(1)
    fractions = counts.double() / pixels
    return CurveResult(
        values=torch.trapezoid(curves, fractions, dim=1) if chosen.trapezoids else curves.mean(1),
        excluded=excluded,
        forwards=len(images) + got.forwards,
        curves=curves.masked_fill(excluded[:, None], float("nan")),
        fractions=fractions,
        ties=_ties(maps),
    )


def _check_steps(steps: int | None, default: int, pixels: int) -> int:
    if steps is None:
        return default
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= pixels:
        raise ValueError(f"The steps are a number from 1 to {pixels}, one a pixel at most, not {steps!r}.")
    return steps


def _ranks(maps: Tensor, ties: str) -> Tensor:
    """Each pixel's place in the order of falling values: (B, H, W) int32."""
    values = maps.flatten(1)
    if ties == "first":
        order = values.argsort(dim=1, descending=True, stable=True)
    else:
        order = values.argsort(dim=1, stable=True).flip(1)
    place = torch.arange(order.shape[1], dtype=torch.int32, device=maps.device)
    return torch.empty_like(order, dtype=torch.int32).scatter_(1, order, place.expand_as(order)).view_as(maps)


def _ties(maps: Tensor) -> Tensor:
    """How many pixels of each map share their value with another: (B,)."""
    values = maps.flatten(1).sort(1).values
    equal = values[:, 1:] == values[:, :-1]
    return (F.pad(equal, (0, 1)) | F.pad(equal, (1, 0))).sum(1)


def _rise_blur(images: Tensor) -> Tensor:
    """RISE's blur: a point smeared by a Gaussian inside a frame of 11×11 that mirrors it, as the kernel.

    What would leave the frame comes back, so the kernel is nearly a box. Zeros are padded, and the border
    fades into the mean colour.
    """
    size, sigma = 11, 5
    offset = torch.arange(-4 * sigma, 4 * sigma + 1, device=images.device)    # as far as SciPy's filter goes
    gaussian = torch.exp(-((offset / sigma) ** 2) / 2)
    # The point is in the middle, so its mirror images lie one frame apart.
    place = (size // 2 + offset) % size
    line = torch.zeros_like(gaussian[:size]).index_add_(0, place, gaussian / gaussian.sum())
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, size, size)
    return F.conv2d(images.float(), kernel, padding=size // 2, groups=channels)


def _true_blur(size: int, sigma: float) -> Callable[[Tensor], Tensor]:
    """A Gaussian blur that mirrors the image at its border."""

    def blur(images: Tensor) -> Tensor:
        if min(images.shape[-2:]) <= size // 2:
            raise ValueError(
                f"This protocol's blur of {size} pixels needs images of {size // 2 + 1} pixels or more each "
                f"way, not {images.shape[-2]}×{images.shape[-1]}: enlarge them, or choose \"scorecam\"."
            )
        return gaussian_blur(images.float(), [size, size], [sigma, sigma])

    return blur


@dataclass(frozen=True)
class _Protocol:
    """steps for one curve; what insertion begins with; what deletion puts in the place of a pixel.

    trapezoids: the curve has both ends, and the area is that of trapezoids; else it has no point before the
    first step, and the area is the mean of the points.
    """

    steps: int
    inserted_into: Callable[[Tensor], Tensor]
    replaced_by: Callable[[Tensor], Tensor]
    trapezoids: bool = True


PROTOCOLS = {
    "rise": _Protocol(224, _rise_blur, torch.zeros_like),
    "polycam": _Protocol(224, _true_blur(11, 5.0), _true_blur(11, 5.0), trapezoids=False),
    "scorecam": _Protocol(100, torch.zeros_like, torch.zeros_like),
    "groupcam": _Protocol(112, _true_blur(51, 50.0), torch.zeros_like),
}
