"""weighted_sum: S_b = Σ_k w_bk A_bk, the last step of every CAM, for a batch of images.

With `relu` S becomes max(S, 0), with `normalise` then (S - min S)/(max S - min S) for each image.

Bytes that must move: the maps are read once and are all that counts, B·K·h·w values; the weights and the
result are K times and h·w times smaller. A layer of 7 x 7 has few pixels and many channels, so one program a
pixel block would leave most of the GPU idle: the channels are split too, each program writes a partial sum
in float32, and a second kernel adds the parts in a fixed order. The result is the same in every run.
"""

import torch
from torch import Tensor

from ._frame import (
    TRITON,
    arithmetic,
    check_device,
    check_floats,
    check_no_gradient,
    check_shapes,
    operator,
    tl,
    triton,
)

NAME = "weighted_sum"
# Values of A that a program holds at once (16 KB in float32 at 4 warps), and pixels a program at most.
TILE = 4096
PIXELS = 256
# Enough programs for the 132 multiprocessors of an H200, some of them in flight on each at the same time. A
# constant, and not asked of the device, so that the parts and with them the rounding are the same everywhere.
PROGRAMS = 1024


def floor_bytes(weights: Tensor, maps: Tensor) -> int:
    """The least bytes that a call must move: both inputs read once, the float32 result written once."""
    pixels = maps[:, 0].numel()
    return weights.nbytes + maps.nbytes + pixels * arithmetic(weights, maps).itemsize


def reference(weights: Tensor, maps: Tensor, relu: bool, normalise: bool) -> Tensor:
    """In plain torch, on any device: one batched matrix product."""
    dtype = arithmetic(weights, maps)
    total = torch.einsum("bk,bkhw->bhw", weights.to(dtype), maps.to(dtype))
    if relu:
        total = total.relu()
    if normalise:
        low, high = total.amin((1, 2), keepdim=True), total.amax((1, 2), keepdim=True)
        total = (total - low) / torch.where(low == high, 1, high - low)
    return total


def fake(weights: Tensor, maps: Tensor, relu: bool, normalise: bool) -> Tensor:
    """What `reference` returns, without its values."""
    return maps.new_empty((maps.shape[0], *maps.shape[2:]), dtype=arithmetic(weights, maps))


launch = None
if TRITON:

    @triton.jit
    def _partial_sums(
        weights, maps, parts, batch, channels, pixels, channels_a_part,
        map_stride, channel_stride, pixel_stride,
        RELU: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
    ):  # fmt: skip
        """parts (S, B, pixels): program (block, b, s) adds its channels for a block of pixels."""
        b, s = tl.program_id(1), tl.program_id(2)
        p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
        first = s * channels_a_part
        last = tl.minimum(first + channels_a_part, channels)
        base = maps + b.to(tl.int64) * map_stride
        total = tl.zeros((BLOCK_K, BLOCK_P), tl.float32)
        for start in range(first, last, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            weight = tl.load(weights + b * channels + k, mask=k < last, other=0).to(tl.float32)
            value = tl.load(
                base + k[:, None].to(tl.int64) * channel_stride + p[None, :].to(tl.int64) * pixel_stride,
                mask=(k[:, None] < last) & (p[None, :] < pixels),
                other=0,
            )
            total += weight[:, None] * value.to(tl.float32)
        result = tl.sum(total, 0)
        if RELU:
            result = tl.where(result < 0, 0.0, result)    # and not tl.maximum, which drops NaN
        tl.store(parts + (s * batch + b).to(tl.int64) * pixels + p, result, mask=p < pixels)

    @triton.jit
    def _finish(
        parts, out, batch, pixels, count,
        RELU: tl.constexpr, NORMALISE: tl.constexpr, BLOCK_P: tl.constexpr,
    ):  # fmt: skip
        """out (B, pixels): program b adds the `count` parts, then ReLU and min-max."""
        b = tl.program_id(0).to(tl.int64)
        low = tl.full((BLOCK_P,), float("inf"), tl.float32)
        high = tl.full((BLOCK_P,), float("-inf"), tl.float32)
        broken = tl.zeros((BLOCK_P,), tl.float32)
        for start in range(0, pixels, BLOCK_P):
            p = start + tl.arange(0, BLOCK_P)
            inside = p < pixels
            total = tl.zeros((BLOCK_P,), tl.float32)
            for s in range(count):
                total += tl.load(parts + (s * batch + b) * pixels + p, mask=inside, other=0)
            if RELU:
                total = tl.where(total < 0, 0.0, total)
            tl.store(out + b * pixels + p, total, mask=inside)
            low = tl.where(inside & (total < low), total, low)
            high = tl.where(inside & (total > high), total, high)
            broken += tl.where(total != total, total, 0.0)
        if NORMALISE:
            # A NaN is in no minimum above, and must reach every pixel as it does in torch.
            least = tl.min(low, 0) + tl.sum(broken, 0)
            span = tl.max(high, 0) - least
            span = tl.where(span == 0, 1.0, span)
            tl.debug_barrier()    # a pixel may be read by another thread than the one that wrote it
            for start in range(0, pixels, BLOCK_P):
                p = start + tl.arange(0, BLOCK_P)
                total = tl.load(out + b * pixels + p, mask=p < pixels, other=0)
                tl.store(out + b * pixels + p, (total - least) / span, mask=p < pixels)

    def launch(weights: Tensor, maps: Tensor, relu: bool, normalise: bool) -> Tensor:
        """The same by Triton; float32, bfloat16 or float16. Maps that were cut in h or w are copied."""
        batch, channels, height, width = maps.shape
        if maps.stride(2) != width * maps.stride(3):    # rows and columns must be one axis with one stride
            maps = maps.contiguous()
        pixels = height * width
        block_p = min(PIXELS, triton.next_power_of_2(pixels))
        block_k = TILE // block_p
        blocks = triton.cdiv(pixels, block_p)
        count = min(triton.cdiv(PROGRAMS, batch * blocks), triton.cdiv(channels, block_k))
        channels_a_part = triton.cdiv(triton.cdiv(channels, count), block_k) * block_k
        count = triton.cdiv(channels, channels_a_part)
        alone = count == 1 and not normalise    # then the first kernel writes the result itself
        out = maps.new_empty((batch, height, width), dtype=torch.float32)
        parts = out if alone else maps.new_empty((count, batch, pixels), dtype=torch.float32)
        _partial_sums[blocks, batch, count](
            weights.contiguous(), maps, parts, batch, channels, pixels, channels_a_part,
            maps.stride(0), maps.stride(1), maps.stride(3),
            RELU=relu and alone, BLOCK_K=block_k, BLOCK_P=block_p,
        )  # fmt: skip
        if not alone:
            block_p = min(1024, triton.next_power_of_2(pixels))
            _finish[batch,](
                parts, out, batch, pixels, count, RELU=relu, NORMALISE=normalise, BLOCK_P=block_p
            )
        return out


_operator = operator(
    f"{NAME}(Tensor weights, Tensor maps, bool relu, bool normalise) -> Tensor", reference, launch, fake
)


def weighted_sum(weights: Tensor, maps: Tensor, *, relu: bool = False, normalise: bool = False) -> Tensor:
    """Σ_k w_k A_k of each image: (B, h, w), float32 (float64 when an input is).

    weights: (B, K), any float dtype. maps: (B, K, h, w) of any float dtype and memory format; channels-last
        is read where it lies.
    relu: only what speaks for the class, as Grad-CAM does [paper]; off by default, since CAM itself has none.
    normalise: then to [0, 1] by each image's own minimum and maximum; a constant result becomes 0 [our
        reading: papers do not say]. A NaN makes its pixel NaN, and with `normalise` its whole image.

    Raises TypeError for dtypes that are not floating point; ValueError for shapes that do not belong
    together, tensors on several devices, or where a gradient would be lost.
    """
    check_shapes(NAME, weights=(weights, "BK"), maps=(maps, "BKhw"))
    check_floats(NAME, weights=weights, maps=maps)
    check_device(NAME, weights=weights, maps=maps)
    check_no_gradient(NAME, weights=weights, maps=maps)
    return _operator(weights, maps, relu, normalise)
