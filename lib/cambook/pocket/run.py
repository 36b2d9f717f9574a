"""Running kernels in the pocket interpreter."""

import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType

from torch import Tensor

from ..kernels import _frame
from . import memory
from .memory import Launch, Pointer, Trace
from .words import block, language

OPTIONS = ("num_warps", "num_stages")    # of Triton's compiler, which kernels need not take


def trace(kernel, grid, *arguments, **constants) -> Trace:
    """Run a kernel in the pocket interpreter, whatever runs it otherwise, and return what it touched.

    grid: as in kernel[grid](…), a tuple of up to three numbers. Tensors that the kernel writes are written.
    Raises IndexError where a program reads or writes outside a tensor.
    """
    return _launch(kernel.fn, grid, arguments, constants, strict=True)


@contextmanager
def watching(names: dict) -> Iterator[Trace]:
    """Within it, each launch of a kernel that is among `names` is a `trace`; gives what they touch together.

    names: where functions that launch kernels find them, such as a notebook's globals(). They are put back.
    """
    seen = Trace()
    kernels = {name: value for name, value in names.items() if _is_kernel(value)}
    names.update({name: Kernel(kernel.fn, seen) for name, kernel in kernels.items()})
    try:
        yield seen
    finally:
        names.update(kernels)


def jit(function: Callable):
    """`triton.jit` where Triton can run; else, and for a function without source text, the pocket one."""
    if _frame.TRITON:
        try:
            return _frame.triton.jit(function)
        except (OSError, ValueError):    # a compiled kernel needs its source, one made by exec has none
            pass
    return Kernel(function)


class Kernel:
    """A kernel for the pocket interpreter: kernel[grid](arguments).

    seen: where to add what it touches; it may then touch nothing outside its tensors.
    """

    def __init__(self, function: Callable, seen: Trace | None = None):
        self.fn, self.seen = function, seen

    def __getitem__(self, grid):
        return partial(self._run, grid)

    def _run(self, grid, *arguments, **constants) -> None:
        touched = _launch(self.fn, grid, arguments, constants, strict=self.seen is not None)
        if self.seen is not None:
            self.seen += touched


def _launch(function, grid, arguments, constants, strict: bool) -> Trace:
    function = _translated(function)
    signature = inspect.signature(function)
    unused = set(OPTIONS) - set(signature.parameters)
    bound = signature.bind(
        *arguments, **{name: value for name, value in constants.items() if name not in unused}
    )
    bound.apply_defaults()
    grid = grid(bound.arguments) if callable(grid) else grid
    if not isinstance(grid, tuple) or not 1 <= len(grid) <= 3:
        raise TypeError(
            f"the grid is a tuple of one to three numbers, kernel[n,](…) with a comma; this one is {grid!r}."
        )
    values = [_argument(value, signature.parameters[name]) for name, value in bound.arguments.items()]
    grid = (*(int(programs) for programs in grid), 1, 1)[:3]
    before, memory.now = memory.now, Launch(grid, strict)
    try:
        for program in itertools.product(*(range(programs) for programs in grid)):
            memory.now.program = program
            function(*values)
        return memory.now.accesses
    finally:
        memory.now = before


def _argument(value, parameter: inspect.Parameter):
    """What a kernel gets: pointers for tensors, blocks for numbers, and as it is what it is compiled with."""
    if isinstance(value, Tensor):
        return Pointer(value, parameter.name)
    compiled_with = "constexpr" in str(parameter.annotation)
    return block(value) if type(value) in (int, float) and not compiled_with else value


def _is_kernel(value) -> bool:
    return isinstance(getattr(value, "fn", None), FunctionType)


def _translated(function: Callable) -> Callable:
    """The function with the pocket's words in the place of Triton's; so with the kernels it calls."""
    names = dict(function.__globals__)
    for name, value in function.__globals__.items():
        if value is not None and value is _frame.tl:
            names[name] = language
        elif _is_kernel(value):
            names[name] = _with_names(value.fn, names)
    return _with_names(function, names)


def _with_names(function: Callable, names: dict) -> Callable:
    copy = FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__annotations__ = function.__annotations__
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
