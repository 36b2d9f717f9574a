"""ROAD: does the network need what the map ranks first, when holes are filled so that they show nothing?

Y. Rong, T. Leemann, V. Borisov, G. Kasneci, E. Kasneci, "A Consistent and Efficient Evaluation Strategy for
Attribution Methods", ICML 2022, arXiv 2202.00449.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import scoring
from .. import targets as targets_
from ..models.running import check_images
from ._imputation import impute
from ._result import NetworkResult, check_maps_of, is_flat

FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, eq=False)
class RoadResult(NetworkResult):
    """values: the mean over the fractions of (lerf - morf) / 2; higher is better (as in grad-cam).

    Excluded are flat maps, and scores that are not finite. "MoRF" removes the most relevant pixels first,
    "LeRF" the least relevant.

    fractions: (S,) float64, shares of the pixels that are removed.
    morf, lerf: (B, S) float64, the score after that; NaN where excluded.
    morf_hits, lerf_hits: (B, S) float64, 1 where the target still has the highest output, else 0; NaN where
        excluded, or where the target is a callable.
    """

    fractions: Tensor
    morf: Tensor
    lerf: Tensor
    morf_hits: Tensor
    lerf_hits: Tensor

    @property
    def morf_accuracy(self) -> Tensor:
        """(S,): the share of images still recognised; the paper's curve where the labels are the targets."""
        return self.morf_hits.nanmean(0)

    @property
    def lerf_accuracy(self) -> Tensor:
        """(S,): the same for the least relevant pixels."""
        return self.lerf_hits.nanmean(0)


def road(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    targets=None,
    *,
    fractions: Sequence[float] = FRACTIONS,
    score: targets_.Kind = "probability",
    noise: float = 0.01,
    seed: int = 0,
    chunk: int | str = "auto",
    progress: bool | None = None,
) -> RoadResult:
    """How the score falls without the most relevant pixels, and how it stays without the least relevant.

    A removed pixel becomes the weighted mean of its eight neighbours, removed ones included, which makes a
    system of linear equations, and gets a little noise (official code). So the hole's outline, from which a
    network could read what was there, is blurred away.

    images: (B, C, H, W), normalised. maps: (B, H, W), of the images' size and any range: only the order of
        the pixels counts. Equal pixels, such as the zeros of a ReLU, are put in a random order. By
        thresholds, as in grad-cam, all of them would go at once: of a map with 90 % zeros, MoRF would leave
        nothing. By their place, one edge of the picture would always go first, whatever the map says.
    targets: as in `targets.resolve`; None is the clean image's top-1 class. The labels make the accuracies
        the paper's.
    fractions: shares of the pixels to remove, each more than 0 and less than 1; grad-cam's by default.
    score: "probability" (softmax over the classes), "logit", or a function of the output.
    noise: standard deviation of the noise on filled pixels, in the units of the normalised images; 0.01
        (official code).
    seed: of the noise and of the order among equal pixels, both the same for every image and fraction, so
        that a value does not depend on the batch; and on every device. torch's own generators are not
        touched.
    chunk, progress: as in `scoring.masked_scores`. 2·S pictures of each image go through the network, and the
        clean image; of a flat map only that.

    Raises ValueError or TypeError, in one sentence, for an option, images, maps or targets that do not fit.
    """
    shares = _check_fractions(fractions)
    if not 0 <= noise < float("inf"):
        raise ValueError(f"The noise is a standard deviation, 0 or more, not {noise}.")
    check_images(model, images)
    maps = check_maps_of(maps, images)
    clean = scoring.outputs(model, images, chunk=chunk)
    targets = targets_.resolve(targets, clean)

    pixels = maps[0].numel()
    generator = torch.Generator().manual_seed(seed)
    ranks = _ranks(maps, torch.randperm(pixels, generator=generator))
    grain = noise * torch.randn(images.shape[1:], generator=generator).to(images.device)
    # One pixel stays, from which the others are filled.
    counts = (shares * pixels).round().long().clamp(max=pixels - 1).to(images.device)

    # Pictures of one fraction lie side by side, whose holes take about as long to fill.
    live = torch.nonzero(~is_flat(maps)).squeeze(1)
    step, least, row = torch.cartesian_prod(
        torch.arange(len(counts), device=images.device), torch.arange(2, device=images.device), live
    ).T
    shape = 2, len(images), len(counts)    # MoRF and LeRF
    scores = torch.full(shape, float("nan"), dtype=torch.float64, device=images.device)
    hits = scores.clone()
    size = scoring.chunk_size(chunk, images)
    with scoring.progress_bar(len(row), progress, "filled images") as bar:
        for start in range(0, len(row), size):
            s, l, b = (each[start : start + size] for each in (step, least, row))
            place = torch.where((l == 1)[:, None, None], pixels - 1 - ranks[b], ranks[b])
            removed = place < counts[s][:, None, None]
            pictures = impute(images[b].detach().float(), removed) + grain * removed[:, None]
            answers = scoring.outputs(model, pictures, chunk=chunk)
            scores[l, b, s] = targets.score(answers, b, score).double()
            if answers.ndim == 2:
                hits[l, b, s] = (answers.argmax(1) == targets.indices[b]).double()
            bar.update(len(b))

    morf, lerf = scores
    excluded = ~scores.isfinite().all(2).all(0)
    hits[:, excluded | (targets.indices < 0)] = float("nan")
    return RoadResult(
        values=(lerf - morf).mean(1) / 2,
        excluded=excluded,
        forwards=len(images) + len(row),
        fractions=shares,
        morf=morf.masked_fill(excluded[:, None], float("nan")),
        lerf=lerf.masked_fill(excluded[:, None], float("nan")),
        morf_hits=hits[0],
        lerf_hits=hits[1],
    )


def _check_fractions(fractions: Sequence[float]) -> Tensor:
    shares = torch.as_tensor(fractions, dtype=torch.float64).cpu()
    if shares.ndim != 1 or len(shares) == 0 or not ((shares > 0) & (shares < 1)).all():
        raise ValueError(
            f"The fractions are a list of shares of the pixels, each more than 0 and less than 1, not "
            f"{fractions!r}."
        )
    return shares


def _ranks(maps: Tensor, order: Tensor) -> Tensor:
    """Each pixel's place from the most relevant, 0, on; `order` (H·W,) decides between equal ones."""
    order = order.to(maps.device)
    falling = order[maps.flatten(1)[:, order].argsort(dim=1, descending=True, stable=True)]
    place = torch.arange(len(order), device=maps.device).expand_as(falling)
    return torch.empty_like(falling).scatter_(1, falling, place).view_as(maps)
