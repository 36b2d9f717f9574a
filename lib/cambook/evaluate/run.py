"""A run from its plan to its results, and on from where an earlier one was interrupted."""

import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from .. import __version__
from ..metrics.storage import describe_function, describe_model, digest, read, sources, write
from ..models.weights import sha256
from ..scoring import progress_bar
from . import cluster, datasets, networks, results, shards
from .plan import Plan

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "pandas", "pyarrow", "dask", "distributed")


class Run:
    """What is to be done, and what of it is done. `folder` is that of the results.

    Raises ValueError, TypeError or OSError, in one sentence, for what does not fit together, before anything
    is written.
    """

    def __init__(self, plan: Plan, data: Path, folder: Path, device: str):
        self.plan, self.folder, self.device = plan, folder, device
        found = datasets.load(plan.data_set, data, images=plan.images, seed=plan.seed)
        annotated = plan.target == "annotated"
        rows, columns = plan.rows(), plan.columns(boxes=found.boxes)
        names = datasets.choose(found, images=plan.images, seed=plan.seed, names=plan.names)
        self.net = networks.load(plan)
        count = len(self.net.classes)
        if annotated and found.classes not in (None, count):
            raise ValueError(
                f"{plan.data_set} has {found.classes} classes, and the network {count}: take a network that "
                "was trained on it, or explain the network's own choice with --target top1."
            )
        self.items = datasets.items(found, names, annotated=annotated)
        self.boxes = found.boxes
        self.shards = shards.cut(plan, self.items, self.net, boxes=found.boxes)
        self.network_bytes = sum(tensor.nbytes for tensor in self.net.state_dict().values())
        settings = {
            "network": plan.network,
            "weights": _weights(plan),
            "model": describe_model(self.net),
            "squash": plan.squash,
            "data_set": plan.data_set,
            "pictures": len(names),
            "of": None if plan.data_set == "world" else len(plan.names or found.photos),
            "chosen": digest(names),
            "seed": plan.seed,
            "target": plan.target,
            "methods": {row: _described(method) for row, method in rows.items()},
            "metrics": {row: _described(metric) for row, metric in columns.items()},
            "recipe": plan.recipe,
            "changes": plan.changes,
        }
        self.settings = json.loads(json.dumps(settings))    # as they come back from the file

    def left(self) -> list[shards.Shard]:
        """The shards that have no file yet."""
        return [shard for shard in self.shards if not shards.is_finished(self.folder, shard)]

    def go(self, *, workers: int | None = None, scheduler: str | None = None) -> None:
        """Compute what is left, and write the results. After an exception what is finished is kept.

        workers, scheduler: as in `cluster.connect`. Raises `cluster.Stopped`, and OSError for a full disk.
        """
        self._begin()
        left = self.left()
        done = len(self.shards) - len(left)
        print(f"{len(self.shards)} shards of up to {shards.SIZE} pictures, {done} of them finished before")
        if left:
            with cluster.connect(
                scheduler, workers=workers, device=self.device, network_bytes=self.network_bytes
            ) as client:
                count = len(client.scheduler_info(n_workers=-1)["workers"])
                print(f"{count} workers; dashboard: {client.dashboard_link}", flush=True)
                threads = None if scheduler else max(1, cluster.cores() // max(count, 1))
                job = shards.Job(
                    plan=dataclasses.replace(self.plan, names=None),    # it goes along with every shard
                    folder=str(self.folder.resolve()),
                    boxes=self.boxes,
                    device=self.device,
                    threads=threads,
                )
                self._spread(client, job, left)
        self._end()

    def _spread(self, client, job: shards.Job, left: list[shards.Shard]) -> None:
        count = sum(len(shard.items) for shard in left)
        with progress_bar(count, None, "explained and measured") as bar:

            def finished(shard: shards.Shard, found: dict) -> None:
                bar.update(len(shard.items))
                for name, why in found["unreadable"].items():
                    print(f"left out {name} ({shard.row}): {why}", file=sys.stderr)

            cluster.spread(client, job, left, finished)

    def _begin(self) -> None:
        """Note the settings; an older run with others is not to be mixed with this one."""
        file = self.folder / "run.json"
        older = read(file)
        if older is None and file.exists():
            raise ValueError(f"{file} is damaged: delete it, or choose another --out.")
        known = older["settings"] if older else self.settings
        differing = [key for key, value in self.settings.items() if known.get(key) != value]
        if differing:
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join(differing)}): choose another "
                "--out, or delete it."
            )
        if older is None:
            write(file, {"settings": self.settings, "environment": environment(self.device), "results": None})
        self._sweep()

    def _sweep(self) -> None:
        """Remove what processes have left that were ended while they wrote."""
        for part in (self.folder / "shards").glob("*.part"):
            part.unlink(missing_ok=True)

    def _end(self) -> None:
        self._sweep()
        summary = results.write(self)
        known = read(self.folder / "run.json") or {}
        write(self.folder / "run.json", {
            "settings": self.settings,
            "environment": known.get("environment") or environment(self.device),
            "results": summary,
        })  # fmt: skip


def environment(device: str) -> dict:
    """The machine and the versions."""
    found = {"cambook": __version__, "python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["device"] = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    return found


def _described(function: Callable) -> dict:
    """Every option, and a digest of the code."""
    return describe_function(function) | {"code": sources(function)}


def _weights(plan: Plan) -> dict:
    """The file of the weights and its checksum, or the name of torchvision's set."""
    if plan.weights and Path(plan.weights).is_file():
        return {"file": Path(plan.weights).name, "sha256": sha256(Path(plan.weights))}
    return {"set": plan.weights or "default"}
