"""What all kernels share: whether Triton can be used here, and the checks a caller meets.

Triton is imported only where it can run: with a CUDA device, or in its interpreter (TRITON_INTERPRET=1, set
before this module is imported), which runs kernels slowly on the CPU and is meant for tests.
"""

import os
from collections.abc import Callable

import torch
from torch import Tensor

triton = tl = None
if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
    try:
        import triton
        import triton.language as tl
    except ImportError:    # torch for Windows and macOS comes without it: the references work everywhere
        pass
TRITON = triton is not None

# What a kernel reads. float64 is for comparisons: it takes the plain reference on every device.
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def operator(signature: str, reference: Callable, launch: Callable | None, fake: Callable):
    """Register "cambook::NAME" and return it, to be called with positional arguments.

    signature: the schema, such as "weighted_sum(Tensor weights, Tensor maps, bool relu) -> Tensor"; a buffer
        that is filled is "Tensor(a!) out", and such an operator returns nothing: "-> ()".
    reference: runs on every device without a kernel, and for float64 on all.
    launch: runs on CUDA; None where there is no Triton.
    fake: gives results their shapes and dtypes without computing them, for torch.compile.

    Not torch.library.custom_op: the first call of an operator made with that imports torch._dynamo (1.5 s)
    and with it Triton wherever it is installed.
    """
    name, arguments = signature.split("(", 1)
    name = f"cambook::{name}"
    torch.library.define(name, f"({arguments}")
    torch.library.impl(name, "default", reference)
    if launch is not None:

        def on_cuda(*arguments):
            tensors = (a for a in arguments if isinstance(a, Tensor))
            return (reference if arithmetic(*tensors) == torch.float64 else launch)(*arguments)

        torch.library.impl(name, "cuda", on_cuda)
    torch.library.register_fake(name, fake)
    return getattr(torch.ops.cambook, name.removeprefix("cambook::")).default


def check_shapes(kernel: str, **tensors: tuple[Tensor, str]) -> dict[str, int]:
    """Hold tensors against their axes, and return the size of each named axis.

    tensors: name=(tensor, axes), the axes as one letter each, such as "BKhw". A letter has one size
        throughout, in the order of the arguments. No axis may be empty.

    Raises TypeError for what is no tensor, ValueError for another number of axes or another size.
    """
    sizes: dict[str, int] = {}
    for name, (tensor, axes) in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{kernel}: {name} must be a tensor, not {type(tensor).__name__}.")
        wanted = f"({', '.join(axes)})"
        if tensor.ndim != len(axes):
            raise ValueError(f"{kernel}: {name} must be {wanted}, but has shape {tuple(tensor.shape)}.")
        for axis, size in zip(axes, tensor.shape, strict=True):
            if size == 0:
                raise ValueError(f"{kernel}: {name} is empty, its shape is {tuple(tensor.shape)}.")
            if sizes.setdefault(axis, size) != size:
                raise ValueError(
                    f"{kernel}: {name} must be {wanted} with {axis} = {sizes[axis]} as in the arguments "
                    f"before it, but has shape {tuple(tensor.shape)}."
                )
    return sizes


def check_floats(kernel: str, **tensors: Tensor | None) -> None:
    """Raise TypeError where a tensor is not float32, bfloat16, float16 or float64. None is skipped."""
    for name, tensor in tensors.items():
        if tensor is not None and tensor.dtype not in FLOATS:
            raise TypeError(f"{kernel}: {name} must be floating point, not {tensor.dtype}: use .float().")


def check_integers(kernel: str, **tensors: Tensor) -> None:
    """Raise TypeError where a tensor is not int32 or int64."""
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{kernel}: {name} must be int32 or int64, not {tensor.dtype}: use .long().")


def check_rest(kernel: str, name: str, rest: Tensor, images: Tensor) -> None:
    """Raise where `rest` is neither one picture (1, C, H, W) nor one for each image (B, C, H, W)."""
    shapes = {(count, *images.shape[1:]) for count in (1, len(images))}
    if not isinstance(rest, Tensor):
        raise TypeError(f"{kernel}: {name} must be a tensor, not {type(rest).__name__}.")
    if tuple(rest.shape) not in shapes:
        raise ValueError(
            f"{kernel}: {name} must have the shape of the images, {tuple(images.shape)}, or 1 in the place "
            f"of {len(images)}, but has {tuple(rest.shape)}."
        )


def check_rows(kernel: str, rows: Tensor, images: Tensor) -> list[int]:
    """The numbers in `rows`, read from the device. Raises IndexError for an image that does not exist."""
    numbers = rows.tolist()
    if min(numbers) < 0 or max(numbers) >= len(images):
        raise IndexError(
            f"{kernel}: rows must be 0 to {len(images) - 1}, but hold {min(numbers)} to {max(numbers)}."
        )
    return numbers


def check_device(kernel: str, **tensors: Tensor | None) -> None:
    """Raise ValueError where the tensors are not all on the device of the first. None is skipped."""
    here = [(name, tensor.device) for name, tensor in tensors.items() if tensor is not None]
    for name, device in here[1:]:
        if device != here[0][1]:
            raise ValueError(f"{kernel}: {here[0][0]} is on {here[0][1]}, but {name} on {device}: move one.")


def check_no_gradient(kernel: str, **tensors: Tensor | None) -> None:
    """Raise ValueError where a gradient would be lost: the kernels have no backward. None is skipped."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise ValueError(
                    f"{kernel} has no gradient, but {name} requires one: pass {name}.detach(), or call it "
                    "under torch.no_grad()."
                )


def arithmetic(*tensors: Tensor | None) -> torch.dtype:
    """The dtype to compute in: float64 when one of the tensors is, else float32. None is skipped."""
    double = any(tensor is not None and tensor.dtype == torch.float64 for tensor in tensors)
    return torch.float64 if double else torch.float32


def image_buffer(
    kernel: str, out: Tensor | None, shape: tuple[int, ...], images: Tensor, dtype, channels_last: bool
) -> Tensor:
    """The tensor of `shape` (N, C, H, W) that a kernel fills: the caller's `out`, or a new one.

    A new one has `dtype` (None: that of the images), and is on their device in NCHW or channels-last memory.
    Raises TypeError or ValueError where `out` does not fit, or is given with what would describe a new one.
    """
    if out is None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        out = torch.empty(shape, dtype=dtype or images.dtype, device=images.device, memory_format=layout)
    elif dtype is not None or channels_last:
        raise ValueError(f"{kernel}: dtype and channels_last describe a new buffer: leave them out with out.")
    check_floats(kernel, out=out)
    check_device(kernel, images=images, out=out)
    check_no_gradient(kernel, out=out)
    if tuple(out.shape) != tuple(shape):
        raise ValueError(f"{kernel}: out must have shape {tuple(shape)}, not {tuple(out.shape)}.")
    if not (out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"{kernel}: out must be contiguous, or contiguous in channels-last memory.")
    return out


def packed(tensor: Tensor, out: Tensor) -> Tensor:
    """The images `tensor` in the memory format of the buffer `out`; a copy only where they lie otherwise."""
    nchw = out.is_contiguous()
    return tensor.contiguous(memory_format=torch.contiguous_format if nchw else torch.channels_last)
