"""lnorm_step: U(P) ⊙ C / max(U(D(C)), 1e-12), the step of Poly-CAM's recursion from a layer to the next.

P (h, w) is the deeper layer's map and C (H, W) this layer's. D shrinks C to the size of P, U stretches to
the size of C; both are torch's bilinear interpolation, align_corners=False, without antialiasing (official
code). At ratio 2, D is the average of 2 × 2 blocks, so C is divided by its own coarse version, and P decides
how much each coarse cell gets. At other ratios D is no block mean: at 4 it sees the central 2 × 2 of each
4 × 4 block, at 1 it is C itself. 1e-12 is a floor, not an added ε.

On CUDA nothing lies in memory between P, C and the result. A pixel of U(D(C)) is a weighted sum of 16 pixels
of C and one of U(P) of 4 of P; neighbours share them, so that they come from the caches. Places and weights
belong to rows and columns and are computed once for each of those, not for each pixel. The floor: C and P
read once, the result written once.
"""

import torch
import torch.nn.functional as F
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

NAME = "lnorm_step"
# The least divisor, from the official code. It matters where a neighbourhood is all zero.
FLOOR = 1e-12
# Pixels for one program: 8 for each of 128 threads, in rows of at most 128, which are whole cache lines.
PIXELS = 1024
LONGEST_ROW = 128


def floor_bytes(P: Tensor, C: Tensor) -> int:
    """The bytes that must move at least: P and C in, the result (float32) out."""
    return P.numel() * P.element_size() + C.numel() * (C.element_size() + 4)


def reference(P: Tensor, C: Tensor) -> Tensor:
    """In plain torch, on any device."""
    dtype = arithmetic(P, C)
    P, C = P.to(dtype)[:, None], C.to(dtype)[:, None]
    mean = _resize(_resize(C, P.shape[-2:]), C.shape[-2:])
    return (_resize(P, C.shape[-2:]) * (C / mean.clamp(min=FLOOR)))[:, 0]


def _resize(maps: Tensor, size) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def fake(P: Tensor, C: Tensor) -> Tensor:
    """What `reference` returns, without its values."""
    return C.new_empty(C.shape, dtype=arithmetic(P, C))


launch = None
if TRITON:

    @triton.jit
    def _two(place, there, here):
        """Which two places of an axis of length `there` the places of one of length `here` mix, and how.

        In whole numbers, so that a weight that should be 0 is 0: rounding would put the last bits of a large
        pixel where the floor of 1e-12 belongs.
        """
        position = tl.maximum((2 * place + 1) * there - here, 0)    # in units of 1 / (2 · here)
        first = position // (2 * here)
        rest = position - first * 2 * here
        # Where the sizes agree torch copies, and no NaN spreads to a neighbour by way of 0 · NaN.
        second = tl.where(here == there, first, tl.minimum(first + 1, there - 1))
        return first, second, (2 * here - rest).to(tl.float32) / (2 * here), rest.to(tl.float32) / (2 * here)

    @triton.jit
    def _bilinear(
        pointer, row_stride, column_stride, row, next_row, row_weight, next_row_weight,
        column, next_column, column_weight, next_column_weight, inside,
    ):  # fmt: skip
        """The image at these rows and columns (two vectors each, and their weights)."""
        left, right = (column * column_stride)[None, :], (next_column * column_stride)[None, :]
        a, b = column_weight[None, :], next_column_weight[None, :]
        line = pointer + (row * row_stride)[:, None]
        upper = a * tl.load(line + left, mask=inside, other=0).to(tl.float32)
        upper += b * tl.load(line + right, mask=inside, other=0).to(tl.float32)
        line = pointer + (next_row * row_stride)[:, None]
        lower = a * tl.load(line + left, mask=inside, other=0).to(tl.float32)
        lower += b * tl.load(line + right, mask=inside, other=0).to(tl.float32)
        return upper * row_weight[:, None] + lower * next_row_weight[:, None]

    @triton.jit
    def _step(
        P, C, out, h, w, H, W, P_image, P_row, P_column, C_image, C_row, C_column, floor,
        ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    ):  # fmt: skip
        across = tl.cdiv(W, COLUMNS)
        tiles = across * tl.cdiv(H, ROWS)
        image = (tl.program_id(0) // tiles).to(tl.int64)
        tile = tl.program_id(0) % tiles
        i = tile // across * ROWS + tl.arange(0, ROWS)
        j = tile % across * COLUMNS + tl.arange(0, COLUMNS)
        inside = (i < H)[:, None] & (j < W)[None, :]
        P += image * P_image
        C += image * C_image

        # The coarse rows and columns that a pixel mixes (U) ...
        r0, r1, u0, u1 = _two(i, h, H)
        c0, c1, v0, v1 = _two(j, w, W)
        # ... and the fine ones that each of those mixes (D).
        r00, r01, d00, d01 = _two(r0, H, h)
        r10, r11, d10, d11 = _two(r1, H, h)
        c00, c01, e00, e01 = _two(c0, W, w)
        c10, c11, e10, e11 = _two(c1, W, w)

        upper = v0[None, :] * _bilinear(
            C, C_row, C_column, r00, r01, d00, d01, c00, c01, e00, e01, inside
        ) + v1[None, :] * _bilinear(C, C_row, C_column, r00, r01, d00, d01, c10, c11, e10, e11, inside)
        lower = v0[None, :] * _bilinear(
            C, C_row, C_column, r10, r11, d10, d11, c00, c01, e00, e01, inside
        ) + v1[None, :] * _bilinear(C, C_row, C_column, r10, r11, d10, d11, c10, c11, e10, e11, inside)
        mean = u0[:, None] * upper + u1[:, None] * lower

        coarse = _bilinear(P, P_row, P_column, r0, r1, u0, u1, c0, c1, v0, v1, inside)
        fine = tl.load(C + (i * C_row)[:, None] + (j * C_column)[None, :], mask=inside, other=0)
        # Not tl.maximum: a NaN must stay one.
        result = coarse * (fine.to(tl.float32) / tl.where(mean < floor, floor, mean))
        tl.store(out + image * H * W + (i * W)[:, None] + j[None, :], result, mask=inside)

    def launch(P: Tensor, C: Tensor) -> Tensor:
        """The same by Triton; float32, bfloat16 or float16, of any strides."""
        images, H, W = C.shape
        out = torch.empty(C.shape, dtype=torch.float32, device=C.device)
        columns = min(triton.next_power_of_2(W), LONGEST_ROW)
        rows = min(triton.next_power_of_2(H), PIXELS // columns)
        programs = images * triton.cdiv(W, columns) * triton.cdiv(H, rows)
        _step[programs,](
            P, C, out, *P.shape[1:], H, W, *P.stride(), *C.stride(), FLOOR, ROWS=rows, COLUMNS=columns
        )
        return out


_operator = operator(f"{NAME}(Tensor P, Tensor C) -> Tensor", reference, launch, fake)


def lnorm_step(P: Tensor, C: Tensor) -> Tensor:
    """The refined map of one layer, U(P) ⊙ C / max(U(D(C)), 1e-12) (Poly-CAM, official code).

    P: (B, h, w), the map so far, of the next deeper layer.
    C: (B, H, W), this layer's own map, ≥ 0 (after its ReLU). Any sizes, also no multiples, and any strides.
        Both float32, bfloat16, float16 or float64.

    Returns (B, H, W) in float32, also for half precision, since a divisor at the floor makes 1e12 of 1;
    float64 if either is float64. A NaN spreads as the interpolation spreads it.

    Raises TypeError for what is no floating point tensor; ValueError for shapes that do not fit, two devices,
    and a tensor that requires a gradient.
    """
    check_shapes(NAME, P=(P, "Bhw"), C=(C, "BHW"))
    check_floats(NAME, P=P, C=C)
    check_device(NAME, P=P, C=C)
    check_no_gradient(NAME, P=P, C=C)
    return _operator(P, C)
