"""masked_batch: the pictures that Score-CAM and its successors show to the network, a chunk at a time.

    mask_n = (U(M_n) - low_n) / (high_n - low_n),    picture_n = image·mask_n + baseline·(1 - mask_n)

with U the bilinear enlargement to the image's size. Two facts keep everything but the last step as small as
the maps. U's weights add up to 1, so (U(M) - low)/span = U((M - low)/span): the small map is normalised, not
the large mask. And between four neighbouring values U is linear in y and in x, so that its least and
greatest pixel are among the first and last ones there: to find low and high, U is evaluated at 4 pixels for
each value of M, not at H·W.

Bytes that must move: the pictures are written once, N·C·H·W values. The maps are read once, the images stay
in the cache, and nothing of size N·H·W exists.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._frame import (
    TRITON,
    arithmetic,
    check_device,
    check_floats,
    check_integers,
    check_no_gradient,
    check_rest,
    check_rows,
    check_shapes,
    image_buffer,
    operator,
    packed,
    tl,
    triton,
)

NAME = "masked_batch"
ORDERS = ("upsample_normalise", "normalise_upsample")
VALUES = 1024    # of a map that a program normalises at once
BLOCK = 1024    # pixels a program writes: 8 a thread, so that 16 bytes of bfloat16 leave together
GROUP = 8    # pictures a program writes: their pixels' places in the map are worked out once


def floor_bytes(images: Tensor, maps: Tensor, out: Tensor, baseline: Tensor | None = None) -> int:
    """The least bytes that a call must move: inputs read once, the pictures written once."""
    return images.nbytes + maps.nbytes + out.nbytes + (0 if baseline is None else baseline.nbytes)


def reference(
    out: Tensor,
    images: Tensor,
    maps: Tensor,
    rows: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    order: str,
    align_corners: bool,
    complement: bool,
    baseline: Tensor | None,
) -> None:
    """In plain torch, on any device: U is two small matrix products, and masks exist one at a time.

    Measured on a busy CPU for 16 masks of 224 x 224 from 7 x 7: the products took 1 ms, F.interpolate over
    10; and each further tensor of N masks or pictures cost more than the arithmetic, by the memory it needs.
    """
    dtype = arithmetic(images, maps)
    channels, height, width = images.shape[1:]
    limits = None if low is None else (low.to(dtype), high.to(dtype))
    maps, images = maps.to(dtype), _as_laid_out(packed(images, out).to(dtype), out)
    down = _enlargement(maps.shape[1], height, align_corners, maps)    # (H, h)
    across = _enlargement(maps.shape[2], width, align_corners, maps)    # (W, w)
    if limits is None:
        seen = maps
        if order == "upsample_normalise":
            rows_seen = _ends(maps.shape[1], height, align_corners)
            columns_seen = _ends(maps.shape[2], width, align_corners)
            seen = down[rows_seen] @ maps @ across[columns_seen].T
        low, high = seen.amin((1, 2)), seen.amax((1, 2))
        constant = maps.amin((1, 2)) == maps.amax((1, 2))    # seen through U, no longer exactly
        limits = low, torch.where(constant, low, high)
        clip = None
    else:
        clip = order

    low, span = limits[0] + (maps * 0).sum((1, 2)), limits[1] - limits[0]    # one NaN: all of the mask
    span = torch.where(span > 0, span, torch.inf)
    masks = (maps - low[:, None, None]) / span[:, None, None]
    if clip == "normalise_upsample":
        masks = masks.clamp(0, 1)
    if not out.is_contiguous():    # channels-last: each mask pixel C times, beside each other
        across = across.repeat_interleave(channels, 0)
    if baseline is not None:
        baseline = _as_laid_out(packed(baseline, out).to(dtype), out)
    pictures = _as_laid_out(out, out)
    halfway = masks @ across.T    # (N, h, W), small
    for n, row in enumerate(check_rows(NAME, rows, images)):
        mask = down @ halfway[n]
        if clip == "upsample_normalise":
            mask.clamp_(0, 1)
        if complement:
            mask = 1 - mask
        if baseline is None:
            torch.mul(images[row], mask, out=pictures[n])
        else:
            kept = baseline[row if len(baseline) > 1 else 0]
            pictures[n].copy_(torch.lerp(kept, images[row], mask))


def _as_laid_out(pictures: Tensor, out: Tensor) -> Tensor:
    """A view in the order of memory, in which rows are long: (N, C, H, W), or (N, 1, H, W·C)."""
    return pictures if out.is_contiguous() else pictures.permute(0, 2, 3, 1).flatten(2)[:, None]


def _enlargement(size: int, larger: int, align_corners: bool, like: Tensor) -> Tensor:
    """The weights of linear interpolation as torch has it, a matrix (larger, size)."""
    unit = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(unit[None], larger, mode="linear", align_corners=align_corners)[0].T


def _ends(size: int, larger: int, align_corners: bool) -> list[int]:
    """Of the `larger` places along an axis, the first and the last between any two of `size` neighbours.

    Place y looks at ((2y + 1)·size - larger)/(2·larger), with align_corners at y·(size - 1)/(larger - 1).
    """
    if align_corners:
        starts = [-(-i * (larger - 1) // (size - 1)) if larger > 1 else 1 for i in range(1, size)]
    else:
        starts = [-(-((2 * i + 1) * larger - size) // (2 * size)) for i in range(1, size)]
    edges = [0, *starts, larger]
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return sorted({y for start, end in pairs if start < end for y in (start, end - 1)})


def fake(out, images, maps, rows, low, high, order, align_corners, complement, baseline) -> None:
    """`reference` fills its buffer and returns nothing."""


launch = None
if TRITON:

    @triton.jit
    def _places(y, SIZE: tl.constexpr, LARGER: tl.constexpr, ALIGN: tl.constexpr):
        """Where place y of LARGER looks among SIZE values: the two neighbours, and how far to the second.

        Whole numbers as long as possible, so that the fraction is right to the last bit at any size.
        """
        if ALIGN:
            above = y * (SIZE - 1)
            below: tl.constexpr = LARGER - 1 if LARGER > 1 else 1
        else:
            above = tl.maximum((2 * y + 1) * SIZE - LARGER, 0)
            below: tl.constexpr = 2 * LARGER
        i = tl.minimum(above // below, SIZE - 1)
        t = (above - i * below).to(tl.float32) * (1.0 / below)
        return i, tl.minimum(i + 1, SIZE - 1), t

    @triton.jit
    def _start(i, SIZE: tl.constexpr, LARGER: tl.constexpr, ALIGN: tl.constexpr):
        """The first place of LARGER that looks at or behind value i of SIZE; see `_ends`."""
        if ALIGN:
            if LARGER > 1 and SIZE > 1:
                start = (i * (LARGER - 1) + SIZE - 2) // (SIZE - 1)
            else:
                start = i * LARGER
        else:
            start = ((2 * i + 1) * LARGER + SIZE - 1) // (2 * SIZE)
        return tl.where(i == 0, 0, tl.minimum(start, LARGER))

    @triton.jit
    def _enlarged(values, i0, i1, ty, j0, j1, tx, WIDTH: tl.constexpr):
        """U at places whose neighbours are rows i0, i1 and columns j0, j1 of the map at `values`.

        In a form in which U of a constant is that constant to the last bit, so that its range is 0.
        """
        a = tl.load(values + i0 * WIDTH + j0).to(tl.float32)
        b = tl.load(values + i0 * WIDTH + j1).to(tl.float32)
        c = tl.load(values + i1 * WIDTH + j0).to(tl.float32)
        d = tl.load(values + i1 * WIDTH + j1).to(tl.float32)
        top, bottom = a + (b - a) * tx, c + (d - c) * tx
        return top + (bottom - top) * ty

    @triton.jit
    def _normalised(
        masks, maps, lows, highs,
        h: tl.constexpr, w: tl.constexpr, H: tl.constexpr, W: tl.constexpr, GIVEN: tl.constexpr,
        UPSAMPLE_FIRST: tl.constexpr, ALIGN: tl.constexpr, COMPLEMENT: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """masks (N, h, w) float32: program n finds low and high of map n, and normalises it."""
        n = tl.program_id(0).to(tl.int64)
        values = maps + n * (h * w)
        least = tl.full((BLOCK,), float("inf"), tl.float32)
        most = tl.full((BLOCK,), float("-inf"), tl.float32)
        seen_least, seen_most = least, most
        broken = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, h * w, BLOCK):
            e = start + tl.arange(0, BLOCK)
            inside = e < h * w
            value = tl.load(values + e, mask=inside, other=0).to(tl.float32)
            broken += value * 0
            least = tl.where(inside & (value < least), value, least)
            most = tl.where(inside & (value > most), value, most)
            if UPSAMPLE_FIRST and not GIVEN:
                i, j = e // w, e % w
                y0, y1 = _start(i, h, H, ALIGN), tl.where(i + 1 < h, _start(i + 1, h, H, ALIGN), H) - 1
                x0, x1 = _start(j, w, W, ALIGN), tl.where(j + 1 < w, _start(j + 1, w, W, ALIGN), W) - 1
                inside = inside & (y0 <= y1) & (x0 <= x1)    # where U reduces, some values are not seen
                for corner in tl.static_range(4):
                    y = tl.where(inside, y0 if corner < 2 else y1, 0)
                    x = tl.where(inside, x0 if corner % 2 == 0 else x1, 0)
                    i0, i1, ty = _places(y, h, H, ALIGN)
                    j0, j1, tx = _places(x, w, W, ALIGN)
                    seen = _enlarged(values, i0, i1, ty, j0, j1, tx, w)
                    seen_least = tl.where(inside & (seen < seen_least), seen, seen_least)
                    seen_most = tl.where(inside & (seen > seen_most), seen, seen_most)

        if GIVEN:
            low = tl.load(lows + n).to(tl.float32)
            span = tl.load(highs + n).to(tl.float32) - low
        elif UPSAMPLE_FIRST:
            low = tl.min(seen_least, 0)
            span = tl.max(seen_most, 0) - low
        else:
            low = tl.min(least, 0)
            span = tl.max(most, 0) - low
        low += tl.sum(broken, 0)    # one value that is no number: all of the mask is none
        span = tl.where(span > 0, span, float("inf"))
        for start in range(0, h * w, BLOCK):
            e = start + tl.arange(0, BLOCK)
            value = tl.load(values + e, mask=e < h * w, other=0).to(tl.float32)
            mask = (value - low) / span
            if GIVEN and not UPSAMPLE_FIRST:
                mask = tl.clamp(mask, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
            if COMPLEMENT:
                mask = 1 - mask    # U and clipping after it do not mind
            tl.store(masks + n * (h * w) + e, mask, mask=e < h * w)

    @triton.jit
    def _write(
        out, images, masks, rows, baseline, pictures, baseline_stride,
        C: tl.constexpr, h: tl.constexpr, w: tl.constexpr, H: tl.constexpr, W: tl.constexpr,
        ALIGN: tl.constexpr, CLIP: tl.constexpr, BASELINE: tl.constexpr, CHANNELS_LAST: tl.constexpr,
        GROUP: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        """Program (block, group) writes a block of pixels, in all channels, of each picture of its group."""
        PIXELS: tl.constexpr = H * W
        block = tl.program_id(0) * BLOCK
        place = tl.arange(0, BLOCK)
        p = block + place
        i0, i1, ty = _places(p // W, h, H, ALIGN)    # behind the last pixel it stays at the last row
        j0, j1, tx = _places(p % W, w, W, ALIGN)
        first = tl.program_id(1).to(tl.int64) * GROUP    # n·C·H·W may need 64 bits
        for n in range(first, tl.minimum(first + GROUP, pictures)):
            mask = _enlarged(masks + n * (h * w), i0, i1, ty, j0, j1, tx, w)
            if CLIP:
                mask = tl.clamp(mask, 0.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
            row = tl.load(rows + n).to(tl.int64)
            to = n * (C * PIXELS)
            for c in tl.static_range(C):
                if CHANNELS_LAST:    # a run of BLOCK values in memory covers 1/C of the block's pixels
                    e = block * C + c * BLOCK + place
                    inside = e < C * PIXELS
                    m = tl.gather(mask, (c * BLOCK + place) // C, 0)
                else:
                    e = c * PIXELS + p
                    inside = p < PIXELS
                    m = mask
                value = tl.load(images + row * (C * PIXELS) + e, mask=inside).to(tl.float32) * m
                if BASELINE:
                    rest = tl.load(baseline + row * baseline_stride + e, mask=inside).to(tl.float32)
                    value += rest * (1 - m)
                tl.store(out + to + e, value.to(out.dtype.element_ty), mask=inside)

    def launch(
        out: Tensor,
        images: Tensor,
        maps: Tensor,
        rows: Tensor,
        low: Tensor | None,
        high: Tensor | None,
        order: str,
        align_corners: bool,
        complement: bool,
        baseline: Tensor | None,
    ) -> None:
        """The same by Triton; float32, bfloat16 or float16. Inputs in another layout are copied."""
        count, channels, height, width = out.shape
        sizes = {"h": maps.shape[1], "w": maps.shape[2], "H": height, "W": width, "ALIGN": align_corners}
        given, upsample_first = low is not None, order == "upsample_normalise"
        maps = maps.contiguous()
        masks = maps.new_empty(maps.shape, dtype=torch.float32)
        _normalised[count,](
            masks, maps, low.contiguous() if given else maps, high.contiguous() if given else maps,
            GIVEN=given, UPSAMPLE_FIRST=upsample_first, COMPLEMENT=complement,
            BLOCK=min(VALUES, triton.next_power_of_2(maps[0].numel())), **sizes,
        )  # fmt: skip
        images = packed(images, out)
        baselines = images if baseline is None else packed(baseline, out)
        stride = channels * height * width if len(baselines) > 1 else 0
        _write[triton.cdiv(height * width, BLOCK), triton.cdiv(count, GROUP)](
            out, images, masks, rows.contiguous(), baselines, count, stride, C=channels,
            CLIP=given and upsample_first, BASELINE=baseline is not None,
            CHANNELS_LAST=not out.is_contiguous(), GROUP=GROUP, BLOCK=BLOCK, **sizes,
        )  # fmt: skip


_operator = operator(
    f"{NAME}(Tensor(a!) out, Tensor images, Tensor maps, Tensor rows, Tensor? low, Tensor? high, str order, "
    "bool align_corners, bool complement, Tensor? baseline) -> ()",
    reference,
    launch,
    fake,
)


def masked_batch(
    images: Tensor,
    maps: Tensor,
    rows: Tensor,
    *,
    low: Tensor | None = None,
    high: Tensor | None = None,
    order: str = "upsample_normalise",
    align_corners: bool = False,
    complement: bool = False,
    baseline: Tensor | None = None,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """image · mask + baseline · (1 - mask), one picture for each map: (N, C, H, W).

    images: (B, C, H, W). maps: (N, h, w), of any size, also larger than the image. rows: (N,) int32 or int64,
        which image each map belongs to, 0 … B - 1. A number out of range raises IndexError on the CPU; on
        CUDA it is not noticed, because that would wait for the device.
    low, high: (N,), what of each map becomes 0 and 1; masks are clipped to [0, 1]. Without them they are the
        map's minimum and maximum. Poly-CAM [official code] clips (A - lo)/max(hi, 1e-12) with percentiles lo
        and hi, before upsampling: there pass low=lo, high=max(lo + max(hi, 1e-12), the next number after lo).
    order: "upsample_normalise", the enlarged map is normalised (Score-CAM [paper, official code]), or
        "normalise_upsample" (Poly-CAM [official code], torchcam [follow-up code]).
    align_corners: of the bilinear interpolation, as in F.interpolate; False is torch's default.
    complement: 1 - mask in the place of mask, as PCAM- has it [Poly-CAM, paper].
    baseline: (1, C, H, W) or (B, C, H, W), what is seen where the mask is 0; None is zeros, which is the mean
        colour of normalised images [Score-CAM, paper].
    dtype: of the pictures, None is that of the images. channels_last: their memory format, False is NCHW.
    out: a buffer to fill instead, contiguous in either format; its dtype and format then hold.

    Computed in float32, and in float64 where images or maps are. A map without a range (constant, or high not
    above low) has the mask 0; a map with a NaN or infinity has the mask NaN.

    Raises TypeError for wrong dtypes; ValueError for an unknown order, one of low and high without the other,
    shapes that do not belong together, tensors on several devices, or where a gradient would be lost.
    """
    if order not in ORDERS:
        raise ValueError(f"{NAME}: the order is one of {', '.join(ORDERS)}, not {order!r}.")
    if (low is None) != (high is None):
        raise ValueError(f"{NAME}: low and high belong together: give both, or neither for min and max.")
    floats = {"images": images, "maps": maps, "low": low, "high": high, "baseline": baseline}
    shapes = {"images": (images, "BCHW"), "maps": (maps, "Nhw"), "rows": (rows, "N")}
    if low is not None:
        shapes |= {"low": (low, "N"), "high": (high, "N")}
    sizes = check_shapes(NAME, **shapes)
    if baseline is not None:
        check_rest(NAME, "baseline", baseline, images)
    check_floats(NAME, **floats)
    check_integers(NAME, rows=rows)
    check_device(NAME, rows=rows, **floats)
    check_no_gradient(NAME, **floats)
    out = image_buffer(NAME, out, (sizes["N"], *images.shape[1:]), images, dtype, channels_last)
    _operator(out, images, maps, rows, low, high, order, align_corners, complement, baseline)
    return out
