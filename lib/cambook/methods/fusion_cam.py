"""Fusion-CAM: UnionCAM's soft successor, which blends where that one selects. A reconstruction.

H. Dekdegue, M. Garouani, J. Mothe, J. Bernigaud, "Fusion-CAM", arXiv 2603.05386, 2026.
"""

import torch
from torch import Tensor, nn

from .. import targets as targets_
from ..explanation import minmax
from . import candidates as candidates_
from .candidates import SCORE_CAM, CandidatesExplanation, Judge, Region
from .look import look


def fusion_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    theta: float = 10,
    denoise: str = "map",
    region: Region = SCORE_CAM,
    guard: bool = True,
    score: targets_.Kind = "probability",
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
    trace: bool = False,
) -> CandidatesExplanation:
    """Fusion-CAM: the fused map and the region map, blended pixel by pixel by how alike they are.

        L_1 = β(L_fus) L_fus,    L_2 = β(L_reg) L_reg,    S = clip(1 − |L_1 − L_2|, 0, 1)
        L = N( S max(L_1, L_2) + (1 − S) (L_1 + L_2) / 2 )

    L_fus, L_reg and β are those of `union_cam`. The formulas are those of the official code, second version
    (the first one normalises one β and not the other); of the paper only the abstract was public to us.

    With m = (L_1 + L_2)/2, d = |L_1 − L_2| and d ≤ 1, what is normalised is m + d(1 − d)/2: the mean, and at
    most 1/8 more where the two differ by one half. The result is not scored again, so that nothing is
    promised about its drop or increase.

    The arguments are those of `union_cam`, with one region method, and denoise="map" as the default (official
    code): Grad-CAM's map, zero below its θ-th percentile. That does nothing where θ % of the map is zero.
    guard: where no β is positive, the region map is returned; else each negative one counts as 0 (ours).
        False is the official code to the letter.
    trace: as in `union_cam`, without a winner, and "similarity" S (B, H, W).

    `raw` is the blend before N, (B, H, W). Cost as `union_cam`.

    Raises ValueError or TypeError, in one sentence, for what does not fit.
    """
    candidates_.check_denoise(denoise, theta)
    regions = candidates_.check_regions(region)
    if len(regions) != 1:
        raise ValueError(f"fusion_cam blends with one region map, but {len(regions)} methods were given.")
    seen = look("fusion_cam", model, images, targets, layers, gradients=True)

    denoised, weights = candidates_.denoised_map(seen, denoise, theta)
    maps, forwards = candidates_.region_maps(
        model, seen, list(regions.values()), precision=precision, chunk=chunk, progress=progress
    )
    region_map = maps[:, 0]
    judge = Judge(model, seen, score, chunk)
    beta = judge.increases(torch.stack([denoised, region_map], 1))    # of L_den and L_reg
    fused = candidates_.union(denoised, region_map, beta.clamp(min=0) if guard else beta)
    beta_fused, beta_region = judge.increases(fused[:, None])[:, 0], beta[:, 1]

    shares = torch.stack([beta_fused, beta_region], 1)
    mixed, similarity = blend(fused, region_map, shares.clamp(min=0) if guard else shares)
    if guard:
        raw = torch.where((beta.amax(1) > 0)[:, None, None], mixed, region_map)
    else:
        raw = minmax(mixed)    # which the ReLU of the map would cut where β is negative

    found = {
        "candidates": torch.stack([region_map, fused, denoised], 1),
        "increases": torch.stack([beta_region, beta_fused, beta[:, 0]], 1),
    }
    parts = {
        "weights": weights,
        "activations": seen.activations,
        "gradients": seen.gradients,
        "baseline_scores": judge.nothing,
        "similarity": similarity,
        **found,
    }
    e = seen.explain(
        raw,
        forwards + judge.forwards,
        parts if trace else None,
        theta=theta,
        denoise=denoise,
        region=list(regions),
        guard=guard,
        increase=score if isinstance(score, str) else getattr(score, "__name__", repr(score)),
        baseline="zeros",
        precision=precision,
        chunk=chunk,
    )
    return CandidatesExplanation(**vars(e), names=[*regions, "fused", "denoised"], **found)


def blend(one: Tensor, two: Tensor, increases: Tensor) -> tuple[Tensor, Tensor]:
    """S max(L_1, L_2) + (1 − S)(L_1 + L_2)/2, and S, for maps (B, H, W) and their β (B, 2)."""
    first, second = (map * beta[:, None, None] for map, beta in zip((one, two), increases.T, strict=True))
    similarity = (1 - (first - second).abs()).clamp(0, 1)
    return similarity * torch.maximum(first, second) + (1 - similarity) * (first + second) / 2, similarity
