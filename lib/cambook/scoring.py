"""The one engine for passes over changed images: every method and metric that asks the network uses it.

A layer's K maps become K masks of the input's size, each mask is multiplied onto its image, and the network
scores the result. All K masked images at once would be 1.2 GB for one picture and a ResNet-50, so
`kernels.masked_batch` writes them a chunk at a time into one buffer, and no hook watches the passes. The
pictures of insertion and deletion take the same way, written by `kernels.perturb_batch`.
"""

import itertools
import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from threading import local

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from . import targets as targets_
from . import threads
from .kernels import masked_batch, perturb_batch
from .models.running import check_images, forward, frozen_eval

ORDERS = ("upsample_normalise", "normalise_upsample")
PRECISIONS = ("exact", "fast")

# How much of the free memory "auto" may plan with; the network's weights and the caller's tensors are in it
# already.
MEMORY_SHARE = 0.25
# Planes of the input's size that one image is assumed to need inside the network: VGG16, the widest of the
# common networks at full resolution, holds 64 in, 64 out and a workspace of about the same size.
PLANES_INSIDE = 256
# A chunk holds no more images of 224² than this; of smaller ones up to twice as many, of larger ones fewer. On
# CPUs 8 to 16 were fastest (ResNet-18: 20 ms an image), and 32 of 112² or 56² (6 and 2.7 ms, with 8 of them 7.5
# and 4.2); for other devices the number is a guess.
LARGEST_CHUNK = {"cpu": 16, "cuda": 256}
# Chunks side by side share that number, down to these, below which a pass does not pay.
LEAST_SIDE_BY_SIDE = 4
# Memory that is assumed to be free where the system does not say.
ASSUMED_FREE = 2 * 1024**3
# Recording a CUDA graph costs a few passes; with fewer full chunks than this it does not pay.
GRAPH_FROM = 8
# A run that takes longer than this shows a progress bar.
SECONDS_WITHOUT_BAR = 5


@dataclass(frozen=True)
class MaskedScores:
    """What the network answered.

    values: (B, K) float32, the score of image b under mask k; 0 where skipped. Masks of several layers stand
        side by side, in the order in which they were given.
    skipped: (B, K) bool, masks that do not exist (a constant channel has no min-max) or gave no finite score.
    classes: (B, K) int64, which class the network takes image b under mask k for; -1 where skipped.
    forwards: how many images went through the network.
    dtype: what the network's convolutions and matrix products were computed in.
    """

    values: Tensor
    skipped: Tensor
    classes: Tensor
    forwards: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Answers:
    """What the network answered about N pictures.

    values: (N,) float32, the score of each picture; NaN or infinite where the network's answer is.
    classes: (N,) int64, which class the network takes each picture for.
    forwards: how many images went through the network.
    dtype: what the network's convolutions and matrix products were computed in.
    """

    values: Tensor
    classes: Tensor
    forwards: int
    dtype: torch.dtype


def outputs(model: nn.Module, images: Tensor, *, chunk: int | str = "auto") -> Tensor:
    """What the network says about plain images (B, C, H, W): (B, classes), without a gradient.

    chunk: images a pass, or "auto" (see `masked_scores`). B images go through the network, in eval mode.
    """
    images = check_images(model, images)
    with frozen_eval(model), torch.inference_mode():
        answers = torch.cat([forward(model, part) for part in images.split(chunk_size(chunk, images))])
    return _ordinary(answers)


def scores(
    model: nn.Module,
    images: Tensor,
    targets=None,
    kind: targets_.Kind = "logit",
    *,
    chunk: int | str = "auto",
) -> Tensor:
    """The score of each plain image (B, C, H, W) for its target: (B,) float32.

    targets: what `targets.resolve` takes, or an already resolved `Targets`. kind: "logit", "probability"
    (softmax over the classes) or a callable, as in `Targets.score`. chunk: as in `masked_scores`.
    """
    answers = outputs(model, images, chunk=chunk)
    return targets_.resolve(targets, answers).score(answers, kind=kind).float()


def masked_scores(
    model: nn.Module,
    images: Tensor,
    maps: Tensor | Sequence[Tensor],
    targets=None,
    *,
    kind: targets_.Kind = "logit",
    order: str = "upsample_normalise",
    align_corners: bool = False,
    normalise: bool = True,
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
) -> MaskedScores:
    """Score every image under every one of its masks.

    images: (B, C, H, W), normalised. A masked image is `image * mask` in that normalised space, so what is
        masked out becomes the mean colour, not black.
    maps: (B, K, h, w), one mask each: brought to (H, W) bilinearly and to [0, 1] by its own minimum and
        maximum, in float32 whatever the network's precision (in half precision a small range would vanish).
        Or several of these, of any sizes: all their masks go through the network in one stream.
    targets: a resolved `Targets`, or what `targets.resolve` takes; the latter costs one clean pass (B
        forwards).
    kind: "logit", "probability" (softmax over the classes) or a callable, as in `Targets.score`.
    order: "upsample_normalise" (Score-CAM's paper and official code) or "normalise_upsample" (torchcam). They
        differ because bilinear interpolation may cut off a map's extremes.
    align_corners: of the interpolation; False is torch's default, True is what the grad-cam package does.
    normalise: False if the maps are masks in [0, 1] already, to be enlarged and nothing else. A constant map
        is then a mask like any other, and the order does not matter.
    precision: "exact" runs the network in its own precision; "fast" runs all but the head under autocast in
        `fast_dtype`, and as "exact" where the device has no half precision. The ranks of the channels stay
        (rank correlation 0.999 or more; less in bfloat16, which only some CPUs are left with).
    chunk: masked images a pass; "auto" takes a quarter of the free memory at most, and halves itself when the
        device runs out of memory. The result does not depend on it, beyond float rounding. On a CPU one chunk
        a thread goes through the network at the same time, if torch may use several (`torch.set_num_threads`).
    progress: True shows a bar on stderr, False none, None one that appears after 5 s (all three need tqdm).

    Channels without a mask (constant, or with NaN or infinity) are skipped exactly: no forward pass, value 0.
    Channels of a layer that are the same in every cell are asked about once. A masked image whose score is not finite
    (an overflow in half precision) is marked skipped as well. With class numbers as targets nothing is read
    back from the device while it runs: only, before, whether the images are finite, which channels have a
    mask and which of them are equal.

    Raises ValueError for an unknown order, precision or chunk, and for maps that do not belong to the images.
    """
    images = check_images(model, images)
    if order not in ORDERS:
        raise ValueError(f"The order is one of {', '.join(ORDERS)}, not {order!r}.")
    _check_precision(precision)
    layers = [maps] if isinstance(maps, Tensor) else list(maps)
    for layer in layers:
        if layer.ndim != 4 or len(layer) != len(images):
            raise ValueError(
                f"The maps must be (B, K, h, w) for the {len(images)} images, but have shape "
                f"{tuple(layer.shape)}."
            )
    forwards = 0
    if isinstance(targets, targets_.Targets):
        targets = targets_.resolve(targets, images)    # checks their number
    else:
        targets = targets_.resolve(targets, outputs(model, images, chunk=chunk))
        forwards = len(images)

    with torch.inference_mode():
        questions = [_questions(layer.to(images.device, torch.float32), normalise) for layer in layers]
        ends = list(itertools.accumulate(len(each.asked) for each in questions))
        rows = torch.cat([each.asked // each.channels for each in questions])

        def write(numbers: Sequence[int], here: Tensor, out: Tensor) -> None:
            begin = 0
            for each, start, end in zip(questions, [0, *ends[:-1]], ends, strict=True):
                stop = bisect_left(numbers, end)    # a chunk may run across layers
                if stop > begin:
                    part = here[begin:stop]
                    limits = {}
                    if not normalise:
                        zeros = torch.zeros(len(part), device=images.device)
                        limits = {"low": zeros, "high": zeros + 1}
                    masked_batch(
                        images, each.maps[each.asked[part - start]], rows[part],
                        order=order, align_corners=align_corners, out=out[begin:stop], **limits,
                    )    # fmt: skip
                begin = stop

        got = _ask(model, images, rows, write, targets, kind, precision, chunk, progress, "masked")
        counts = [len(each.asked) for each in questions]
        parts = got.values.split(counts), got.classes.split(counts)
        values, skipped, classes = (
            torch.cat([tensor.view(len(images), -1) for tensor in tensors], 1)
            for tensors in zip(*map(_Questions.answer, questions, *parts), strict=True)
        )

    return MaskedScores(
        _ordinary(values), _ordinary(skipped), _ordinary(classes), forwards + got.forwards, got.dtype
    )


@dataclass(frozen=True)
class _Questions:
    """Which of a layer's masks the network must be asked about.

    maps: (B·K, h, w); channels: K. live: numbers of the maps that are masks. asked: those of them that differ,
    and asked_by: where each live map finds its answer.
    """

    maps: Tensor
    channels: int
    live: Tensor
    asked: Tensor
    asked_by: Tensor

    def answer(self, scores: Tensor, named: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Value, whether it is skipped, and class, all (B·K,), from the answers to what was asked."""
        values = scores.new_zeros(len(self.maps))
        skipped = torch.ones_like(values, dtype=torch.bool)
        values[self.live] = scores.nan_to_num(0, 0, 0)[self.asked_by]
        skipped[self.live] = ~scores.isfinite()[self.asked_by]
        classes = torch.full_like(skipped, -1, dtype=torch.int64)
        classes[self.live] = named[self.asked_by]
        return values, skipped, classes.masked_fill(skipped, -1)


def _questions(maps: Tensor, normalise: bool) -> _Questions:
    channels, maps = maps.shape[1], maps.flatten(0, 1)
    # Decided before upsampling: an interpolated constant is no longer exactly constant.
    span = maps.amax((1, 2)) - maps.amin((1, 2))
    masks = span.isfinite() & (span > 0) if normalise else span.isfinite()
    live = torch.nonzero(masks).squeeze(1)    # flat, b·K + k; read back once
    return _Questions(maps, channels, live, *_distinct(maps, live, live // channels))


def top_class(output: Tensor) -> Tensor:
    """Which class the network takes each image for: (N, C) → (N,); 0 where it returns one number an image."""
    return output.reshape(len(output), -1).argmax(1)


def perturbed_scores(
    model: nn.Module,
    images: Tensor,
    baselines: Tensor,
    ranks: Tensor,
    counts: Tensor,
    rows: Tensor,
    targets: targets_.Targets,
    *,
    kind: targets_.Kind = "logit",
    precision: str = "exact",
    chunk: int | str = "auto",
    progress: bool | None = None,
) -> Answers:
    """Score pictures in which the pixels of lowest rank come from a baseline: one score for each count.

    images, baselines, ranks, counts, rows: as in `kernels.perturb_batch`; images and baselines are both
        normalised, and exchanged where a curve begins with the baseline and inserts the image.
    targets: resolved, because neither end of a curve need be the image that is explained.
    kind, precision, chunk, progress: as in `masked_scores`.

    Raises ValueError for an unknown precision or chunk, and ValueError, TypeError or IndexError for tensors
    that do not belong together.
    """
    images, baselines = check_images(model, images), check_images(model, baselines)
    _check_precision(precision)
    targets = targets_.resolve(targets, images)    # checks their number
    # As the buffer lies, so that nothing is laid out anew in each chunk.
    images, baselines = (t.contiguous(memory_format=torch.channels_last) for t in (images, baselines))

    def write(numbers: Sequence[int], here: Tensor, out: Tensor) -> None:
        perturb_batch(images, baselines, ranks, counts[here], rows[here], out=out)

    return _ask(model, images, rows, write, targets, kind, precision, chunk, progress, "perturbed")


def _ask(
    model: nn.Module,
    images: Tensor,
    rows: Tensor,
    write: Callable[[Sequence[int], Tensor, Tensor], None],
    targets: targets_.Targets,
    kind: targets_.Kind,
    precision: str,
    chunk: int | str,
    progress: bool | None,
    what: str,
) -> Answers:
    """The score of each of N pictures, written and asked about a chunk at a time.

    rows: (N,), which image each picture is made of. write(numbers, here, out) fills the buffer with the
    pictures of these ascending numbers, 0 … N - 1; `here` are the same on the device. what: is done to the
    pictures, for the progress bar.
    """
    at_once = threads.count(images.device)
    size = chunk_size(chunk, images, at_once)
    forwards = 0

    def ask(numbers: Sequence[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The scores of the pictures of these numbers, and what the network takes them for."""
        nonlocal size, forwards
        here = torch.as_tensor(numbers, dtype=torch.int64, device=images.device)
        answers = torch.empty(len(numbers), device=images.device)
        classes = torch.empty(len(numbers), dtype=torch.int64, device=images.device)
        start = 0

        def answer(own: local, places: range) -> Tensor:
            if not hasattr(own, "network"):
                own.network = _Network(model, images, len(numbers), size)
            part = slice(places.start, places.stop)
            buffer = own.network.buffer(len(places), dtype)
            write(numbers[part], here[part], buffer)
            with nullcontext() if dtype == images.dtype else _HeadInFloat32():
                return own.network(buffer)

        while start < len(numbers):
            chunks = [range(len(numbers))[i : i + size] for i in range(start, len(numbers), size)]
            try:
                for output in threads.side_by_side(answer, chunks, at_once, model):
                    part = slice(start, start + len(output))
                    answers[part] = targets.score(output.float(), rows[here[part]], kind).float()
                    classes[part] = top_class(output)
                    start += len(output)
                    bar.update(len(output))
            except torch.OutOfMemoryError:
                if chunk != "auto" or size == 1:
                    raise
                size = size // 2
        forwards += len(numbers)
        return answers, classes

    dtype = (fast_dtype(images.device) if precision == "fast" else None) or images.dtype
    bar = progress_bar(len(rows), progress, f"{what} images")
    with frozen_eval(model), torch.inference_mode(), bar:
        everything = range(len(rows))
        if dtype == images.dtype:
            answers, classes = ask(everything, dtype)
        else:
            with torch.autocast(images.device.type, dtype):
                answers, classes = ask(everything, dtype)
            overflowed = torch.nonzero(~answers.isfinite()).squeeze(1).tolist()
            answers[overflowed], classes[overflowed] = ask(overflowed, images.dtype)
    return Answers(_ordinary(answers), _ordinary(classes), forwards, dtype)


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"The precision is one of {', '.join(PRECISIONS)}, not {precision!r}.")


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """What "fast" computes in: float16 or bfloat16 where the device has instructions for it, else None.

    float16 where there is a choice. Both are equally fast, and float16 has three more bits: of MobileNetV2's
    channels the rank correlation with the exact scores is 0.999 in float16 and 0.93 in bfloat16. What bfloat16
    has instead is range; a score that overflows in float16 is asked for again in the network's own precision.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu":
        able = getattr(torch.cpu, "get_capabilities", dict)()
        if able.get("avx512_fp16") or able.get("amx_fp16"):
            return torch.float16
        if able.get("avx512_bf16") or able.get("amx_bf16"):
            return torch.bfloat16
    return None


class _HeadInFloat32(TorchFunctionMode):
    """Linear layers on vectors (N, features) stay out of autocast.

    They cost next to nothing, and a score in half precision has three digits: in bfloat16, on tiny_vgg's last
    layer, the rank correlation of the channels' scores with the exact ones is 0.997 with it, 0.9995 without.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear and args[0].ndim == 2:
            with torch.autocast(args[0].device.type, enabled=False):
                return function(args[0].float(), *args[1:], **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _distinct(maps: Tensor, live: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Which of the live maps must be asked about (flat numbers), and where each live map finds its answer."""
    if len(live) == 0:
        return live, live
    # A map is the same question only on the same image.
    keys = torch.cat([rows[:, None].to(maps.dtype), maps[live].flatten(1)], 1)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    place = torch.arange(len(live), device=live.device)
    first = torch.full_like(place, len(live)).scatter_reduce(0, group, place, "amin")    # of each group
    chosen = first[first < len(live)].sort().values
    return live[chosen], torch.searchsorted(chosen, first[group])


class _Network:
    """The network as the engine runs it: from one buffer, and on CUDA, where it pays, as a recorded graph."""

    def __init__(self, model: nn.Module, images: Tensor, count: int, size: int):
        self.model, self.images, self.count, self.size = model, images, count, size
        self.full, self.graph, self.tried = None, None, False

    def buffer(self, count: int, dtype: torch.dtype) -> Tensor:
        """(count, C, H, W) in channels-last memory, which convolutions prefer; the same memory in each call."""
        if self.full is None:
            shape = (min(self.size, self.count), *self.images.shape[1:])
            self.full = torch.empty(
                shape, dtype=dtype, device=self.images.device, memory_format=torch.channels_last
            )
        return self.full[:count]

    def __call__(self, buffer: Tensor) -> Tensor:
        whole = len(buffer) == len(self.full)
        if self.images.is_cuda and whole and not self.tried and self.count >= GRAPH_FROM * len(buffer):
            self.tried = True
            self.graph = _record(self.model, buffer)
        if self.graph is None or not whole:
            return forward(self.model, buffer)
        graph, output = self.graph
        graph.replay()
        return output


def _record(model: nn.Module, buffer: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
    """The network's pass over the buffer as a CUDA graph, or None where it cannot be recorded.

    A pass that reads something back from the device (a data-dependent branch, say) cannot.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):    # libraries choose their algorithms and workspaces in the first passes
        for _ in range(2):
            forward(model, buffer)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            output = forward(model, buffer)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        return None
    return graph, output


def _ordinary(tensor: Tensor) -> Tensor:
    """A copy without the inference-mode mark, so that a caller may differentiate what is computed from it."""
    return tensor.clone()


def chunk_size(chunk: int | str, images: Tensor, at_once: int = 1) -> int:
    """How many of these images are a chunk; `chunk` is a number or "auto". at_once: chunks side by side."""
    if chunk == "auto":
        per_image = (3 * images.shape[1] + PLANES_INSIDE) * images[0, 0].numel() * images.element_size()
        affordable = int(_free_bytes(images.device) * MEMORY_SHARE / per_image / at_once)
        most = LARGEST_CHUNK.get(images.device.type, LARGEST_CHUNK["cpu"])
        largest = min(most * 224**2 // images[0, 0].numel() // at_once, 2 * most)
        return max(1, min(affordable, max(largest, LEAST_SIDE_BY_SIDE)))
    if isinstance(chunk, int) and not isinstance(chunk, bool) and chunk > 0:
        return chunk
    raise ValueError(f'The chunk is a positive number of images, or "auto", not {chunk!r}.')


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        # What torch's allocator has reserved and not given out is free for us, though the driver counts it as
        # used.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        with open("/proc/meminfo") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:    # macOS says only how much there is; a quarter of it is a cautious guess at what is free
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    except (AttributeError, OSError, ValueError):
        return ASSUMED_FREE


class _NoBar:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def update(self, _):
        pass


def progress_bar(total: int, progress: bool | None, what: str):
    """A context whose `update(n)` moves tqdm's bar, or does nothing; `progress` as in `masked_scores`."""
    if progress is False:
        return _NoBar()
    try:
        from tqdm import tqdm
    except ImportError:
        return _NoBar()
    return tqdm(
        total=total,
        desc=what,
        unit=" images",
        mininterval=0.5,
        delay=0 if progress else SECONDS_WITHOUT_BAR,
        leave=bool(progress),
    )
