"""The kernels: against the same thing in plain torch calls, and against copying as many bytes.

On a CPU a kernel is its plain-torch reference. On CUDA the reference is a contender of its own.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cambook.kernels import (
    lnorm_step,
    masked_batch,
    path_step,
    perturb_batch,
    robust_range,
    weighted_sum,
)
from cambook.kernels.lnorm_step import floor_bytes as lnorm_step_bytes
from cambook.kernels.lnorm_step import reference as lnorm_step_reference
from cambook.kernels.masked_batch import floor_bytes as masked_batch_bytes
from cambook.kernels.path_step import floor_bytes as path_step_bytes
from cambook.kernels.path_step import reference as path_step_reference
from cambook.kernels.perturb_batch import floor_bytes as perturb_batch_bytes
from cambook.kernels.robust_range import floor_bytes as robust_range_bytes
from cambook.kernels.weighted_sum import floor_bytes as weighted_sum_bytes

from harness import Contender, Row

SIDE = 224
# Pictures of a chunk, maps of a batch: what methods use on a CPU, and what keeps a GPU busy.
PICTURES, MAPS, STEPS = {"cpu": 16, "cuda": 256}, {"cpu": 64, "cuda": 1024}, {"cpu": 4, "cuda": 64}


def random(*shape: int, device: str, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def row(name: str, title: str, call: Callable, plain: Callable | None, least: int, device: str) -> Row:
    """One kernel's row; `plain` is None where no one would write anything but the reference."""
    others = [] if plain is None else [Contender("plain torch", lambda: (plain, None))]
    goal = "≥ 80 % of the copy bandwidth" if device == "cuda" and name in AT_COPY_SPEED else "faster"
    return Row(
        name, title, [Contender(f"cambook.kernels.{name}", lambda: (call, None))], others,
        "theirs / ours", goal, bytes=least,
    )    # fmt: skip


AT_COPY_SPEED = ("masked_batch", "weighted_sum", "perturb_batch", "lnorm_step")


def masked(device: str) -> Row:
    count = PICTURES[device]
    image, maps = random(1, 3, SIDE, SIDE, device=device), random(count, 7, 7, device=device, seed=1)
    rows = torch.zeros(count, dtype=torch.int64, device=device)
    out = masked_batch(image, maps, rows, channels_last=True)

    def plain():
        masks = F.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        return (image[rows] * ((masks - low) / (high - low))).contiguous(memory_format=torch.channels_last)

    return row(
        "masked_batch", f"masked_batch, {count} pictures of {SIDE}² from maps of 7²",
        partial(masked_batch, image, maps, rows, out=out), plain,
        masked_batch_bytes(image, maps, out), device,
    )    # fmt: skip


def weighted(device: str) -> Row:
    batch, channels = PICTURES[device] // 4, 512
    weights = random(batch, channels, device=device)
    maps = random(batch, channels, 28, 28, device=device, seed=1)

    def plain():
        summed = torch.einsum("bk,bkhw->bhw", weights, maps).relu()
        low, high = summed.amin((1, 2), keepdim=True), summed.amax((1, 2), keepdim=True)
        return (summed - low) / (high - low)

    return row(
        "weighted_sum", f"weighted_sum, {batch} × {channels} maps of 28²",
        partial(weighted_sum, weights, maps, relu=True, normalise=True), plain,
        weighted_sum_bytes(weights, maps), device,
    )    # fmt: skip


def ranged(device: str) -> Row:
    maps = random(MAPS[device], 56, 56, device=device)
    shares = torch.tensor([0.001, 0.999], device=device)
    return row(
        "robust_range", f"robust_range, {len(maps)} maps of 56²",
        partial(robust_range, maps), lambda: torch.quantile(maps.flatten(1), shares, dim=1),
        robust_range_bytes(maps), device,
    )    # fmt: skip


def lnorm(device: str) -> Row:
    small = random(MAPS[device], 56, 56, device=device)
    large = random(MAPS[device], 112, 112, device=device, seed=1)
    return row(
        "lnorm_step", f"lnorm_step, {len(large)} maps from 56² to 112²",
        partial(lnorm_step, small, large),
        partial(lnorm_step_reference, small, large) if device == "cuda" else None,
        lnorm_step_bytes(small, large), device,
    )    # fmt: skip


def path(device: str) -> Row:
    shape = STEPS[device], 3, SIDE, SIDE
    x, gradient = random(*shape, device=device), random(*shape, device=device, seed=1) - 0.5
    start = torch.zeros_like(x)
    options = {"step": 10, "steps": 50, "fraction": 0.25, "max_dist": 0.02}
    plain = partial(path_step_reference, start, start, gradient, x, start, *options.values())
    return row(
        "path_step", f"path_step, {len(x)} pictures of {SIDE}², step 10 of 50",
        partial(path_step, start, start, gradient, x, start, **options), plain if device == "cuda" else None,
        path_step_bytes(start, gradient), device,
    )    # fmt: skip


def perturbed(device: str) -> Row:
    count = PICTURES[device]
    image, baseline = random(1, 3, SIDE, SIDE, device=device), torch.zeros(1, 3, SIDE, SIDE, device=device)
    ranks = random(SIDE * SIDE, device=device).argsort().view(1, SIDE, SIDE)
    counts = torch.arange(count, device=device) * SIDE
    rows = torch.zeros(count, dtype=torch.int64, device=device)
    out = perturb_batch(image, baseline, ranks, counts, rows, channels_last=True)

    def plain():
        removed = (ranks[rows] < counts[:, None, None])[:, None]
        return torch.where(removed, baseline, image).contiguous(memory_format=torch.channels_last)

    return row(
        "perturb_batch", f"perturb_batch, {count} pictures of {SIDE}²",
        partial(perturb_batch, image, baseline, ranks, counts, rows, out=out), plain,
        perturb_batch_bytes(image, baseline, ranks, out), device,
    )    # fmt: skip


ROWS = {
    "masked_batch": masked, "weighted_sum": weighted, "robust_range": ranged, "lnorm_step": lnorm,
    "path_step": path, "perturb_batch": perturbed,
}    # fmt: skip
