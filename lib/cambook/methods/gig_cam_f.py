"""GIG-CAM(F): GIG-CAM at several sizes of the picture, fused. A reconstruction from its abstract.

The paper is that of `gig_cam`; its title calls this "GIG-CAM+M".
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import targets as targets_
from ..activations import check_images
from ..explanation import PathExplanation
from .fusion import STRENGTHS, check_rule, fuse, scale_map
from .gig_cam import check_choices, walk
from .paths import Ends, ends, like


def gig_cam_f(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    baseline: Tensor | None = None,
    steps: int = 50,
    fraction: float = 0.5,
    max_dist: float = 1.0,
    guide: str = "input_grad",
    accumulation: str = "A2",
    scales: Sequence[float] = (1, 1.5, 2),
    fusion: str = "res",
    strength: float | None = None,
    score: targets_.Kind = "logit",
    dtype: torch.dtype | None = None,
    trace: bool = False,
) -> PathExplanation:
    """GIG-CAM(F): the map of the original size, refined by those of enlarged pictures, largest first.

    S_i = N(Up(GIG-CAM(the picture enlarged s_i times))), R_n = S_n and R_i = N( S_i (1 + R_i+1) ): see
    `fusion`. The order, from large to small with the original size last, is the abstract's; sizes and formula
    are our reading.

    scales: factors of the picture's height and width, 1 and larger ones in any order; rounded to pixels.
        (1, 1.5, 2) is our choice.
    fusion, strength: the rule and its number, as in `fusion.fuse`.
    The other arguments are those of `gig_cam`. The layer and the classes are found at the original size. The
    baseline of each scale is a black picture of that size, or the given one enlarged like the picture.
    trace: keep "maps" S_i and "fused" R_i, both (S, B, H, W), smallest scale first, and "scales", a list with
        the explanation of each scale and its own trace.

    `raw` is R_0 itself, (B, H, W) in [0, 1]; `map` its min-max. `path_scores`, `variation` and `gap` have an
    axis for the scales: (B, S, …). T + 1 passes forwards and backwards a scale, on pictures that are s²
    times as large: 7.25 times the cost of `gig_cam` for the default scales.

    A larger picture helps where the network still knows the object at that size, and hurts where it does not;
    that is a property of the network, not of the fusion.

    Raises ValueError or TypeError, in one sentence, for what does not fit; also for a scale whose pictures
    the network cannot take, and that before any path is made.
    """
    check_choices(guide, accumulation, steps, fraction, max_dist)
    check_rule(fusion, strength)
    scales = _check_scales(scales)
    images = check_images(model, images)
    if baseline is not None:
        baseline = like(baseline, images)
    options = {"score": score, "dtype": dtype}
    original = ends("gig_cam_f", model, images, targets, layers, baseline=baseline, **options)
    seen = original.seen
    # Both ends at each scale before the first path, so that a size that does not fit is found at once.
    journeys = [original]
    for scale in scales[1:]:
        journeys.append(_enlarged(original, scale, images, baseline, **options))

    choices = {"steps": steps, "fraction": fraction, "max_dist": max_dist}
    parts = [walk(journey, guide, accumulation, trace, **choices) for journey in journeys]
    size = images.shape[-2:]
    maps = [scale_map(part.raw, size) for part in parts]
    grids = [tuple(part.raw.shape[1:]) for part in parts]
    fused = fuse(maps, fusion, strength=strength, grids=grids)

    kept = {"maps": torch.stack(maps), "fused": torch.stack(fused), "scales": parts} if trace else {}
    chosen = {"scales": scales, "fusion": fusion}
    chosen["strength"] = STRENGTHS[fusion] if strength is None else strength
    e = seen.explain(fused[0], trace=kept, **{**parts[0].config, **chosen})
    return PathExplanation(
        **vars(e) | {"forwards": sum(part.forwards for part in parts)},
        path_scores=torch.stack([part.path_scores for part in parts], 1),
        variation=torch.stack([part.variation for part in parts], 1),
        gap=torch.stack([part.gap for part in parts], 1),
        backwards=sum(part.backwards for part in parts),
    )


def enlarge(images: Tensor, scale: float) -> Tensor:
    """Pictures (B, C, H, W) at `scale` times their height and width, bilinearly.

    In the network's input space, which is the same as in pixels: bilinear weights add up to 1, so that it
    does not matter whether one resizes before or after normalising.
    """
    size = [round(scale * side) for side in images.shape[-2:]]
    return F.interpolate(images.float(), size, mode="bilinear", align_corners=False).to(images)


def _enlarged(original: Ends, scale: float, images: Tensor, baseline: Tensor | None, **options) -> Ends:
    """Both ends of the path at a larger scale."""
    model, seen = original.model, original.seen
    larger = enlarge(images, scale)
    try:
        return ends(
            "gig_cam_f", model, larger, seen.targets, seen.layer,
            baseline=None if baseline is None else enlarge(baseline, scale), **options,
        )    # fmt: skip
    except torch.OutOfMemoryError:
        raise
    # The same network took the same pictures at their own size, so whatever it complains of is the size.
    except (ValueError, RuntimeError, AssertionError) as error:
        height, width = larger.shape[-2:]
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"At scale {scale:g} the images have {height}×{width} pixels, which this {type(model).__name__} "
            f"does not take: leave that scale out of scales. ({reason[0]})"
        ) from error


def _check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales in order, the original size first."""
    ordered = tuple(sorted(scales)) if isinstance(scales, Iterable) else ()
    if not ordered or ordered[0] != 1 or not ordered[-1] < float("inf"):
        raise ValueError(
            f"scales are factors such as (1, 1.5, 2): 1, the original size, and larger ones, not {scales!r}."
        )
    return ordered
