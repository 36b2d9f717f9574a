"""Poly-CAM: where deep layers decide, and which pixel there, which shallow layers know.

A. Englebert, O. Cornu, C. De Vleeschouwer, "Poly-CAM: High resolution class activation map for convolutional
neural networks", ICPR 2022, arXiv 2204.13359; extended in Machine Vision and Applications, 2024. The formulas
are those of the authors' published program; the paper's own notation was not available to us.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import models, scoring
from .. import targets as targets_
from ..activations import capture, check_images
from ..explanation import Explanation
from ..kernels import lnorm_step, robust_range
from .look import at_least_float32, weighted_sum

VARIANTS = ("plus", "minus", "pm")
# What maps of a ResNet with bottlenecks can be asked for by name. The official code's search finds the first
# list: the last ReLU of each stage's first block instead of the stage before, so that 56 × 56 is missing and
# 7 × 7 is there twice. Its scripts for the ablations write out the second one, in which every step halves.
# (The search names layer2.0.relu and so on, a module that runs three times; its last output is the block's.)
LAYER_LISTS = {
    "resnet50_official": ("relu", "layer2.0", "layer3.0", "layer4.0", "layer4"),
    "resnet50_recommended": ("relu", "layer1", "layer2", "layer3", "layer4"),
}
# The percentiles that become 0 and 1, and the least divisor (official code).
LOW, HIGH = 0.1, 99.9
FLOOR = 1e-12


def poly_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    variant: str = "pm",
    layers="auto",
    lnorm: bool = True,
    score: targets_.Kind = "probability",
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
    trace: bool = False,
) -> Explanation:
    """Poly-CAM, from the deepest layer L to the shallowest (all formulas: official code).

        M_k = U(N(A_k))                      one soft mask for each channel k of each layer
        C_l = ReLU( Σ_k w_k A_k )            what the layer has to say, at its own size
        P_L = C_L,   P_l = U(P_l+1) ⊙ C_l / max(U(D(C_l)), 1e-12)
        S_l = U(N(P_l))                      the map at depth l; S_1 is Poly-CAM's

    with U, D bilinear to the larger and to the next deeper size, and N of `robust_normalise`. The weights:

        variant="plus"     PCAM+, CIC   f_c(M ⊙ X)
        variant="minus"    PCAM−, CDC   ReLU( f_c(X) − f_c((1 − M) ⊙ X) )
        variant="pm"       PCAM±, CVC   ReLU( f_c(M ⊙ X) + f_c(X) − f_c((1 − M) ⊙ X) )

    images: (B, C, H, W), normalised; what a mask removes becomes the mean colour. targets: as in `grad_cam`.
    layers: shallow to deep, names or modules; "auto" is `models.stage_layers` (1 more image through the
        network), the last layer before each change of resolution; or a name of `LAYER_LISTS`. A single layer
        has no recursion and is not Poly-CAM.
    lnorm: False leaves the divisor out, P_l = U(P_l+1) ⊙ C_l, the ablation of the official code.
    score: f_c, the class probability (official code). For networks with one output a function, such as
        torch.sigmoid: a softmax over one class is always 1.
    precision, chunk, progress: as in `scoring.masked_scores`.
    trace: keep, as lists from the deepest layer to the shallowest, "S" (B, H, W), "P" and "C" (B, h, w),
        "weights" (B, K), "keep" f_c(M ⊙ X) and "remove" f_c((1 − M) ⊙ X) (B, K; empty lists where the
        variant does not ask), "skipped" (B, K) and "activations" (B, K, h, w).

    `map` is S_1 as it is: its largest value may be below 1, because pixels above the 99.9th percentile are
    clipped before the map is enlarged. `raw` is P_1. Where P is zero from some depth on, as it easily is for
    PCAM− and a class that is not the first choice, the map is zero and `flat`.

    A channel that is zero everywhere adds nothing whatever its weight, so no pass is spent on it; one with
    NaN or infinity is left out, too (official code: the sum ignores NaN). Cost: 1 + Σ K forward passes an
    image, 1 + 2 Σ K for "pm", without the dead channels and with equal ones asked once. (The official code
    computes f_c(X) again for every layer.) Memory: about four times the activations of all the layers.

    Raises ValueError or TypeError, in one sentence, for an unknown variant, layers that do not go from
    shallow to deep, and for a layer, target, image or score that does not fit.
    """
    if variant not in VARIANTS:
        raise ValueError(f"The variant is one of {', '.join(VARIANTS)}, not {variant!r}.")
    images = check_images(model, images)
    names = _names(model, images, layers)
    captured = capture(model, images, names)
    resolved = targets_.resolve(targets, captured.output)
    own = resolved.score(captured.output, kind=score).float()
    activations = [at_least_float32(captured.activations[name]) for name in reversed(names)]
    _check_order(names, activations)

    masks = [_masks(maps) for maps in activations]
    asked = [] if variant == "minus" else masks
    # 1 − M before the enlargement, as the official PCAM−: f_c(X) − f_c(…) cancels down to rounding.
    asked = asked if variant == "plus" else [*asked, *(1 - mask for mask in masks)]
    masked = scoring.masked_scores(
        model, images, asked, resolved,
        kind=score, normalise=False, precision=precision, chunk=chunk, progress=progress,
    )    # fmt: skip
    sizes = [maps.shape[1] for maps in asked]
    values, skips = masked.values.split(sizes, 1), masked.skipped.split(sizes, 1)
    keep = values[: len(names)] if variant != "minus" else ()
    remove = values[-len(names) :] if variant != "plus" else ()
    skipped = [a | b for a, b in zip(skips[: len(names)], skips[-len(names) :], strict=True)]

    weights = []
    for depth, skip in enumerate(skipped):
        parts = [scores[depth] if scores else None for scores in (keep, remove)]
        weights.append(channel_weights(own, *parts).masked_fill(skip, 0))
    size = images.shape[-2:]
    cams, steps, maps = refine(weights, activations, size, lnorm=lnorm)
    if not steps[-1].isfinite().all():
        raise ValueError(
            f"The maps of {', '.join(names)} are not finite for {images.dtype}: leave out layers between "
            "which the size changes by more than 2, or convert a network in float16 to float32."
        )

    return Explanation(
        map=maps[-1],
        raw=steps[-1].float(),
        layers=names,
        targets=resolved.indices,
        scores=own,
        forwards=len(images) + (layers == "auto") + masked.forwards,
        config={
            "method": "poly_cam",
            "layers": layers if isinstance(layers, str) else names,
            "targets": "top-1" if targets is None else "given",
            "score": score if isinstance(score, str) else getattr(score, "__name__", repr(score)),
            "variant": variant,
            "lnorm": lnorm,
            "relu": True,
            "upsampling": "bilinear",
            "normalise": f"percentiles {LOW} and {HIGH}",
            "chunk": chunk,
            "precision": precision,
            "dtype": str(masked.dtype).removeprefix("torch."),
        },
        flat=maps[-1].amax((1, 2)) == 0,
        trace={
            "S": maps,
            "P": steps,
            "C": cams,
            "weights": weights,
            "keep": list(keep),
            "remove": list(remove),
            "skipped": skipped,
            "activations": activations,
        }
        if trace
        else {},
    )


def channel_weights(own: Tensor, keep: Tensor | None, remove: Tensor | None) -> Tensor:
    """Weights (B, K) from f_c(X) (B,), f_c(M ⊙ X) and f_c((1 − M) ⊙ X) (B, K), or None where not asked for.

    CIC with keep, CDC with remove; CVC with both is their sum under one ReLU, in which a CDC below zero still
    counts (official code).
    """
    if remove is None:
        return keep
    drop = own[:, None] - remove
    return (drop if keep is None else keep + drop).relu()


def refine(
    weights: list[Tensor], activations: list[Tensor], size: tuple[int, int], *, lnorm: bool = True
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """C, P and S, deepest layer first, from weights (B, K) and activations (B, K, h, w) in that order.

    size: (H, W) of the images, to which S is enlarged.
    """
    cams = [
        weighted_sum(w.to(maps.dtype), maps.nan_to_num(0, 0, 0)).relu()
        for w, maps in zip(weights, activations, strict=True)
    ]
    steps = recursion(cams, lnorm=lnorm)
    return cams, steps, [_resize(robust_normalise(step), size).float() for step in steps]


def recursion(cams: list[Tensor], *, lnorm: bool = True) -> list[Tensor]:
    """P_L … P_1 from C_L … C_1, each (B, h, w) and ≥ 0."""
    steps = cams[:1]
    for cam in cams[1:]:
        above = steps[-1]
        steps.append(lnorm_step(above, cam) if lnorm else _resize(above, cam.shape[-2:]) * cam)
    return steps


def robust_normalise(maps: Tensor) -> Tensor:
    """N: (Z − lo) / max(hi, 1e-12) clipped to [0, 1], of maps (…, h, w), with each one's own percentiles.

    lo and hi are the 0.1th and the 99.9th (official code). The divisor is hi, not hi − lo: the same for maps
    that are zero somewhere, and less than 1 is reached by others.
    """
    low, high = (
        limit.view(*maps.shape[:-2], 1, 1) for limit in robust_range(maps.reshape(-1, *maps.shape[-2:]), LOW, HIGH)
    )
    return ((maps - low) / high.clamp(min=FLOOR)).clamp(0, 1)


def _masks(activations: Tensor) -> Tensor:
    """N(A) (B, K, h, w), NaN for dead channels: the engine skips what has no mask."""
    dead = (activations == 0).flatten(2).all(2)
    return robust_normalise(activations).masked_fill(dead[:, :, None, None], torch.nan)


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _names(model: nn.Module, images: Tensor, layers) -> list[str]:
    """The layers' names, shallow to deep."""
    if isinstance(layers, str) and layers == "auto":
        return models.stage_layers(model, images)
    if isinstance(layers, str) and layers in LAYER_LISTS:
        layers = LAYER_LISTS[layers]
    if isinstance(layers, (str, nn.Module)):
        layers = [layers]
    return [models.layer(model, which)[0] for which in layers]


def _check_order(names: list[str], activations: list[Tensor]) -> None:
    """Refuse layers that grow: activations as they come in the recursion, deepest first."""
    sizes = [tuple(maps.shape[-2:]) for maps in reversed(activations)]
    for i in range(1, len(names)):
        if sizes[i][0] > sizes[i - 1][0] or sizes[i][1] > sizes[i - 1][1] or names[i] in names[:i]:
            raise ValueError(
                f"The layers go from shallow to deep, each once, but {names[i - 1]!r} with "
                f"{'×'.join(map(str, sizes[i - 1]))} cells stands before {names[i]!r} with "
                f"{'×'.join(map(str, sizes[i]))}: give them in the order in which they run."
            )
