"""The memory that kernels see: pointers, loads and stores, and a note of every place touched."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Access:
    """What one load or store touched: `places` are counted in numbers from the tensor's first."""

    program: tuple[int, int, int]
    kind: str    # "read" or "write"
    name: str    # of the kernel's parameter
    tensor: Tensor
    places: Tensor


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
        return sum(len(access.places) * access.tensor.element_size() for access in self)

    def distinct(self) -> int:
        """Bytes if each place read comes from memory once, and each place written goes there once."""
        sizes = {(access.name, access.kind): access.tensor.element_size() for access in self}
        return sum(len(self.places(*key)) * size for key, size in sizes.items())

    def collisions(self, name: str) -> Tensor:
        """The places of a tensor that more than one program writes: the result depends on who is last."""
        writes = {a.program: None for a in self if a.name == name and a.kind == "write"}
        if not writes:
            return torch.empty(0, dtype=torch.long)
        places = torch.cat([self.places(name, "write", program) for program in writes])
        place, count = places.unique(return_counts=True)
        return place[count > 1]


@dataclass
class Launch:
    """A launch: the program that runs now, and where its accesses go.

    strict: a program may touch the tensor alone, and not all of the memory that the tensor is cut from.
    """

    grid: tuple[int, int, int] = (1, 1, 1)
    strict: bool = False
    program: tuple[int, int, int] = (0, 0, 0)
    accesses: Trace = field(default_factory=Trace)


now = Launch()    # `run` puts the launch here that runs now


class Pointer:
    """Places of a tensor: what a kernel gets for a tensor, and what pointer arithmetic makes of it."""

    def __init__(self, tensor: Tensor, name: str, places: Tensor | None = None):
        self.tensor, self.name = tensor, name
        self.places = torch.zeros((), dtype=torch.long) if places is None else places.as_subclass(Tensor)
        self.dtype = SimpleNamespace(element_ty=tensor.dtype)

    def __add__(self, places) -> "Pointer":
        if isinstance(places, Pointer) or getattr(places, "is_floating_point", lambda: False)():
            raise TypeError(f"{self.name} + …: to a pointer one adds whole numbers, the places.")
        return Pointer(self.tensor, self.name, self.places + places)

    __radd__ = __add__

    def __getitem__(self, index) -> "Pointer":
        return Pointer(self.tensor, self.name, self.places[index])

    def reach(self) -> tuple[int, int]:
        """The first place that may be touched and the one after the last: of the tensor, or of its memory."""
        tensor = self.tensor
        if now.strict:
            return 0, 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        start = tensor.storage_offset()
        return -start, tensor.untyped_storage().nbytes() // tensor.element_size() - start

    def memory(self) -> Tensor:
        size = self.tensor.untyped_storage().nbytes() // self.tensor.element_size()
        return self.tensor.as_strided((size,), (1,), 0)


def load(pointer: Pointer, mask=None, other=None) -> Tensor:
    """The numbers at the pointer's places; where the mask is false `other`, or rubbish."""
    keep, places = _touch(pointer, mask, "read")
    dtype = pointer.tensor.dtype
    values = torch.as_tensor(_rubbish(dtype) if other is None else other).to(dtype).expand(keep.shape).clone()
    values[keep] = pointer.memory()[places].cpu()
    return values


def store(pointer: Pointer, value, mask=None) -> None:
    keep, places = _touch(pointer, mask, "write")
    pointer.memory()[places] = _outgoing(pointer, value, keep)


def atomic_add(pointer: Pointer, value, mask=None) -> None:
    keep, places = _touch(pointer, mask, "write")
    pointer.memory().index_add_(0, places, _outgoing(pointer, value, keep))


def _touch(pointer: Pointer, mask, kind: str) -> tuple[Tensor, Tensor]:
    """The places that are not masked out, checked and noted: (which of them, their places in memory)."""
    if not isinstance(pointer, Pointer):
        raise TypeError(f"a {kind} needs a pointer, such as x + i, not {type(pointer).__name__}.")
    keep = torch.as_tensor(True if mask is None else mask).as_subclass(Tensor)
    places, keep = torch.broadcast_tensors(pointer.places, keep)
    touched = places[keep]
    start, end = pointer.reach()
    wrong = touched[(touched < start) | (touched >= end)]
    if len(wrong):
        program = now.program[: max(1, sum(programs > 1 for programs in now.grid))]
        raise IndexError(
            f"program {program[0] if len(program) == 1 else program} would {kind} place {wrong[0]} of "
            f"{pointer.name}, whose places are {start} to {end - 1}: a mask is missing or wrong."
        )
    now.accesses.append(Access(now.program, kind, pointer.name, pointer.tensor, touched))
    return keep, (touched + pointer.tensor.storage_offset()).to(pointer.tensor.device)


def _outgoing(pointer: Pointer, value, keep: Tensor) -> Tensor:
    """What goes out to the places that are kept, as the tensor holds it."""
    value = torch.as_tensor(value).as_subclass(Tensor).to(pointer.tensor.dtype)
    return value.expand(keep.shape)[keep].to(pointer.tensor.device)


def _rubbish(dtype: torch.dtype) -> float | int | bool:
    if dtype.is_floating_point:
        return math.nan
    return True if dtype == torch.bool else torch.iinfo(dtype).max
