"""A pocket interpreter: small Triton kernels on the CPU, program by program, their addresses noted.

Two uses, both in notebook 10. `trace` runs a kernel and says which places of which tensor each program read
and wrote, and refuses a place outside the tensor; Triton's own interpreter does neither. And where Triton
cannot run (there is none for macOS), `triton` and `tl` from here are a stand-in that knows its commonest
words, so that the same notebook runs, and its exercises are checked, on every machine.

It is for teaching: programs run one after the other, in torch, on tensors of a few thousand numbers.
"""

import inspect
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, SimpleNamespace

import torch
from torch import Tensor

from .kernels import _frame


@dataclass(frozen=True)
class Access:
    """What one load or store touched: `places` are counted in numbers from the tensor's first."""

    program: tuple[int, int, int]
    kind: str    # "read" or "write"
    name: str    # of the kernel's parameter
    places: Tensor
    itemsize: int    # bytes of one number


class Trace(list[Access]):
    """All accesses of one launch, in order."""

    def places(self, name: str, kind: str | None = None, program: tuple | int | None = None) -> Tensor:
        """The distinct places of one tensor, sorted. program: of one only, (1, 0) or 1 for (1, 0, 0)."""
        if program is not None:
            program = program if isinstance(program, tuple) else (program,)
            program = (*program, 0, 0)[:3]
        found = [
            access.places
            for access in self
            if access.name == name and kind in (None, access.kind) and program in (None, access.program)
        ]
        return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.long)

    def requested(self) -> int:
        """Bytes that the programs asked for, one place as often as it was asked for."""
        return sum(len(access.places) * access.itemsize for access in self)

    def distinct(self) -> int:
        """Bytes if each place that is read comes from memory once, and each that is written goes there once."""
        sizes = {(access.name, access.kind): access.itemsize for access in self}
        return sum(len(self.places(*key)) * size for key, size in sizes.items())

    def collisions(self, name: str) -> Tensor:
        """The places of a tensor that more than one program writes: the result depends on who is last."""
        writes = {a.program: None for a in self if a.name == name and a.kind == "write"}
        if not writes:
            return torch.empty(0, dtype=torch.long)
        places = torch.cat([self.places(name, "write", program) for program in writes])
        place, count = places.unique(return_counts=True)
        return place[count > 1]


def trace(kernel, grid, *arguments, **constants) -> Trace:
    """Run a kernel in the pocket interpreter, whatever runs it otherwise, and return what it touched.

    grid: as in kernel[grid](…), a number or a tuple of up to three. Tensors that the kernel writes are
    written. Raises IndexError where a program reads or writes outside a tensor.
    """
    return _launch(kernel, grid, arguments, constants, strict=True)


def jit(function: Callable):
    """`triton.jit` where Triton can run; else, and for a function without source text, the pocket one."""
    if _frame.TRITON:
        try:
            return _frame.triton.jit(function)
        except (OSError, ValueError):    # a compiled kernel needs its source, one made by exec has none
            pass
    return Kernel(function)


class Kernel:
    """A kernel for the pocket interpreter: kernel[grid](arguments)."""

    def __init__(self, function: Callable):
        self.fn = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    def __getitem__(self, grid):
        return partial(self._run, grid)

    def _run(self, grid, *arguments, **constants) -> None:
        _launch(self, grid, arguments, constants, strict=False)


@dataclass
class _State:
    """The program that runs now, and where its accesses go."""

    program: tuple[int, int, int] = (0, 0, 0)
    grid: tuple[int, ...] = (1, 1, 1)
    strict: bool = False
    accesses: Trace = field(default_factory=Trace)


_now = _State()


def _launch(kernel, grid, arguments, constants, strict: bool) -> Trace:
    global _now
    function = _translated(getattr(kernel, "fn", kernel))
    options = {"num_warps", "num_stages"} - set(inspect.signature(function).parameters)
    bound = inspect.signature(function).bind(
        *arguments, **{name: value for name, value in constants.items() if name not in options}
    )
    bound.apply_defaults()
    grid = grid(bound.arguments) if callable(grid) else grid
    grid = grid if isinstance(grid, tuple) else (grid,)
    grid = (*(int(programs) for programs in grid), 1, 1)[:3]
    values = [
        _Pointer(value, name) if isinstance(value, Tensor) else value
        for name, value in bound.arguments.items()
    ]
    before, _now = _now, _State(grid=grid, strict=strict)
    try:
        for z, y, x in itertools.product(*(range(programs) for programs in reversed(grid))):
            _now.program = (x, y, z)
            function(*values)
        return _now.accesses
    finally:
        _now = before


def _translated(function: Callable) -> Callable:
    """The function with the words of this file in the place of Triton's; so with the kernels it calls."""
    names = dict(function.__globals__)
    for name, value in function.__globals__.items():
        if value is not None and value is _frame.tl:
            names[name] = language
        elif callable(value) and isinstance(getattr(value, "fn", None), FunctionType):
            names[name] = FunctionType(value.fn.__code__, names, name, value.fn.__defaults__)
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__)


class _Pointer:
    """Places of a tensor: what a kernel gets for a tensor, and what pointer arithmetic makes of it."""

    def __init__(self, tensor: Tensor, name: str, places: Tensor | None = None):
        self.tensor, self.name = tensor, name
        self.places = torch.zeros((), dtype=torch.long) if places is None else places
        self.dtype = SimpleNamespace(element_ty=tensor.dtype)

    def __add__(self, places) -> "_Pointer":
        if isinstance(places, _Pointer) or getattr(places, "is_floating_point", lambda: False)():
            raise TypeError(f"{self.name} + …: to a pointer one adds whole numbers, the places.")
        return _Pointer(self.tensor, self.name, self.places + places)

    __radd__ = __add__

    def __getitem__(self, index) -> "_Pointer":
        return _Pointer(self.tensor, self.name, self.places[index])

    def reach(self) -> tuple[int, int]:
        """The first place that may be touched and the one after the last: of the tensor, or of its memory."""
        tensor = self.tensor
        if _now.strict:
            return 0, 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.storage_offset()
        return -start, tensor.untyped_storage().nbytes() // tensor.element_size() - start

    def memory(self) -> Tensor:
        size = self.tensor.untyped_storage().nbytes() // self.tensor.element_size()
        return self.tensor.as_strided((size,), (1,), 0)


def _touch(pointer: _Pointer, mask, kind: str) -> tuple[Tensor, Tensor]:
    """The places that are not masked out, checked and noted: (which of them, their places in memory)."""
    if not isinstance(pointer, _Pointer):
        raise TypeError(f"a {kind} needs a pointer, such as x + i, not {type(pointer).__name__}.")
    shape = torch.broadcast_shapes(pointer.places.shape, getattr(mask, "shape", ()))
    places = pointer.places.expand(shape)
    keep = torch.as_tensor(True if mask is None else mask).expand(shape)
    touched = places[keep]
    start, end = pointer.reach()
    wrong = touched[(touched < start) | (touched >= end)]
    if len(wrong):
        program = _now.program[: max(1, sum(programs > 1 for programs in _now.grid))]
        raise IndexError(
            f"program {program[0] if len(program) == 1 else program} would {kind} place {wrong[0]} of "
            f"{pointer.name}, whose places are {start} to {end - 1}: a mask is missing or wrong."
        )
    _now.accesses.append(Access(_now.program, kind, pointer.name, touched, pointer.tensor.element_size()))
    return keep, touched + pointer.tensor.storage_offset()


def _load(pointer, mask=None, other=0):
    keep, places = _touch(pointer, mask, "read")
    values = torch.full(keep.shape, 0 if other is None else other, dtype=pointer.tensor.dtype)
    values[keep] = pointer.memory()[places.to(pointer.tensor.device)].cpu()
    return values


def _store(pointer, value, mask=None) -> None:
    keep, places = _touch(pointer, mask, "write")
    value = torch.as_tensor(value).to(pointer.tensor.dtype).expand(keep.shape)[keep]
    pointer.memory()[places.to(pointer.tensor.device)] = value.to(pointer.tensor.device)


def _atomic_add(pointer, value, mask=None) -> None:
    keep, places = _touch(pointer, mask, "write")
    value = torch.as_tensor(value).to(pointer.tensor.dtype).expand(keep.shape)[keep]
    pointer.memory().index_add_(0, places.to(pointer.tensor.device), value.to(pointer.tensor.device))


def _arange(start: int, end: int) -> Tensor:
    size = end - start
    if size < 1 or size & (size - 1):
        raise ValueError(f"arange's size must be a power of 2, as Triton demands; here it is {size}.")
    return torch.arange(start, end)


def _pair(function):
    return lambda a, b: function(torch.as_tensor(a), torch.as_tensor(b))


def _reduction(function):
    return lambda values, axis=None: function(values) if axis is None else function(values, dim=axis)


def _sum(values, axis=None):
    """In the dtype of the values: torch would count bools and small integers in 64 bits."""
    return values.sum(dtype=values.dtype) if axis is None else values.sum(axis, dtype=values.dtype)


def _cdiv(a, b):
    return (a + b - 1) // b


# The words of triton.language that the pocket interpreter knows. Negative numbers: // rounds down here, and
# towards zero in Triton.
language = SimpleNamespace(
    program_id=lambda axis: torch.tensor(_now.program[axis]),
    num_programs=lambda axis: torch.tensor(_now.grid[axis]),
    load=_load, store=_store, atomic_add=_atomic_add, arange=_arange, cdiv=_cdiv,
    zeros=lambda shape, dtype: torch.zeros(shape, dtype=dtype),
    full=lambda shape, value, dtype: torch.full(shape, value, dtype=dtype),
    where=torch.where, maximum=_pair(torch.maximum), minimum=_pair(torch.minimum),
    sum=_sum, max=_reduction(torch.amax), min=_reduction(torch.amin),
    exp=torch.exp, log=torch.log, sqrt=torch.sqrt, abs=torch.abs,
    static_range=range, range=range, constexpr=int,
    float16=torch.float16, bfloat16=torch.bfloat16, float32=torch.float32,
    int32=torch.int32, int64=torch.int64, int1=torch.bool,
)  # fmt: skip

# What a notebook imports: of Triton where it can run, else of this file.
tl = _frame.tl if _frame.TRITON else language
triton = SimpleNamespace(
    jit=jit, cdiv=lambda a, b: -(-a // b), next_power_of_2=lambda n: 1 << math.ceil(math.log2(n))
)
