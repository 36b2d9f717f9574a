"""perturb_batch: the pictures of an insertion or deletion curve, a chunk of its steps at a time.

Pixel (y, x) of picture n is the baseline's where rank[rows_n, y, x] < count_n, else the image's. Deletion
ranks the most important pixel 0; insertion is the same with image and baseline exchanged.

Bytes that must move: the pictures are written once, N·C·H·W values. Images, baselines and ranks are of B
images only, are read once from memory, and for every further step of the curve from the cache.
"""

import torch
from torch import Tensor

from ._frame import (
    TRITON,
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

NAME = "perturb_batch"
BLOCK = 1024    # values a program writes at once: 8 a thread, so that 16 bytes of bfloat16 leave together
GROUP = 8    # pictures a program writes one after another, from image values that stay in its L1 cache


def floor_bytes(images: Tensor, baselines: Tensor, ranks: Tensor, out: Tensor) -> int:
    """The least bytes that a call must move: inputs read once, the pictures written once."""
    return images.nbytes + baselines.nbytes + ranks.nbytes + out.nbytes


def reference(
    out: Tensor, images: Tensor, baselines: Tensor, ranks: Tensor, counts: Tensor, rows: Tensor
) -> None:
    """In plain torch, on any device: a picture at a time, so that nothing but `out` is large.

    A picture with its batch axis: torch copies (1, C, H, W) into another layout much faster than (C, H, W).
    """
    for n, row in enumerate(check_rows(NAME, rows, images)):
        other = row if len(baselines) > 1 else 0
        removed = ranks[row] < counts[n]
        out[n : n + 1].copy_(torch.where(removed, baselines[other : other + 1], images[row : row + 1]))


def fake(out, images, baselines, ranks, counts, rows) -> None:
    """`reference` fills its buffer and returns nothing."""


launch = None
if TRITON:

    @triton.jit
    def _write(
        out, images, baselines, ranks, counts, rows, pictures, baseline_stride,
        C: tl.constexpr, PIXELS: tl.constexpr, CHANNELS_LAST: tl.constexpr, GROUP: tl.constexpr,
        BLOCK: tl.constexpr,
    ):  # fmt: skip
        """Program (block, group) writes one block of the C·H·W values of each picture of its group."""
        e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)    # in memory order, whichever that is
        inside = e < C * PIXELS
        pixel = e // C if CHANNELS_LAST else e % PIXELS
        first = tl.program_id(1).to(tl.int64) * GROUP    # n·C·H·W may need 64 bits
        for n in range(first, tl.minimum(first + GROUP, pictures)):
            row = tl.load(rows + n).to(tl.int64)
            image = tl.load(images + row * (C * PIXELS) + e, mask=inside)
            baseline = tl.load(baselines + row * baseline_stride + e, mask=inside)
            rank = tl.load(ranks + row * PIXELS + pixel, mask=inside)
            value = tl.where(rank < tl.load(counts + n), baseline.to(tl.float32), image.to(tl.float32))
            tl.store(out + n * (C * PIXELS) + e, value.to(out.dtype.element_ty), mask=inside)

    def launch(
        out: Tensor, images: Tensor, baselines: Tensor, ranks: Tensor, counts: Tensor, rows: Tensor
    ) -> None:
        """The same by Triton; float32, bfloat16 or float16. Inputs in another layout are copied."""
        pictures, channels, height, width = out.shape
        pixels = height * width
        _write[triton.cdiv(channels * pixels, BLOCK), triton.cdiv(pictures, GROUP)](
            out, packed(images, out), packed(baselines, out), ranks.contiguous(), counts.contiguous(),
            rows.contiguous(), pictures, channels * pixels if len(baselines) > 1 else 0,
            C=channels, PIXELS=pixels, CHANNELS_LAST=not out.is_contiguous(), GROUP=GROUP, BLOCK=BLOCK,
        )  # fmt: skip


_operator = operator(
    f"{NAME}(Tensor(a!) out, Tensor images, Tensor baselines, Tensor ranks, Tensor counts, Tensor rows)"
    " -> ()",
    reference,
    launch,
    fake,
)


def perturb_batch(
    images: Tensor,
    baselines: Tensor,
    ranks: Tensor,
    counts: Tensor,
    rows: Tensor,
    *,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Pictures in which the `count` pixels of lowest rank come from the baseline: (N, C, H, W).

    images: (B, C, H, W). baselines: (B, C, H, W), or (1, C, H, W) for all: what a removed pixel becomes (a
        blurred image, the mean colour, …); papers differ, so there is no default.
    ranks: (B, H, W) int32 or int64, each pixel's place 0 … H·W - 1 in the order of perturbation. Pixels are
        ranked, not channel elements, as RISE's official code does.
    counts: (N,) int32 or int64, how many pixels each picture has lost: 0 is the image, H·W the baseline.
    rows: (N,) int32 or int64, which image each picture is made of, 0 … B - 1. A number out of range raises
        IndexError on the CPU; on CUDA it is not noticed, because that would wait for the device.
    dtype: of the pictures, None is that of the images. channels_last: their memory format, False is NCHW.
    out: a buffer to fill instead, contiguous in either format; its dtype and format then hold.

    Values are copied, so nothing is rounded but by a narrower dtype. A float16 buffer takes values beyond
    65504 as infinity. Raises TypeError for wrong dtypes; ValueError for shapes that do not belong together,
    tensors on several devices, or where a gradient would be lost.
    """
    sizes = check_shapes(
        NAME, images=(images, "BCHW"), ranks=(ranks, "BHW"), counts=(counts, "N"), rows=(rows, "N")
    )
    check_rest(NAME, "baselines", baselines, images)
    check_floats(NAME, images=images, baselines=baselines)
    check_integers(NAME, ranks=ranks, counts=counts, rows=rows)
    check_device(NAME, images=images, baselines=baselines, ranks=ranks, counts=counts, rows=rows)
    check_no_gradient(NAME, images=images, baselines=baselines)
    shape = sizes["N"], sizes["C"], sizes["H"], sizes["W"]
    out = image_buffer(NAME, out, shape, images, dtype, channels_last)
    _operator(out, images, baselines, ranks, counts, rows)
    return out
