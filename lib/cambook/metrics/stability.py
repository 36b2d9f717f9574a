"""Does the map stay when the image hardly changes?

C.-K. Yeh, C.-Y. Hsieh, A. S. Suggala, D. I. Inouye, P. Ravikumar, "On the (In)fidelity and Sensitivity of
Explanations", NeurIPS 2019, arXiv 1901.09392.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..explanation import Explanation
from ..models.running import check_images
from ..scoring import chunk_size, progress_bar
from ._again import check_method, explain, same_targets
from ._result import NetworkResult, is_flat

FIELDS = ("map", "raw")


@dataclass(frozen=True, eq=False)
class SensitivityResult(NetworkResult):
    """values: the largest of the draws, 0 or more; lower is better. excluded: flat maps of the clean image.

    draws: (B, samples) float64, one relative change for each draw, NaN where excluded. Their mean over the
    draws is the average sensitivity, and the maximum of the first n is what n samples would have found.
    """

    draws: Tensor


def max_sensitivity(
    method: Callable[..., Explanation],
    model: nn.Module,
    images: Tensor,
    targets=None,
    *,
    radius: float = 0.02,
    samples: int = 50,
    of: str = "map",
    seed: int = 0,
    chunk: int | str = "auto",
    progress: bool | None = None,
) -> SensitivityResult:
    """The largest relative change of the map under small noise: max_δ ‖Φ(X + δ) - Φ(X)‖₂ / ‖Φ(X)‖₂.

    δ is drawn evenly from [-radius, radius] for each value of the image. The division is in the official code
    (the paper, from memory, has none). A maximum over draws is below the true one and grows with their
    number: compare only values of equal `samples` and `radius`. A map that looks at no image has a perfect 0.

    method: called as method(model, images, targets), such as `methods.grad_cam`; options through
        functools.partial. The class stays that of the clean image.
    images: (B, C, H, W), normalised. targets: as the method takes them.
    radius: in the units of the normalised images: 0.02 (captum's default, Poly-CAM's protocol) is about
        0.0045 in pixels of [0, 1]; the official code takes 0.2. samples: 50 (official code); captum and
        Poly-CAM take 10.
    of: Φ is the "map", normalised and upsampled, or "raw", the signed sum at the layer's size before that.
        The min-max hides a change of strength and adds one where a new maximum rescales the rest.
    seed: of the draws, which are the same for every image, so that a value does not depend on the batch; and
        on every device. torch's own generators are not touched.
    chunk: images that the method gets at once, as in `scoring.masked_scores`, but the whole batch at least.
    progress: as there. samples + 1 explanations are made for each image.

    Raises ValueError or TypeError, in one sentence, for options, images or a method that do not fit.
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"The radius is a positive number, in units of the normalised images, not {radius}.")
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"The samples are a positive number of draws, not {samples!r}.")
    if of not in FIELDS:
        raise ValueError(f"The sensitivity is that of one of {', '.join(FIELDS)}, not {of!r}.")
    check_method(method)
    check_images(model, images)
    first = explain(method, model, images, targets)
    reference = _values(first, of)
    batch, forwards = len(images), first.forwards
    at_once = max(1, chunk_size(chunk, images) // batch)
    generator = torch.Generator().manual_seed(seed)
    changes = []
    with progress_bar(samples * batch, progress, "explained images") as bar:
        for start in range(0, samples, at_once):
            count = min(at_once, samples - start)
            # One draw at a time, so that the numbers do not depend on the chunk.
            noise = [torch.rand(images.shape[1:], generator=generator) for _ in range(count)]
            noise = radius * (2 * torch.stack(noise) - 1).to(images.device)
            # A sum in float32 at least: half precision would round most of the noise away.
            noisy = (images.detach() + noise[:, None]).flatten(0, 1)
            again = explain(method, model, noisy, same_targets(targets, first, count))
            changed = _values(again, of).view(count, batch, -1)
            changes.append((changed - reference).norm(dim=2))
            forwards += again.forwards
            bar.update(count * batch)

    excluded = is_flat(reference[:, None])
    draws = (torch.cat(changes) / reference.norm(dim=1)).T.masked_fill(excluded[:, None], float("nan"))
    return SensitivityResult(values=draws.amax(1), excluded=excluded, forwards=forwards, draws=draws)


def _values(explanation: Explanation, of: str) -> Tensor:
    """(B, pixels) float64: squares of tiny raw maps vanish in float32."""
    return getattr(explanation, of).detach().double().flatten(1)
