"""Degenerate controls: maps that know nothing of the network's reasons, in the shape of a method.

A metric on which one of them comes first does not measure what it is named after, and a table without them
cannot say so. All are called as `f(model, images, targets=None)`, so that what takes a method takes a
control; images and targets are as in `methods.grad_cam`. They need no network, but the Explanation says which
class it is for and how the network scored it: one forward pass an image. All are min-max normalised as the
maps of methods are, but for `constant`.
"""

import zlib
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import models, scoring
from .. import targets as targets_
from ..activations import capture
from ..explanation import Explanation, to_map
from ..models.running import check_images


def fake_cam(model: nn.Module, images: Tensor, targets=None) -> Explanation:
    """Fake-CAM: 1 everywhere but for one corner pixel of 0. The images go through it as good as untouched.

    Poppi et al. 2021 (from memory; which corner is our reading: the first pixel).
    """
    raw = _ones(model, images)
    raw[:, 0, 0] = 0
    return _control("fake_cam", model, images, targets, raw)


def constant(model: nn.Module, images: Tensor, targets=None) -> Explanation:
    """1 everywhere. Most metrics exclude it as flat; its energy is the object's share of the picture."""
    raw = _ones(model, images)
    explanation = _control("constant", model, images, targets, raw)
    return replace(explanation, map=raw.clone(), flat=torch.zeros_like(explanation.flat))


def centred_gaussian(model: nn.Module, images: Tensor, targets=None, *, width: float = 0.25) -> Explanation:
    """A Gaussian in the middle of the picture, where photographers put their objects.

    width: its standard deviation, as a share of each side; a quarter is our choice. The narrower it is, the
        stronger on photographs. ValueError unless it is positive.
    """
    if not 0 < width < float("inf"):
        raise ValueError(f"The width is a positive share of the picture's sides, not {width}.")
    ones = _ones(model, images)
    down, across = (
        (torch.arange(side, device=ones.device) + 0.5) / side - 0.5 for side in ones.shape[1:]
    )    # fmt: skip
    gaussian = torch.exp(-0.5 * (down[:, None] ** 2 + across**2) / width**2)
    return _control("centred_gaussian", model, images, targets, gaussian * ones, width=width)


def random(
    model: nn.Module, images: Tensor, targets=None, *, cells: int = 8, seed: int = 0
) -> Explanation:
    """A map of random cells, brought to the picture's size as a layer's map is.

    cells: in each direction; 8 as in the last layers of the embedded networks, ValueError below 2. seed:
        another one for other maps. Each picture has a map of its own, drawn from the seed and its pixels, so
        that it does not depend on the batch. torch's own generators are not touched.
    """
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 2:
        raise ValueError(f"The cells are a whole number from 2 on, not {cells!r}.")
    check_images(model, images)
    draws = []
    for pixels in images.detach().float().cpu():
        generator = torch.Generator().manual_seed(zlib.crc32(pixels.numpy().tobytes(), seed))
        draws.append(torch.rand(cells, cells, generator=generator))
    raw = torch.stack(draws).to(images.device)
    return _control("random", model, images, targets, raw, cells=cells, seed=seed)


def edges(model: nn.Module, images: Tensor, targets=None) -> Explanation:
    """How steep the picture is: the length of Sobel's two slopes of the mean over the colours."""
    check_images(model, images)
    grey = F.pad(images.detach().float().mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=images.device)
    slopes = F.conv2d(grey, torch.stack([across, across.T])[:, None])    # (B, 2, H, W)
    return _control("edges", model, images, targets, slopes.norm(dim=1))


def mean_activation(model: nn.Module, images: Tensor, targets=None) -> Explanation:
    """The plain mean of the last layer's channels: what the network looks at, whatever the class.

    The layer is `models.last_layer`; finding it takes one more image through the network.
    """
    images = check_images(model, images)
    layer = models.last_layer(model, images)
    captured = capture(model, images, layer)
    raw = captured.activations[layer].float().mean(1)
    explanation = _control(
        "mean_activation", model, images, targets, raw, output=captured.output, layer=layer
    )
    return replace(explanation, layers=[layer], forwards=len(images) + 1)


def exact_mask(model: nn.Module, images: Tensor, targets=None, *, masks: Tensor) -> Explanation:
    """An oracle, where the ground truth is known: 1 on the object, 0 elsewhere.

    masks: (B, H, W) bool, of the images' size; used over again where the images come several times over, as
        `max_sensitivity` asks. `metrics.table` gives it the masks of its scenes. ValueError for other shapes.
    """
    ones = _ones(model, images)
    fits = masks.ndim == 3 and len(masks) > 0 and len(ones) % len(masks) == 0
    if not fits or masks.shape[1:] != ones.shape[1:] or masks.dtype != torch.bool:
        raise ValueError(
            f"The masks must be bool (B, H, W) = {tuple(ones.shape)} like the images, not {masks.dtype} of "
            f"shape {tuple(masks.shape)}."
        )
    raw = ones * masks.to(ones.device).repeat(len(ones) // len(masks), 1, 1)
    return _control("exact_mask", model, images, targets, raw)


# As rows of a table, from the one that knows most.
CONTROLS: dict[str, Callable[..., Explanation]] = {
    control.__name__: control
    for control in (exact_mask, mean_activation, edges, centred_gaussian, random, constant, fake_cam)
}


def _ones(model: nn.Module, images: Tensor) -> Tensor:
    """(B, H, W) float32, on the images' device, after the images were checked."""
    check_images(model, images)
    return torch.ones(len(images), *images.shape[-2:], device=images.device)


def _control(
    name: str,
    model: nn.Module,
    images: Tensor,
    targets,
    raw: Tensor,
    *,
    output: Tensor | None = None,
    **config,
) -> Explanation:
    """The Explanation of raw (B, h, w). output: of the network, where it is known already."""
    output = scoring.outputs(model, images) if output is None else output
    targets = targets_.resolve(targets, output)
    heat, flat = to_map(raw, images.shape[-2:])
    return Explanation(
        map=heat,
        raw=raw,
        layers=[],
        targets=targets.indices,
        scores=targets.score(output).float(),
        forwards=len(images),
        config={"method": name, **config},
        flat=flat,
    )
