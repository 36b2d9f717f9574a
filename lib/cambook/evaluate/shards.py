"""One shard: one method on a few pictures, measured, and kept as one file. This is what a worker does."""

import functools
import hashlib
import inspect
import io
import json
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchvision.transforms.functional import pil_to_tensor, resize

from .. import world
from ..files import whole
from ..metrics import Picture, box_masks
from ..metrics._again import explain
from ..metrics.ground_truth import Example, example
from ..metrics.storage import describe_function, describe_model, digest, sources
from ..metrics.table import _now
from ..models import Preprocessing, open_photo
from . import networks
from .datasets import Item
from .plan import Plan

# Pictures that are lost together when a worker dies: a few minutes' work for the slowest methods.
SIZE = 4
# What a shard holds beside the metrics, for each picture.
FACTS = ("class", "score", "flat")
COSTS = ("forwards", "seconds")
_one_at_a_time = threading.Lock()    # hooks on a network's layers do not bear a second thread


@dataclass(frozen=True)
class Job:
    """What all shards of a run share. folder: of the run, seen by every worker under the same path.

    device: "cpu", or "cuda", where a worker takes the GPU of its number.
    threads: of torch in a worker; None leaves them as they are.
    """

    plan: Plan
    folder: str
    boxes: bool
    device: str
    threads: int | None


@dataclass(frozen=True)
class Shard:
    """row: of the method. file: its name in the run's folder, which says all that its content rests on."""

    row: str
    items: tuple[Item, ...]
    file: str


class StoreError(Exception):
    """A shard could not be written."""


def cut(plan: Plan, items: list[Item], net: nn.Module, *, boxes: bool) -> list[Shard]:
    """The shards of a run, in an order in which all methods have seen the first pictures first."""
    made = _digests(plan, net, boxes)
    parts = [tuple(items[start : start + SIZE]) for start in range(0, len(items), SIZE)]
    return [Shard(row, part, _file(row, part, made)) for part in parts for row in made]


def _digests(plan: Plan, net: nn.Module, boxes: bool) -> dict[str, str]:
    """Row → what its maps and numbers rest on, but for the pictures: network, options and code."""
    columns = plan.columns(boxes=boxes)
    shared = [
        describe_model(net), str(net), plan.squash, sources(measure),
        {name: [describe_function(metric), sources(metric)] for name, metric in columns.items()},
    ]  # fmt: skip
    return {
        row: digest(*shared, describe_function(method), sources(method))
        for row, method in plan.rows().items()
    }


def _file(row: str, part: tuple[Item, ...], made: dict[str, str]) -> str:
    pictures = [[item.name, _size(item.photo), item.target, item.boxes] for item in part]
    return f"shards/{row}-{digest(made[row], pictures)}.npz"


def is_finished(folder: Path, shard: Shard) -> bool:
    """Whether the shard's file is there and complete."""
    return zipfile.is_zipfile(folder / shard.file)


def compute(job: Job, shard: Shard) -> dict:
    """Explain and measure the shard's pictures, and write its file. Returns what `values` reads from it.

    A picture that cannot be read is noted, and the others go on. Raises ValueError or TypeError for a method
    or metric that does not fit the network, and where the worker has other code, weights or pictures than the
    run; StoreError where the file cannot be written.
    """
    folder = Path(job.folder)
    if not (folder / "run.json").is_file():
        raise StoreError(f"{folder} is not the run's folder where the worker runs: it must be a shared one.")
    if is_finished(folder, shard):    # by a worker that died before it could say so
        return values(folder, shard)
    with _one_at_a_time:
        if job.threads:
            torch.set_num_threads(job.threads)
        net, made = _load(job.plan, _device(job.device), job.boxes)
        if _file(shard.row, shard.items, made) != shard.file:
            raise ValueError(
                "A worker has another cambook, other weights or other pictures than this process: give both "
                "the same."
            )
        rows, columns = job.plan.rows(), job.plan.columns(boxes=job.boxes)
        maps, found = {}, {"values": {}, "unreadable": {}, "sha256": {}, "config": {}}
        found["device"] = str(_home(net))
        for item in shard.items:
            try:
                picture = prepare(item, net.preprocessing, job.plan.squash)
            except (ValueError, OSError) as error:
                found["unreadable"][item.name] = str(error)
                continue
            try:
                maps[item.name], found["values"][item.name], found["config"] = measure(
                    net, rows[shard.row], columns, picture, item.target
                )
            except (ValueError, TypeError) as error:
                raise type(error)(f"{shard.row} on {item.name}: {error}") from error
            found["sha256"][item.name] = _checksum(item.photo)
    try:
        with whole(folder / shard.file) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, one in maps.items():
                add_map(archive, name, one)
            archive.writestr("shard.json", json.dumps(found))
    except OSError as error:
        raise StoreError(f"{folder / shard.file} could not be written ({error})") from error
    return found


def values(folder: Path, shard: Shard) -> dict:
    """What is known about each of a finished shard's pictures, but for the maps."""
    with zipfile.ZipFile(folder / shard.file) as archive:
        return json.loads(archive.read("shard.json"))


def maps(folder: Path, shard: Shard) -> Iterator[tuple[str, np.ndarray]]:
    """The maps (H, W) float32 of a finished shard, by the names of their pictures."""
    with np.load(folder / shard.file, allow_pickle=False) as archive:
        for item in shard.items:
            if item.name in archive.files:
                yield item.name, archive[item.name]


def add_map(archive: zipfile.ZipFile, name: str, one: np.ndarray) -> None:
    """As `numpy.savez_compressed` does, one map after the other, and without the time of day."""
    content = io.BytesIO()
    np.save(content, one)
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = archive.compression
    archive.writestr(info, content.getvalue())


def prepare(item: Item, preprocessing: Preprocessing, squash: int | None) -> Example:
    """A picture as the network sees it, with its boxes. ValueError or OSError where it cannot be read."""
    target = -1 if item.target is None else item.target
    if isinstance(item.photo, int):
        return example(world.scene(item.photo), preprocessing)
    if squash is None:
        return example(Picture(item.name, item.photo, target, item.boxes), preprocessing)
    photo = open_photo(item.photo)
    pixels = resize(pil_to_tensor(photo)[None].float() / 255, [squash, squash], antialias=False)
    across, down = squash / photo.width, squash / photo.height
    boxes = [(x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in item.boxes]
    box = box_masks([boxes], (squash, squash))[0]
    image = preprocessing.normalise(pixels.clamp(0, 1))[0]
    return Example(item.name, image, target, mask=box, box=box, part=torch.zeros_like(box))


def measure(
    net: nn.Module, method: Callable, columns: dict[str, Callable], picture: Example, target: int | None
) -> tuple[np.ndarray, dict[str, float], dict]:
    """The map of one picture, its facts, metrics and costs by name, and the method's choices.

    target: None explains the network's own choice, and all metrics are for that class.
    """
    device = _home(net)
    image, mask, box, part = (
        tensor[None].to(device) for tensor in (picture.image, picture.mask, picture.box, picture.part)
    )
    if "masks" in inspect.signature(method).parameters:
        method = functools.partial(method, masks=mask)
    start = _now(device)
    explanation = explain(method, net, image, None if target is None else [target])
    seconds = _now(device) - start
    given = {
        "method": method, "model": net, "images": image, "targets": explanation.targets.tolist(),
        "maps": explanation.map, "masks": mask, "boxes": box, "parts": part,
    }  # fmt: skip
    facts = (explanation.targets, explanation.scores, explanation.flat)
    found = {name: float(fact[0]) for name, fact in zip(FACTS, facts, strict=True)}
    for name, metric in columns.items():
        asked = inspect.signature(metric).parameters
        found[name] = float(metric(**{key: given[key] for key in given if key in asked}).values[0])
    found |= {"forwards": float(explanation.forwards), "seconds": seconds}
    config = {key: value if isinstance(value, (bool, int, float)) else str(value)
              for key, value in explanation.config.items()}
    return explanation.map[0].float().cpu().numpy(), found, config


_loaded: dict[str, tuple[nn.Module, dict[str, str]]] = {}    # a process computes many shards


def _load(plan: Plan, device: str, boxes: bool) -> tuple[nn.Module, dict[str, str]]:
    """The plan's network, and `_digests` of the code that is installed here."""
    key = f"{plan} {device}"
    if key not in _loaded:
        net = networks.load(plan, device)
        _loaded[key] = net, _digests(plan, net, boxes)
    return _loaded[key]


def _device(asked: str) -> str:
    """The GPU of the worker's number, as a cluster on one machine counts its workers."""
    if asked != "cuda":
        return asked
    from distributed import get_worker

    number = get_worker().name
    return f"cuda:{number % torch.cuda.device_count() if isinstance(number, int) else 0}"


def _size(photo: str | int) -> int:
    """What tells a picture from another of the same name: the file's size, -1 where there is none."""
    if isinstance(photo, int):
        return photo
    return os.path.getsize(photo) if os.path.isfile(photo) else -1


def _checksum(photo: str | int) -> str | None:
    if isinstance(photo, int):
        return None
    with open(photo, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _home(net: nn.Module) -> torch.device:
    return next(net.parameters()).device
