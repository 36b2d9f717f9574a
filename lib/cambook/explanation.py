"""What every method returns, and the one way from a layer's weighted sum to a map of the picture's size."""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


# The completeness gap from which on an explanation says that its sums are rough.
GAP_LIMIT = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """One heat map for each image of a batch, and how it came about.

    map: (B, H, W) float32 in [0, 1], at the size of the images. Its largest value is exactly 1, unless
        `flat`.
    raw: (B, h, w) float32, the signed weighted sum at the layer's resolution, before ReLU, upsampling and
        normalising. Its magnitude is what the normalised map no longer tells.
    layers: names of the layers that were looked at; none for methods of the input's pixels.
    targets: (B,) int64, the explained class of each image; -1 where a callable was explained.
    scores: (B,) float32, the explained score of each clean image.
    forwards: how many images went through the network.
    config: every choice made, defaults and the resolved layer included.
    trace: intermediate tensors by name, when asked for with `trace=True`; else empty.
    flat: (B,) bool, True where there is no evidence for the target: the map is then zero everywhere.
    """

    map: Tensor
    raw: Tensor
    layers: list[str]
    targets: Tensor
    scores: Tensor
    forwards: int
    config: dict
    flat: Tensor
    trace: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        batch, height, width = self.map.shape
        flat = f", flat: {torch.nonzero(self.flat)[:, 0].tolist()}" if self.flat.any() else ""
        return (
            f"Explanation({self.config.get('method', '?')} at {', '.join(self.layers) or 'the input'}: "
            f"{batch} maps of {height}x{width}, targets {self.targets.tolist()}{flat}, "
            f"{self.forwards} forwards)"
        )

    def numpy(self) -> np.ndarray:
        """The maps as a float32 array (B, H, W)."""
        return self.map.cpu().numpy()


@dataclass(frozen=True, eq=False, repr=False)
class PathExplanation(Explanation):
    """What the methods that integrate along a path of T steps return: how trustworthy the integral is, too.

    path_scores: (B, T + 1) float32, the explained score at each point, from the baseline to the image.
    variation: (B,) float32, V = Σ |attribution of one step to one feature|, the total variation along the
        path. It is at least the change of the score; what is above that cancelled out and is noise.
    gap: (B,) float32, the completeness gap: how far the attributions' sum is from the change of the score
        between the two ends, as a share of that change. Along any path the exact integral has none.
    backwards: how many images went backwards through the network.

    Where several scales are fused, the first three have an axis for the scales behind B: (B, S, …).
    `incomplete` and the printed explanation say where the gap is over 5 %. That is no warning, because it is
    the rule and not the exception where a path is adaptive: more steps, or a smaller `max_dist`, narrow it.
    """

    path_scores: Tensor = field(kw_only=True)
    variation: Tensor = field(kw_only=True)
    gap: Tensor = field(kw_only=True)
    backwards: int = field(kw_only=True)

    @property
    def incomplete(self) -> Tensor:
        """(B,) bool: the completeness gap is over 5 %, at some scale if there are several."""
        return (self.gap > GAP_LIMIT).reshape(len(self.gap), -1).any(1)

    def __repr__(self) -> str:
        text = super().__repr__()
        if not self.incomplete.any():
            return text
        which = torch.nonzero(self.incomplete)[:, 0].tolist()
        return f"{text[:-1]}, completeness gap up to {self.gap.max():.0%}, over {GAP_LIMIT:.0%}: {which})"


def to_map(raw: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """From a signed weighted sum to a map that can be laid over the picture.

    raw: (B, h, w). size: (H, W) of the images.
    Returns (map, flat): map = minmax(bilinear(ReLU(raw))) as (B, H, W) float32, bilinear with
    align_corners=False; flat (B,) bool says which images have no evidence (nothing positive in raw, or the
    same value everywhere), and their map is zero. The division is by the exact range, without an epsilon: an
    epsilon dims weak maps, and in half precision it vanishes and leaves NaN.
    """
    # Brought to [0, 1] before the interpolation too: an interpolated constant is no longer exactly constant,
    # and its rounding noise would be stretched into a map.
    small = minmax(raw.float().relu())
    large = minmax(F.interpolate(small[:, None], size, mode="bilinear", align_corners=False)[:, 0])
    return large, large.amax((1, 2)) == 0


def minmax(maps: Tensor) -> Tensor:
    """Each map (B, H, W) brought to [0, 1] by its exact range; a flat map becomes zero."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = high - low
    return (maps - low) / torch.where(span > 0, span, 1)
