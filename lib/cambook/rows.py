"""Rows of the tables of evidence that share what is dear."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .explanation import Explanation, minmax, to_map
from .methods.candidates import CandidatesExplanation
from .methods.fusion import STRENGTHS, fuse
from .methods.gig_cam_f import gig_cam_f
from .methods.increment_cam import Phases, merge_phases, two_phases
from .methods.look import weighted_sum
from .methods.poly_cam import channel_weights, poly_cam, refine
from .methods.score_cam import channel_softmax, score_cam
from .methods.union_cam import union_cam
from .metrics.storage import digest

# By network, pictures, steps and scales: GIG-CAM(F), its maps of the scales, and their grids.
_seen: dict[tuple, tuple[Explanation, Tensor, list]] = {}
# By network, pictures and size: the first two phases of Increment-CAM.
_phases: dict[tuple, Phases] = {}
# By network and pictures: PCAM±, with what the network answered.
_kept_and_removed: dict[tuple, Explanation] = {}
# By network and pictures: Score-CAM.
_regions: dict[tuple, Explanation] = {}


def gig_cam_f_by(
    model: nn.Module,
    images: Tensor,
    targets: list[int],
    *,
    fusion: str,
    strength: float | None = None,
    steps: int = 50,
    scales: Sequence[float] = (1, 1.5, 2),
) -> Explanation:
    """`gig_cam_f`, all but the rule of fusion made once for the same pictures.

    Seven paths' cost is spent on the maps of the scales, which all rules have in common. `forwards` are those
    of the whole method; the seconds that a table takes are the whole method's in the first of its rows only.
    """
    key = (model, digest(images, targets), steps, scales)
    if key not in _seen:
        e = gig_cam_f(model, images, targets, steps=steps, scales=scales, trace=True)
        grids = [tuple(part.raw.shape[1:]) for part in e.trace["scales"]]
        _seen[key] = dataclasses.replace(e, trace={}), e.trace["maps"], grids
    e, maps, grids = _seen[key]
    raw = fuse(list(maps), fusion, strength=strength, grids=grids)[0]
    heat, flat = to_map(raw, images.shape[-2:])
    chosen = {"fusion": fusion, "strength": STRENGTHS[fusion] if strength is None else strength}
    return dataclasses.replace(e, map=heat, raw=raw, flat=flat, config=e.config | chosen)


def increment_cam_by(
    model: nn.Module,
    images: Tensor,
    targets: list[int],
    *,
    side: float | None = None,
    channels: float = 1.0,
    **merging,
) -> Explanation:
    """`increment_cam`, the network asked once for all ways of merging the answers.

    side: of the pictures in phase 2, as a share of the images'; None is that of the activations. What the
    network refuses becomes larger, as in the method, without a warning: the table says the size used.
    channels: the share of the channels, those of largest variance, that are asked about, as Faster-ScoreCAM
    does. merging: merge, lam, regularise and strength of the method. `forwards` are those of the whole
    method; the seconds that a table takes are the whole method's in the first of a size's rows only.
    """
    key = (model, digest(images, targets), side)
    if key not in _phases:
        shorter = min(images.shape[-2:])
        size = "activation" if side is None else "input" if side == 1 else round(side * shorter)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The network refuses images of")
            _phases[key] = two_phases(model, images, targets, phase2_size=size, progress=False)
    both = _phases[key]
    return merge_phases(model, both if channels == 1 else _of_few(both, channels), **merging)


def _of_few(both: Phases, share: float) -> Phases:
    """As if phase 2 had asked about this share only of the channels with a mask: of largest variance."""
    live = ~both.masked.skipped
    variance = both.seen.activations.var((2, 3)).masked_fill(~live, -1)
    few = (share * live.sum(1, keepdim=True)).ceil()
    chosen = live & (variance.argsort(1, descending=True).argsort(1) < few)
    masked = dataclasses.replace(
        both.masked, skipped=~chosen, classes=both.masked.classes.masked_fill(~chosen, -1)
    )
    beta = channel_softmax(masked.values, ~chosen)
    return dataclasses.replace(
        both,
        masked=masked,
        beta=beta,
        phase2=minmax(weighted_sum(beta, both.seen.activations).float().relu()),
        forwards=both.forwards - int(live.sum() - chosen.sum()),
    )


def poly_cam_by(
    model: nn.Module, images: Tensor, targets: list[int], *, variant: str = "pm", lnorm: bool = True
) -> Explanation:
    """`poly_cam`, the network asked once for all variants: PCAM± asks what PCAM+ and PCAM− ask.

    `forwards` are those of the variant; the seconds that a table takes are those of PCAM± in the first of its
    rows only.
    """
    key = (model, digest(images, targets))
    if key not in _kept_and_removed:
        _kept_and_removed[key] = poly_cam(model, images, targets, trace=True, progress=False)
    e = _kept_and_removed[key]
    weights = [
        channel_weights(
            e.scores, None if variant == "minus" else keep, None if variant == "plus" else remove
        ).masked_fill(skipped, 0)
        for keep, remove, skipped in zip(*(e.trace[n] for n in ("keep", "remove", "skipped")), strict=True)
    ]
    _, steps, maps = refine(weights, e.trace["activations"], images.shape[-2:], lnorm=lnorm)
    clean = len(images) + 1
    return dataclasses.replace(
        e,
        map=maps[-1],
        raw=steps[-1].float(),
        flat=maps[-1].amax((1, 2)) == 0,
        forwards=e.forwards if variant == "pm" else clean + (e.forwards - clean) // 2,
        config=e.config | {"variant": variant, "lnorm": lnorm},
        trace={},
    )


def union_cam_by(
    model: nn.Module,
    images: Tensor,
    targets: list[int],
    *,
    pick: str = "winner",
    method: Callable[..., CandidatesExplanation] = union_cam,
    **options,
) -> Explanation:
    """`union_cam` or `fusion_cam`, or one of their candidates by name, from the same answers of Score-CAM.

    pick: "winner", the method's own map, or "score_cam", "fused" or "denoised". options: the method's, all but
    the region. `forwards` are those of the whole method, and of Grad-CAM for "denoised", which needs no more;
    the seconds that a table takes are the whole method's in the first of its rows only.
    """
    key = (model, digest(images, targets))
    if key not in _regions:
        _regions[key] = score_cam(model, images, targets, progress=False)
    region = _regions[key]

    def once(model, images, targets, *, layers):
        return region

    e = method(model, images, targets, region=once, **options)
    # Twice in the count: the clean passes, the search for the layer, and a baseline that cancels out.
    forwards = e.forwards - len(images) - 2
    config = e.config | {"region": ["score_cam"]}
    if pick == "winner":
        return dataclasses.replace(e, forwards=forwards, config=config)
    names = ["score_cam", *e.names[1:]]
    heat, flat = to_map(e.candidates[:, names.index(pick)], images.shape[-2:])
    if pick == "denoised":
        forwards = len(images) + 1
    config |= {"pick": pick}
    return dataclasses.replace(e, map=heat, raw=heat, flat=flat, forwards=forwards, config=config)
