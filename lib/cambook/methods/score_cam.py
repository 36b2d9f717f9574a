"""Score-CAM: weights from asking the network, without gradients.

H. Wang, Z. Wang, M. Du, F. Yang, Z. Zhang, S. Ding, P. Mardziel, X. Hu, "Score-CAM: Score-Weighted Visual
Explanations for Convolutional Neural Networks", CVPR Workshops 2020, arXiv 1910.01279.
"""

import torch
from torch import Tensor, nn

from .. import scoring
from .. import targets as targets_
from ..explanation import Explanation
from .look import Look, look, weighted_sum

WEIGHTINGS = ("softmax", "probability")


def score_cam(
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    layers="auto",
    score: targets_.Kind | None = None,
    weighting: str = "softmax",
    order: str = "upsample_normalise",
    align_corners: bool = False,
    baseline: Tensor | None = None,
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
    trace: bool = False,
) -> Explanation:
    """Score-CAM: L = ReLU(Σ_k α_k A_k), with α_k from the score of the image seen through mask k.

    The mask is H_k = minmax(upsample(A_k)). There are two published weightings:

    - weighting="softmax" (paper): the channel-wise increase of confidence CIC_k = f_c(X ⊙ H_k) − f_c(X_b),
      then α = softmax over the channels. Because of the softmax the baseline X_b cancels out of the map.
    - weighting="probability" (official code): α_k is the class's probability for X ⊙ H_k itself, without a
      softmax over the channels.

    images: (B, C, H, W), normalised. targets, layers: as in `grad_cam`.
    score: f_c; None is "logit" for the first weighting (as in the packages grad-cam and torchcam) and
        "probability" for the second (as in the official code), which knows no other. With the first a
        callable works as well.
    order, align_corners, precision, chunk, progress: as in `scoring.masked_scores`. The official code
        upsamples, then normalises.
    baseline: X_b, (1 or B, C, H, W) in the model's input space; None is zeros (paper), which is the mean
        colour.
    trace: keep "weights", "masked_scores", "increase" (CIC) and "skipped", all (B, K); "activations" (B, K,
        h, w); and "baseline_scores" (B,). With the second weighting there is no increase and no baseline.

    A constant channel has no mask; it is skipped, gets weight 0 and takes no part in the softmax (official
    code skips it; our reading for the paper's weighting). Cost: about K forward passes an image, all counted
    in `forwards`.

    Raises ValueError or TypeError, in one sentence, for a layer, target, image, score or baseline that does
    not fit.
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"The weighting is one of {', '.join(WEIGHTINGS)}, not {weighting!r}.")
    if score is None:
        score = "logit" if weighting == "softmax" else "probability"
    if weighting == "probability" and score != "probability":
        raise ValueError(
            'The weighting "probability" weights with the class probability: leave score out, or choose '
            'weighting="softmax" for another score.'
        )
    if weighting == "probability" and baseline is not None:
        raise ValueError('The weighting "probability" subtracts no baseline: leave baseline out.')

    seen = look("score_cam", model, images, targets, layers, gradients=False, kind=score)
    if weighting == "softmax":
        baseline_scores, baseline_forwards = ask_baseline(model, seen, baseline, score)
    masked = scoring.masked_scores(
        model, seen.images, seen.activations, seen.targets,
        kind=score, order=order, align_corners=align_corners, precision=precision, chunk=chunk,
        progress=progress,
    )    # fmt: skip
    parts = {"masked_scores": masked.values, "skipped": masked.skipped, "activations": seen.activations}
    forwards = masked.forwards
    if weighting == "softmax":
        increase = (masked.values - baseline_scores[:, None]).masked_fill(masked.skipped, 0)
        weights = channel_softmax(increase, masked.skipped)
        forwards += baseline_forwards
        parts |= {"increase": increase, "baseline_scores": baseline_scores}
    else:
        weights = masked.values
    parts["weights"] = weights

    # A channel that is skipped for being non-finite must not come back as 0 · ∞.
    activations = seen.activations.nan_to_num(0, 0, 0)
    return seen.explain(
        weighted_sum(weights.to(activations.dtype), activations),
        forwards,
        parts if trace else None,
        weighting=weighting,
        order=order,
        align_corners=align_corners,
        baseline="none" if weighting == "probability" else "zeros" if baseline is None else "given",
        chunk=chunk,
        precision=precision,
        dtype=str(masked.dtype).removeprefix("torch."),
    )


def channel_softmax(increase: Tensor, skipped: Tensor) -> Tensor:
    """softmax over the channels that are not skipped: (B, K) → (B, K); 0 where skipped, also if all are."""
    return torch.softmax(increase.masked_fill(skipped, float("-inf")), dim=1).masked_fill(skipped, 0)


def ask_baseline(
    model: nn.Module, seen: Look, baseline: Tensor | None, score: targets_.Kind
) -> tuple[Tensor, int]:
    """f_c(X_b) for each image, (B,), and how many images that took: one if all share a baseline."""
    if baseline is None:
        baseline = torch.zeros_like(seen.images[:1])
    if baseline.shape[1:] != seen.images.shape[1:] or len(baseline) not in (1, len(seen.images)):
        raise ValueError(
            f"The baseline has shape {tuple(baseline.shape)}, but must be one image of the images' size, "
            f"(1, {', '.join(map(str, seen.images.shape[1:]))}), or one for each."
        )
    output = scoring.outputs(model, baseline)
    return seen.targets.score(output.expand(len(seen.images), -1), kind=score).float(), len(baseline)
