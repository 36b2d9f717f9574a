"""How the benchmarks measure: interleaved rounds, forwards counted from outside, memory in a new process."""

import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

PACKAGES = ("torch", "torchvision", "triton", "torchcam", "grad-cam", "captum", "saliency")
COPY = "copying as many bytes"    # the contender that rows with `bytes` get


@dataclass(frozen=True)
class Contender:
    """One way of doing a row's work.

    name: what the table says. prepare: builds everything that is not timed; returns the call that is, and the
    network whose forward passes are counted (None where there is none). Each contender has a copy of the
    network to itself, because some libraries leave hooks on theirs.
    """

    name: str
    prepare: Callable[[], tuple[Callable[[], object], nn.Module | None]]


@dataclass(frozen=True)
class Row:
    """One question of the benchmark.

    ours, others: contenders; the first of ours is the one that `ratio` compares.
    ratio: "theirs / ours" (how often ours fits into the best of the others) or "ours / theirs".
    goal: what the ratio should be, in words. note: what a reader must know besides.
    measures: "seconds", or "megabytes" (peak, beyond what was there before).
    bytes: what must be read and written at least; the row is then held against a copy of as many bytes.
    """

    name: str
    title: str
    ours: list[Contender]
    others: list[Contender]
    ratio: str
    goal: str
    measures: str = "seconds"
    bytes: int | None = None
    note: str = ""


@dataclass
class Result:
    """What one contender took: one figure a round, and the images that went through the network."""

    figures: list[float] = field(default_factory=list)
    forwards: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.figures)


class Forwards:
    """Counts the images that go through a network, whoever sends them."""

    def __init__(self, model: nn.Module | None):
        self.model, self.images = model, 0

    def __enter__(self):
        def count(_, arguments):
            self.images += len(arguments[0])

        self.hook = self.model.register_forward_pre_hook(count) if self.model is not None else None
        return self

    def __exit__(self, *_):
        if self.hook is not None:
            self.hook.remove()


def seconds(call: Callable[[], object], device: str) -> float:
    """One timed call; on CUDA from an idle device to an idle device."""
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    begin = time.perf_counter()
    call()
    synchronise()
    return time.perf_counter() - begin


def copying(size: int, device: str) -> Contender:
    """What the memory can do at best: half of the bytes are read, half of them written."""

    def prepare():
        source = torch.zeros(size // 8, device=device)    # float32
        target = torch.empty_like(source)
        return lambda: target.copy_(source), None

    return Contender(COPY, prepare)


def compare(row: Row, rounds: int, device: str, progress: Callable[[str], None]) -> dict[str, Result]:
    """Every contender once to warm up (and to count its forwards), then `rounds` times in turn."""
    results, calls = {}, {}
    contenders = [*row.ours, *row.others]
    if row.bytes is not None:
        contenders.append(copying(row.bytes, device))
    for contender in contenders:
        progress(f"{row.name}: warming up {contender.name}")
        call, model = contender.prepare()
        with Forwards(model) as forwards:
            call()
        calls[contender.name] = call
        results[contender.name] = Result(forwards=None if model is None else forwards.images)
    for number in range(rounds):
        for name, call in calls.items():
            progress(f"{row.name}: round {number + 1} of {rounds}, {name}")
            results[name].figures.append(seconds(call, device))
    return results


def peak_megabytes(contender: Contender, device: str) -> float:
    """Memory at the height of one call, beyond what was in use before. Call it in a fresh process (Linux)."""
    call, _ = contender.prepare()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")        # forget the peak so far
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1e3


def _status(field_: str) -> int:
    """A field of /proc/self/status, in kB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field_ + ":"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no field {field_}.")


def machine(device: str) -> dict[str, str]:
    """What the figures were taken on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    processor = f"{_processor()}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if device == "cuda" else processor
    return {"device": name, "python": platform.python_version()} | versions


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
