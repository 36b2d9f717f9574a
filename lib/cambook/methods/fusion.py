"""Fusing maps of several scales into one, from the largest scale down to the original.

S_i are the maps, i = 0 the original scale … n the largest; N(M) = M / max M. R_n = S_n, and then downwards

    res     R_i = N( S_i (λ + R_i+1) ), λ = 1           what S_0 does not show, R_0 does not show either
    prod    R_i = N( S_i R_i+1 )                        the plain product of all scales
    pow     R_i = N( S_i R_i+1^β ), β = ½               larger scales count less and less
    ratio   R_i = N( S_i min(R_i+1 / C(R_i+1), c) )     each cell of S_i keeps its share, nearly; c = 4
    lap     R_i = N( ReLU(S_i + μ (R_i+1 − C(R_i+1))) ) the larger scale adds its details only; μ = 1
    avg     R_i = mean of S_i … S_n                     no recursion; for comparison

R_0 is the result. C(R) is R averaged over the cells of the grid of S_i, and brought back to full size.

That maps at smaller scales are refined recursively by those at larger ones is what GIG-CAM's abstract says;
the formulas are our readings of it. "ratio" is Poly-CAM's LNorm turned round, "lap" a step of a Laplacian
pyramid, "avg" what CAMERAS does (ancestors).

"res" is the default because of what can be proved. For the brightest place p of R_0 and p* of S_0,
S_0(p) (λ + R_1(p)) ≥ λ + R_1(p*), and R_1 ≤ 1, so that S_0(p) ≥ λ / (1 + λ): with λ = 1 the fused map peaks
only where the original one has at least half of its maximum.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# The rules, and the number that each of them has: λ, β, c and μ.
STRENGTHS = {"res": 1.0, "prod": None, "pow": 0.5, "ratio": 4.0, "lap": 1.0, "avg": None}
COARSE = ("ratio", "lap")
# Keeps 0 / 0 away in "ratio", whose maps have 1 as their maximum.
EPSILON = 1e-6


def fuse(
    maps: Sequence[Tensor],
    rule: str = "res",
    *,
    strength: float | None = None,
    grids: Sequence[tuple[int, int]] | None = None,
) -> list[Tensor]:
    """R_0 … R_n of the maps S_0 … S_n, each (B, H, W); R_0 is the fused map, in [0, 1].

    maps: one for each scale, the original first and the largest last, all (B, H, W) at the same size and not
        negative. Each is normalised by its maximum; one that is zero stays zero.
    rule: "res" (default), "prod", "pow", "ratio", "lap" or "avg", see above.
    strength: the rule's number, λ, β, c or μ, not negative; None is the value given above. λ → ∞ gives S_0,
        λ = 0 the product.
    grids: (h, w) of each map before it was brought to full size; "ratio" and "lap" need it.

    Raises ValueError, in one sentence, for maps, rules, strengths or grids that do not fit.
    """
    check_rule(rule, strength)
    maps = _check_maps(maps)
    if rule in COARSE and (grids is None or len(grids) != len(maps)):
        raise ValueError(f'The rule "{rule}" needs the grid (h, w) of each of {len(maps)} maps: give grids.')
    number = STRENGTHS[rule] if strength is None else strength
    scales = [normalise(map) for map in maps]
    fused = [scales[-1]]
    for i in range(len(scales) - 2, -1, -1):
        one, larger = scales[i], fused[0]
        if rule == "avg":
            fused.insert(0, torch.stack(scales[i:]).mean(0))
            continue
        if rule == "res":
            new = one * (number + larger)
        elif rule == "prod":
            new = one * larger
        elif rule == "pow":
            new = one * larger**number
        elif rule == "ratio":
            new = one * (larger / (coarse(larger, grids[i]) + EPSILON)).clamp(max=number)
        else:
            new = (one + number * (larger - coarse(larger, grids[i]))).relu()
        fused.insert(0, normalise(new))
    return fused


def normalise(maps: Tensor) -> Tensor:
    """N: each map (B, H, W) divided by its maximum, which is exactly 1 then; a map of zeros stays."""
    largest = maps.amax((1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)


def scale_map(raw: Tensor, size: tuple[int, int]) -> Tensor:
    """S = N(Up(ReLU(raw))) of the signed sums raw (B, h, w): (B, H, W) in [0, 1]."""
    small = normalise(raw.relu())
    large = F.interpolate(small[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    # Interpolation leaves rounding noise on a constant, which a later min-max would take for a map.
    first = small[:, :1, :1]
    constant = (small == first).all(2, keepdim=True).all(1, keepdim=True)
    return normalise(torch.where(constant, first, large))


def coarse(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Each map (B, H, W) averaged over the cells of a grid (h, w), and brought back bilinearly."""
    means = F.adaptive_avg_pool2d(maps[:, None], grid)
    return F.interpolate(means, maps.shape[1:], mode="bilinear", align_corners=False)[:, 0]


def check_rule(rule: str, strength: float | None) -> None:
    """Refuse a rule that does not exist, and a strength that it does not have."""
    if rule not in STRENGTHS:
        raise ValueError(f"The rule of the fusion is one of {', '.join(STRENGTHS)}, not {rule!r}.")
    if strength is None:
        return
    if STRENGTHS[rule] is None:
        raise ValueError(f'The rule "{rule}" has no strength: leave it out.')
    if not (strength >= 0 and math.isfinite(strength)):
        raise ValueError(f"The strength is a number that is not negative, but was {strength!r}.")


def _check_maps(maps: Sequence[Tensor]) -> list[Tensor]:
    maps = list(maps)
    if not maps:
        raise ValueError("There is nothing to fuse: give one map (B, H, W) for each scale.")
    for i, map in enumerate(maps):
        if map.ndim != 3 or map.shape != maps[0].shape:
            raise ValueError(
                f"All maps must be (B, H, W) at the same size, but map 0 has shape {tuple(maps[0].shape)} and "
                f"map {i} {tuple(map.shape)}."
            )
        if not (map.isfinite().all() and (map >= 0).all()):
            raise ValueError(f"Map {i} has negative or non-finite values: fuse what its ReLU leaves.")
    return [map.float() for map in maps]
