"""UnionCAM: denoise, union, select. A reconstruction.

H. Hu, R. Wang, H. Lin, H. Yu, "UnionCAM: enhancing CNN interpretability through denoising, weighted fusion,
and selective high-quality class activation mapping", Frontiers in Neurorobotics 18, 2024,
doi 10.3389/fnbot.2024.1490198.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import targets as targets_
from . import candidates as candidates_
from .candidates import SCORE_CAM, CandidatesExplanation, Judge, Region
from .look import look

POOLS = ("pair", "triple", "all")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class UnionExplanation(CandidatesExplanation):
    """winner: (B,) int64, which of the candidates each image's map is; `names` says what that is."""

    winner: Tensor


def union_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    theta: float = 10,
    denoise: str = "gradient",
    region: Region | Sequence[Region] = SCORE_CAM,
    pool: str = "pair",
    guard: bool = True,
    score: targets_.Kind = "probability",
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
    trace: bool = False,
) -> UnionExplanation:
    """UnionCAM: the better, in the network's own eyes, of a region map and its union with a gradient map.

        L_den = N( U( ReLU( Σ_k α_k R_k A_k ) ) )     a gradient map, each channel's least entries cut
        β(L) = f_c(X ⊙ L) − f_c(X ⊙ 0)                how much of the class survives under a map
        L_fus = N( β(L_den) L_den + β(L_reg) L_reg )
        L = L_fus if β(L_fus) > β(L_reg) else L_reg

    The three steps are the abstract's; the formulas are those that the authors of Fusion-CAM programmed for
    their baseline (follow-up code). The paper's own equations were not available to us. The outer ReLU, for
    layers that can be negative, is ours.

    images, targets, layers: as in `grad_cam`; the gradient is that of the logit.
    theta: percentile θ, 0 to 100, below which is noise; 10 in the follow-up code, the paper's is unknown.
    denoise: what is cut. "gradient" (follow-up code): the gradients of each channel below their percentile
        t_k, before ReLU: R_k = ReLU(G_k [G_k ≥ t_k]), α_k = 1 / Σ R_k. The ReLU removes what is negative
        anyway, so this does something only where t_k > 0, and nothing behind global average pooling. "map"
        (our reading; Fusion-CAM's official code): the finished Grad-CAM map below its percentile.
        "positive_gradient" (ours): as "gradient", with the percentile of the positive gradients alone.
    region: L_reg: "score_cam" (follow-up code), which is `score_cam` with its defaults in the passes counted
        here; or any function called like the methods, such as `grad_cam` or a functools.partial; or a list.
    pool: which candidates may win. "pair" (follow-up code): L_reg and L_fus. "triple" (our reading): L_den
        too. Of several region maps these two know the one with the greatest β. "all" (our reading of the
        abstract's "pool of fused CAMs"): every region map, each one's union with L_den, and L_den.
    guard: where neither map has a positive β, L_fus would turn both inside out: the region map is returned
        instead, and a single negative β counts as 0 (ours). False is the follow-up code to the letter: its
        maps to six digits, behind a ReLU.
    score: f_c, the class's probability (follow-up code), "logit" or a callable, as in `Targets.score`.
    precision, chunk, progress: of Score-CAM's passes, as in `scoring.masked_scores`.
    trace: keep "weights" of L_den (α R, (B, K, h, w); or Grad-CAM's (B, K)), "activations" and "gradients"
        (B, K, h, w), "candidates" (B, n, H, W), "increases" (B, n), "winner", and "baseline_scores"
        f_c(X ⊙ 0), (B,).

    The result has the candidates with names and β, whether or not they are in the pool, and the winner.
    `raw` is the winner itself, (B, H, W). A tie goes to the region map. Because β is what is selected on, no
    region map in the pool ever has a smaller drop or a greater increase of confidence: that is a property of
    the selection, and no evidence that the map is better.

    Cost for one image, with a named layer: one pass forwards and backwards, K for Score-CAM, and 4: K + 5.
    A zero map is not asked about, and f_c(X ⊙ 0) only once for a batch.

    Raises ValueError or TypeError, in one sentence, for what does not fit.
    """
    candidates_.check_denoise(denoise, theta)
    regions = candidates_.check_regions(region)
    if pool not in POOLS:
        raise ValueError(f"The pool is one of {', '.join(POOLS)}, not {pool!r}.")
    seen = look("union_cam", model, images, targets, layers, gradients=True)

    denoised, weights = candidates_.denoised_map(seen, denoise, theta)
    maps, forwards = candidates_.region_maps(
        model, seen, list(regions.values()), precision=precision, chunk=chunk, progress=progress
    )
    judge = Judge(model, seen, score, chunk)
    beta = judge.increases(torch.cat([maps, denoised[:, None]], 1))
    beta_regions, beta_denoised = beta[:, :-1], beta[:, -1]

    every = torch.arange(len(denoised), device=denoised.device)
    best = beta_regions.argmax(1)    # (B,), the first where several are equal
    if pool == "all":
        bases, names = range(len(regions)), [f"fused with {name}" for name in regions]
        partners = [(maps[:, m], beta_regions[:, m]) for m in bases]
    else:
        names, partners = ["fused"], [(maps[every, best], beta_regions[every, best])]
    fused = []
    for partner, beta_partner in partners:
        share = torch.stack([beta_denoised, beta_partner], 1)
        fused.append(candidates_.union(denoised, partner, share.clamp(min=0) if guard else share))
    fused = torch.stack(fused, 1)
    beta_fused = judge.increases(fused)
    # Asked again in other company, the same map would win or lose by its rounding.
    for m, (partner, beta_partner) in enumerate(partners):
        for known, beta_known in ((partner, beta_partner), (denoised, beta_denoised)):
            same = (fused[:, m] == known).flatten(1).all(1)
            beta_fused[:, m] = torch.where(same, beta_known, beta_fused[:, m])

    # The region maps come first, because argmax gives a tie to the first.
    names = [*regions, *names, "denoised"]
    candidates = torch.cat([maps, fused, denoised[:, None]], 1)
    increases = torch.cat([beta_regions, beta_fused, beta_denoised[:, None]], 1)
    eligible = increases[:, :-1] if pool == "pair" else increases
    winner = eligible.argmax(1)
    if guard:
        winner = torch.where(beta.amax(1) > 0, winner, best)

    found = {"candidates": candidates, "increases": increases, "winner": winner}
    parts = {
        "weights": weights,
        "activations": seen.activations,
        "gradients": seen.gradients,
        "baseline_scores": judge.nothing,
        **found,
    }
    e = seen.explain(
        candidates[every, winner],
        forwards + judge.forwards,
        parts if trace else None,
        theta=theta,
        denoise=denoise,
        region=list(regions),
        pool=pool,
        guard=guard,
        increase=score if isinstance(score, str) else getattr(score, "__name__", repr(score)),
        baseline="zeros",
        precision=precision,
        chunk=chunk,
    )
    return UnionExplanation(**vars(e), names=names, **found)
