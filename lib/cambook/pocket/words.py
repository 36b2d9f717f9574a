"""The words of triton.language that the pocket interpreter knows, and the numbers that they work on."""

import functools
import operator
from types import SimpleNamespace

import torch
from torch import Tensor

from . import memory


class Block(Tensor):
    """A number, or a block of them, in a kernel: a tensor, but for what Triton does in another way."""

    # += makes a new block: whoever holds the old one keeps it.
    __iadd__, __isub__, __imul__, __itruediv__ = (
        Tensor.__add__, Tensor.__sub__, Tensor.__mul__, Tensor.__truediv__
    )  # fmt: skip
    __iand__, __ior__ = Tensor.__and__, Tensor.__or__

    def __floordiv__(self, other):
        return torch.div(self, other, rounding_mode="trunc")

    def __mod__(self, other):
        return torch.fmod(self, other)

    __ifloordiv__, __imod__ = __floordiv__, __mod__


def block(number) -> Tensor:
    """A number as Triton takes it: in 32 bits, or 64 if it is a whole one that needs them."""
    if type(number) is int:
        number = torch.tensor(number, dtype=torch.int32 if -(2**31) <= number < 2**31 else torch.int64)
    elif type(number) is float:
        number = torch.tensor(number, dtype=torch.float32)
    return torch.as_tensor(number).as_subclass(Block)


class _Words(SimpleNamespace):
    def __getattr__(self, name: str):
        raise AttributeError(
            f"the pocket interpreter does not know tl.{name}: do without, or use a machine with Triton."
        )


def _giving_blocks(function):
    @functools.wraps(function)
    def word(*arguments, **options):
        return function(*arguments, **options).as_subclass(Block)

    return word


def _arange(start: int, end: int) -> Tensor:
    if isinstance(start, Tensor) or isinstance(end, Tensor):
        raise ValueError("arange wants numbers that are known when the kernel is compiled: tl.constexpr.")
    size = end - start
    if size < 1 or size & (size - 1):
        raise ValueError(f"arange's size must be a power of 2, as Triton demands; here it is {size}.")
    return torch.arange(start, end, dtype=torch.int32)


def _of_two(function):
    return lambda a, b: function(block(a), block(b))


def _reduction(function):
    """Two by two, with what the function of two makes of a NaN."""

    def reduce(values, axis=None):
        return functools.reduce(function, values.flatten() if axis is None else values.unbind(axis))

    return reduce


def _sum(values, axis=None):
    """In the dtype of the values, bools and small integers in 32 bits."""
    small = not values.is_floating_point() and values.element_size() < 4
    dtype = torch.int32 if small else values.dtype
    return values.sum(dtype=dtype) if axis is None else values.sum(axis, dtype=dtype)


language = _Words(
    program_id=lambda axis: block(memory.now.program[axis]),
    num_programs=lambda axis: block(memory.now.grid[axis]),
    load=_giving_blocks(memory.load), store=memory.store, atomic_add=memory.atomic_add,
    arange=_giving_blocks(_arange),
    zeros=_giving_blocks(lambda shape, dtype: torch.zeros(shape, dtype=dtype)),
    full=_giving_blocks(lambda shape, value, dtype: torch.full(shape, value, dtype=dtype)),
    cdiv=lambda a, b: (a + b - 1) // b,
    where=lambda condition, a, b: torch.where(condition, block(a), block(b)),
    maximum=_of_two(torch.fmax), minimum=_of_two(torch.fmin),
    sum=_sum, max=_reduction(torch.fmax), min=_reduction(torch.fmin),
    exp=torch.exp, log=torch.log, sqrt=torch.sqrt, abs=torch.abs,
    static_range=range, range=range, constexpr=type("constexpr", (), {}),
    float16=torch.float16, bfloat16=torch.bfloat16, float32=torch.float32,
    int32=torch.int32, int64=torch.int64, int1=torch.bool,
)  # fmt: skip
