"""Increment-CAM: Grad-CAM, then Score-CAM on a shrunken picture, then both merged. A reconstruction.

A. Niaz, S. Soomro, H. Zia, K. N. Choi, "Increment-CAM: Incrementally-weighted Class Activation Maps for
Better Visual Explanations", IEEE Access 12, 2024, doi 10.1109/ACCESS.2024.3413859. Only the abstract is
public.
"""

import warnings
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import scoring
from ..explanation import Explanation, minmax
from .look import Look, at_least_float32, look, weighted_sum
from .score_cam import ask_baseline, channel_softmax

FEEDS = ("native", "upsample")
MERGES = ("maps", "weights", "multiplicative", "self_scored")
# The rules from score to weight, and the kind of score that each of them asks for.
SCORES = {"logit_softmax": "logit", "prob": "probability", "cic": "probability"}
# The regularisers, and the number that each of them has: σ and τ.
STRENGTHS = {"minmax": None, "gaussian": 1.0, "shrink": 0.1}
LAM = 0.5

# From here on the weights of Phase 2 are so even that its map is the channels' mean, whatever the class.
EVEN = 0.98


@dataclass(frozen=True, eq=False, repr=False)
class IncrementExplanation(Explanation):
    """What Increment-CAM returns: whether the network still saw something on the small pictures, too.

    entropy: (B,) float32 in [0, 1], of the channels' weights in Phase 2, as a share of the most there can be.
        At 1 all weights are equal, and Phase 2 is the mean of the channels, of no class.
    agreement: (B,) float32 in [0, 1], on which share of the masked pictures the network names the same class
        as on the clean image.
    recognised: (B,) bool, whether it does so on the small picture without a mask.

    `blind` and the printed explanation say where Phase 2 had little to tell. That is no warning, because it
    is the rule with the abstract's own size: a larger `phase2_size` is the remedy.
    """

    entropy: Tensor = field(kw_only=True)
    agreement: Tensor = field(kw_only=True)
    recognised: Tensor = field(kw_only=True)

    @property
    def blind(self) -> Tensor:
        """(B,) bool: the small picture is taken for another class, or the weights are even (over 98 %).

        Either may miss what the other sees: a network can be sure of a wrong class, with uneven weights.
        """
        return ~self.recognised | (self.entropy > EVEN)

    def __repr__(self) -> str:
        text = super().__repr__()
        if not self.blind.any():
            return text
        height, width = self.config["phase2_used"]
        which = torch.nonzero(self.blind)[:, 0].tolist()
        return f"{text[:-1]}, phase 2 blind at {height}x{width}: {which})"


def increment_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    phase2_size: str | int = "activation",
    phase2_feed: str = "native",
    score: str = "logit_softmax",
    merge: str = "maps",
    lam: float = LAM,
    regularise: str = "minmax",
    strength: float | None = None,
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
    trace: bool = False,
) -> IncrementExplanation:
    """Increment-CAM: Grad-CAM's map G merged with the map S of a Score-CAM on a small picture.

    Phase 1: G = ReLU(Σ_k α_k A_k), α_k the mean gradient of the logit. Phase 2: S = ReLU(Σ_k β_k A_k), β from
    the scores z_k of the small picture under the mask of each channel. Phase 3: the two are merged, and the
    sum is regularised. That much says the abstract, and that the picture is shrunk to the size of the
    activations. Everything else here is our reading, with these defaults; N is the min-max, 0 for a constant:

    - phase2_size="activation" (abstract): the picture gets the activations' size, h × w. "input": it keeps
      its own, as in Score-CAM. A number: so many pixels on the shorter side. In our networks half the input's
      leaves phase 2 half blind; three quarters lets it see, for more than half of Score-CAM's price.
      A network that refuses the size gets the smallest it accepts, with a warning that names both.
    - phase2_feed="native": the small picture goes through the network as it is, which is what makes it fast.
      "upsample": masked, and then enlarged to H × W. That saves no time, and no network refuses it.
    - score="logit_softmax": z are logits, and β their softmax over the channels (ancestor: Score-CAM's
      paper). "prob": z are the class's probabilities, and β = z (ancestor: its official code). "cic": of
      these, β = ReLU(z − what the empty picture gets) (ancestor: its Definition 4).
    - merge="maps": L = λ N(G) + (1 − λ) N(S), the abstract's "heatmap merging". "weights": L = Σ_k (α_k/‖α‖₁
      + β_k) A_k, the title's "incrementally-weighted"; only here may negative evidence of Phase 1 cancel
      positive of Phase 2. "multiplicative": L = Σ_k α_k (1 + N(z)_k) A_k. "self_scored": L = b_G N(G) + b_S
      N(S), b the class's probability under that map as it would be shown minus that of the empty picture,
      both of full size, as in UnionCAM and Fusion-CAM (follow-up code).
    - regularise="minmax": no more than the ReLU and the min-max that every map gets. "gaussian": smoothed
      with deviation σ, in cells of the activations; at the border over the cells that there are. "shrink":
      less the quantile τ of its own cells, before the ReLU.

    model, images, targets, layers: as in `grad_cam`.
    lam: λ in [0, 1], for merge="maps" alone. λ = 1 is `grad_cam`; λ = 0 with phase2_size="input" `score_cam`.
    strength: the regulariser's number; None is σ = 1 or τ = 0.1.
    precision, chunk, progress: as in `scoring.masked_scores`.
    trace: keep "alpha", "beta", "masked_scores" (z) and "skipped", (B, K); "activations" and "gradients"
        (B, K, h, w); "small_images" (B, C, …); "phase1" N(G), "phase2" N(S) and "merged" L, (B, h, w).

    A constant channel has no mask: its β is 0, and it takes no part in the softmax and in N(z). `raw` is what
    the regulariser returned; without one it is L before its ReLU. config["phase2_used"] is the size really
    used. Cost: one pass forwards and backwards, and about K + 1 passes forwards of the small size.

    Raises ValueError or TypeError, in one sentence, for what does not fit.
    """
    check_merge(merge, lam, regularise, strength)
    both = two_phases(
        model, images, targets, layers, phase2_size=phase2_size, phase2_feed=phase2_feed, score=score,
        precision=precision, chunk=chunk, progress=progress,
    )    # fmt: skip
    return merge_phases(model, both, merge, lam, regularise, strength, trace)


@dataclass(frozen=True)
class Phases:
    """Phases 1 and 2, before they are merged.

    alpha, beta: (B, K). phase1, phase2: N(G) and N(S), (B, h, w). pictures: the small ones, (B, C, …), and
    output: what the network says about them without a mask. masked: what it says about them with one.
    forwards: after Phase 1. config: what was chosen.
    """

    seen: Look
    alpha: Tensor
    phase1: Tensor
    pictures: Tensor
    output: Tensor
    masked: scoring.MaskedScores
    beta: Tensor
    phase2: Tensor
    forwards: int
    config: dict


def two_phases(
    model: nn.Module,
    images: Tensor,
    targets=None,
    layers="auto",
    *,
    phase2_size: str | int = "activation",
    phase2_feed: str = "native",
    score: str = "logit_softmax",
    **asking,
) -> Phases:
    """The part of `increment_cam` that asks the network, with its arguments."""
    _check_choices(phase2_feed=(phase2_feed, FEEDS), score=(score, SCORES))
    seen = look("increment_cam", model, images, targets, layers, gradients=True)
    alpha = seen.gradients.mean((2, 3))    # (B, K)

    size = _size(phase2_size, seen.images, seen.activations)
    network = _Enlarging(model, seen.images.shape[-2:]) if phase2_feed == "upsample" else model
    pictures, output, asked = _shrink(network, seen.images, size, seen.output)
    masked = scoring.masked_scores(
        network, pictures, seen.activations, seen.targets, kind=SCORES[score], **asking
    )
    beta, more = _weights(network, replace(seen, images=pictures), masked, score)
    # A channel that is skipped for being non-finite must not come back as 0 · ∞.
    finite = seen.activations.nan_to_num(0, 0, 0)
    return Phases(
        seen=seen,
        alpha=alpha,
        phase1=minmax(_sum(alpha, seen.activations).relu()),
        pictures=pictures,
        output=output,
        masked=masked,
        beta=beta,
        phase2=minmax(_sum(beta, finite).relu()),
        forwards=asked + masked.forwards + more,
        config={
            "phase2_size": phase2_size,
            "phase2_used": tuple(pictures.shape[-2:]),
            "phase2_feed": phase2_feed,
            "score": score,
            "order": "upsample_normalise",
            **{name: asking[name] for name in ("chunk", "precision") if name in asking},
            "dtype": str(masked.dtype).removeprefix("torch."),
        },
    )


def merge_phases(
    model: nn.Module,
    both: Phases,
    merge: str = "maps",
    lam: float = LAM,
    regularise: str = "minmax",
    strength: float | None = None,
    trace: bool = False,
) -> IncrementExplanation:
    """The rest of `increment_cam`, Phase 3, with its arguments; only "self_scored" asks the network."""
    check_merge(merge, lam, regularise, strength)
    seen, forwards = both.seen, both.forwards
    if merge == "maps":
        merged = lam * both.phase1 + (1 - lam) * both.phase2
    elif merge == "self_scored":
        maps = torch.stack([both.phase1, both.phase2], 1)
        gains, more = _gains(model, seen, maps)
        merged = weighted_sum(gains, maps)
        forwards += more
    elif merge == "weights":
        merged = _sum(_shares(both.alpha) + both.beta, seen.activations)
    else:
        merged = _sum(both.alpha * (1 + _between_channels(both.masked)), seen.activations)

    parts = {
        "alpha": both.alpha,
        "beta": both.beta,
        "masked_scores": both.masked.values,
        "skipped": both.masked.skipped,
        "activations": seen.activations,
        "gradients": seen.gradients,
        "small_images": both.pictures,
        "phase1": both.phase1,
        "phase2": both.phase2,
        "merged": merged,
    }
    e = seen.explain(
        _regularised(merged, regularise, strength),
        forwards,
        parts if trace else None,
        **both.config,
        merge=merge,
        lam=lam if merge == "maps" else None,
        regularise=regularise,
        strength=STRENGTHS[regularise] if strength is None else strength,
    )
    clean, live = scoring.top_class(seen.output), ~both.masked.skipped
    same = both.masked.classes == clean[:, None]
    return IncrementExplanation(
        **vars(e),
        entropy=_entropy(both.beta, ~live),
        agreement=same.sum(1) / live.sum(1).clamp(min=1),
        recognised=scoring.top_class(both.output) == clean,
    )


# Phase 2: the small picture


class _Enlarging(nn.Module):
    """The network behind a bilinear enlargement to the size (H, W)."""

    def __init__(self, model: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.model, self.size = model, size

    def forward(self, images: Tensor) -> Tensor:
        return self.model(F.interpolate(images, self.size, mode="bilinear", align_corners=False))


def _size(asked: str | int, images: Tensor, activations: Tensor) -> tuple[int, int]:
    """What `phase2_size` means for these images."""
    if asked == "activation":
        return tuple(activations.shape[-2:])
    full = tuple(images.shape[-2:])
    if asked == "input":
        return full
    if isinstance(asked, int) and not isinstance(asked, bool) and 1 <= asked <= min(full):
        return _with_shorter_side(asked, full)
    raise ValueError(
        f'The phase2_size is "activation", "input" or a number of pixels from 1 to {min(full)}, the shorter '
        f"side of the images, not {asked!r}."
    )


def _with_shorter_side(pixels: int, full: tuple[int, int]) -> tuple[int, int]:
    """The size of the same proportions."""
    return tuple(round(pixels * side / min(full)) for side in full)


def _shrink(
    network: nn.Module, images: Tensor, size: tuple[int, int], clean: Tensor
) -> tuple[Tensor, Tensor, int]:
    """The images at this size, or the next larger one that the network accepts; its answer; images asked.

    clean: its answer to the images themselves. The search halves the interval, so it takes for granted that
    what accepts a size accepts larger ones.
    """
    full = tuple(images.shape[-2:])
    asked = 0

    def attempt(size: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        nonlocal asked
        if size == full:
            return images, clean
        asked += len(images)
        small = _resized(images, size)
        return small, _answer(network, small)

    found = attempt(size)
    if found[1] is not None:
        return *found, asked
    refused, accepted, found = min(size), min(full), (images, clean)
    while accepted - refused > 1:
        middle = (refused + accepted) // 2
        tried = attempt(_with_shorter_side(middle, full))
        if tried[1] is None:
            refused = middle
        else:
            accepted, found = middle, tried
    height, width = found[0].shape[-2:]
    warnings.warn(
        f"The network refuses images of {size[0]}×{size[1]} pixels, the size asked for in phase 2 of "
        f"Increment-CAM: {height}×{width} is used, the smallest that it accepts.",
        stacklevel=4,
    )
    return *found, asked


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """With antialiasing, which torch has for float32 and float64 only."""
    precise = at_least_float32(images)
    return F.interpolate(precise, size, mode="bilinear", align_corners=False, antialias=True).to(images.dtype)


def _answer(network: nn.Module, images: Tensor) -> Tensor | None:
    """What the network says, or None where it refuses this size: by an error, or by NaN or infinity."""
    try:
        output = scoring.outputs(network, images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError):
        return None
    return output if output.isfinite().all() else None


def _weights(
    network: nn.Module, small: Look, masked: scoring.MaskedScores, score: str
) -> tuple[Tensor, int]:
    """β (B, K) from the masked scores, and how many more images that took. small: with the small pictures."""
    if score == "logit_softmax":
        return channel_softmax(masked.values, masked.skipped), 0
    if score == "prob":
        return masked.values, 0
    empty, forwards = ask_baseline(network, small, None, SCORES[score])
    return (masked.values - empty[:, None]).relu().masked_fill(masked.skipped, 0), forwards


# Phase 3: merging and regularising


def _sum(weights: Tensor, activations: Tensor) -> Tensor:
    return weighted_sum(weights.to(activations.dtype), activations).float()


def _shares(weights: Tensor) -> Tensor:
    """w / ‖w‖₁ of each image, (B, K); zeros stay zeros."""
    total = weights.abs().sum(1, keepdim=True)
    return weights / torch.where(total > 0, total, 1)


def _between_channels(masked: scoring.MaskedScores) -> Tensor:
    """N(z): each image's scores, 0 for its lowest channel and 1 for its highest, (B, K); 0 where skipped."""
    low = masked.values.masked_fill(masked.skipped, float("inf")).amin(1, keepdim=True)
    high = masked.values.masked_fill(masked.skipped, float("-inf")).amax(1, keepdim=True)
    span = torch.where(high > low, high - low, 1)
    return ((masked.values - low) / span).masked_fill(masked.skipped, 0)


def _gains(model: nn.Module, seen: Look, maps: Tensor) -> tuple[Tensor, int]:
    """The class's probability under each map, less that of the empty picture, (B, M); and images asked."""
    under = scoring.masked_scores(model, seen.images, maps, seen.targets, kind="probability")
    empty, forwards = ask_baseline(model, seen, None, "probability")
    return (under.values - empty[:, None]).masked_fill(under.skipped, 0), under.forwards + forwards


def _regularised(merged: Tensor, how: str, strength: float | None) -> Tensor:
    if how == "minmax":
        return merged    # ReLU and min-max come anyway
    # Here already, so that a constant is 0 and the smoothing's rounding noise is not stretched into a map.
    merged = minmax(merged.relu())
    number = STRENGTHS[how] if strength is None else strength
    if how == "shrink":
        return merged - merged.flatten(1).quantile(number, dim=1)[:, None, None]
    down, across = (_gaussian(side, number, merged) for side in merged.shape[1:])
    return down @ merged @ across.T


def _gaussian(side: int, sigma: float, like: Tensor) -> Tensor:
    """Smoothing along an axis as a matrix (side, side) whose rows add up to 1: nothing beyond the border."""
    place = torch.arange(side, dtype=like.dtype, device=like.device)
    return torch.softmax(-((place[:, None] - place) ** 2) / (2 * sigma**2), 1)


# The gauges


def _entropy(weights: Tensor, skipped: Tensor) -> Tensor:
    """Entropy of each image's weights ≥ 0 (B, K) as a share of the most, over channels that have a mask.

    1 where no channel was preferred because there is only one, or all weights are 0.
    """
    total, most = weights.sum(1), (~skipped).sum(1).clamp(min=1).log()
    share = torch.special.entr(_shares(weights)).sum(1) / torch.where(most > 0, most, 1)
    return torch.where((total > 0) & (most > 0), share.clamp(max=1), 1)


def check_merge(merge: str, lam: float, regularise: str, strength: float | None) -> None:
    """Refuse what does not exist in Phase 3, before any pass is made."""
    _check_choices(merge=(merge, MERGES), regularise=(regularise, STRENGTHS))
    if not _is_number(lam) or not 0 <= lam <= 1:
        raise ValueError(f"lam is a number from 0 (Phase 2 alone) to 1 (Grad-CAM alone), not {lam!r}.")
    if merge != "maps" and lam != LAM:
        raise ValueError(f'lam weighs the two maps of merge="maps": leave it out with merge="{merge}".')
    if strength is None:
        return
    if regularise == "minmax":
        raise ValueError('The regulariser "minmax" has no number: leave strength out.')
    if regularise == "gaussian" and not (_is_number(strength) and 0 < strength < float("inf")):
        raise ValueError(f"The strength of the Gaussian is its σ in cells, above 0, not {strength!r}.")
    if regularise == "shrink" and not (_is_number(strength) and 0 <= strength < 1):
        raise ValueError(f"The strength of shrinking is a share of the cells in [0, 1), not {strength!r}.")


def _check_choices(**choices: tuple) -> None:
    for name, (value, known) in choices.items():
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"The {name} is one of {', '.join(known)}, not {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
