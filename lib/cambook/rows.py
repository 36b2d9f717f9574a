"""Rows of the tables of evidence that share what is dear."""

import dataclasses
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from .explanation import Explanation, to_map
from .methods.candidates import CandidatesExplanation
from .methods.fusion import STRENGTHS, fuse
from .methods.gig_cam_f import gig_cam_f
from .methods.score_cam import score_cam
from .methods.union_cam import union_cam
from .metrics.storage import digest

# By network, pictures, steps and scales: GIG-CAM(F), its maps of the scales, and their grids.
_seen: dict[tuple, tuple[Explanation, Tensor, list]] = {}
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
    # The method has its own clean pass, and needs no baseline for Score-CAM: these are counted twice.
    forwards = e.forwards - len(images) - 1
    config = e.config | {"region": ["score_cam"]}
    if pick == "winner":
        return dataclasses.replace(e, forwards=forwards, config=config)
    names = ["score_cam", *e.names[1:]]
    heat, flat = to_map(e.candidates[:, names.index(pick)], images.shape[-2:])
    if pick == "denoised":
        forwards = len(images) + 1
    config |= {"pick": pick}
    return dataclasses.replace(e, map=heat, raw=heat, flat=flat, forwards=forwards, config=config)
