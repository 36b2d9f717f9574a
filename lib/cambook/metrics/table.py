"""The evidence table: methods and degenerate controls × metrics, image by image."""

import functools
import inspect
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import __version__
from ..explanation import Explanation
from ..models import Preprocessing
from ..scoring import progress_bar
from ..world import Scene
from ._again import check_method, explain
from .confidence import average_drop, increase
from .controls import CONTROLS
from .ground_truth import Example, Picture, example
from .localisation import EnergyResult, energy_pointing_game, pointing_game
from .storage import describe_function, describe_model, digest, read, sources, unwrap, write
from .summary import Table, import_pandas

# Scenes that are explained together, and lost together when a table is interrupted.
CHUNK = 10
# What a metric may ask for by the names of its parameters.
GIVEN = ("method", "model", "images", "targets", "maps", "masks", "boxes", "parts")


def energy_in_part(maps: Tensor, parts: Tensor) -> EnergyResult:
    """Which share of the map's sum lies on what distinguishes the class from its sibling?

    As `energy_pointing_game`, with parts (B, H, W) bool in the masks' place: images whose class has no such
    part are excluded.
    """
    return energy_pointing_game(maps, parts)


def energy_in_box(maps: Tensor, boxes: Tensor) -> EnergyResult:
    """Which share of the map's sum lies in the objects' boxes?

    As `energy_pointing_game`, with boxes (B, H, W) bool, filled, in the masks' place: what papers report,
    whose pictures have no masks.
    """
    return energy_pointing_game(maps, boxes)


METRICS = (pointing_game, energy_pointing_game, energy_in_part, average_drop, increase)


def table(
    model: nn.Module,
    methods: Sequence[Callable[..., Explanation]] | Mapping[str, Callable[..., Explanation]],
    scenes: Sequence[Scene | Picture],
    *,
    metrics: Sequence[Callable] | Mapping[str, Callable] = METRICS,
    controls: bool = True,
    cache: str | Path | None = None,
    progress: bool | None = None,
) -> Table:
    """Every method on every scene, measured by every metric. The class is the annotated one, not the top-1.

    model: from `models.load`, whose `preprocessing` makes the inputs.
    methods: functions of `cambook.methods`, or name → function; options by functools.partial.
    scenes: of the picture world, or `Picture`s with boxes; all of one size in the network's input.
    metrics: functions, or name → function; options by functools.partial. A metric gets what its parameters
        name: maps, masks, boxes (filled), parts (that distinguish sibling classes), model, images, targets,
        method. By default the pointing game, the energy in the mask and in the part, drop and increase.
        Where no scene has a distinguishing part, a metric of parts is left out.
    controls: also all degenerate maps of `metrics.controls`, among them the exact mask. With False those that
        are among the methods.
    cache: a folder that keeps one small file for each row and ten scenes, so that an interrupted table goes
        on where it was, and tables share what they have in common. A file is taken only for the same network,
        options, scenes and code. None keeps nothing.
    progress: as in `scoring.masked_scores`.

    Beside the metrics, each image has "forwards" (images that the method alone sent through the network) and
    "seconds" (on this machine), both the mean of the ten images that were explained together.
    Needs pandas. Raises ValueError or TypeError, in one sentence, for what does not fit.
    """
    if not isinstance(getattr(model, "preprocessing", None), Preprocessing):
        raise ValueError("The model has no preprocessing of cambook's: pass it through models.load first.")
    import_pandas()    # not only when an hour's work is done
    rows = _named("method", methods)
    for name in set(rows) & set(CONTROLS):
        if rows[name] is not CONTROLS[name]:
            raise ValueError(f"A method is called {name!r} like a control: give it another name.")
    rows |= CONTROLS if controls else {}
    for method in rows.values():
        check_method(method)
    examples = _examples(scenes, model.preprocessing)
    columns = _columns(metrics, any(one.part.any() for one in examples))
    chunks = [examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK)]
    kept = _Cache(cache, model, columns, chunks) if cache else None

    measured: dict[str, list[dict]] = {}
    with progress_bar(len(rows) * len(examples), progress, "explained and measured") as bar:
        for name, method in rows.items():
            files = kept.files(name, method) if kept else [None] * len(chunks)
            measured[name] = []
            for chunk, file in zip(chunks, files, strict=True):
                part = read(file) if file else None
                if part is None:
                    part = _measure(model, method, columns, chunk)
                    if file:
                        write(file, part)
                measured[name].append(part)
                bar.update(len(chunk))

    settings = {
        "model": describe_model(model),
        "targets": "annotated",
        "rows": {
            name: describe_function(method)
            | {"control": name in CONTROLS, "config": measured[name][0]["config"]}
            for name, method in rows.items()
        },
        "metrics": {name: describe_function(metric) for name, metric in columns.items()},
        "chunk": CHUNK,
        "images": [one.name for one in examples],
        "environment": {
            "cambook": __version__,
            "torch": torch.__version__,
            "device": str(_device(model)),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
    values = {
        name: {column: sum((part["values"][column] for part in parts), []) for column in parts[0]["values"]}
        for name, parts in measured.items()
    }
    return Table.of(values, settings)


def _named(what: str, functions: Sequence[Callable] | Mapping[str, Callable]) -> dict[str, Callable]:
    """Functions by name: the caller's, or their own."""
    if callable(functions):
        raise TypeError(f"The {what}s are a list of functions or a dict of them: for one, write [{what}].")
    if isinstance(functions, Mapping):
        named = dict(functions)
    else:
        named = {unwrap(function).__name__: function for function in functions}
        if len(named) < len(functions):
            raise ValueError(f"Two {what}s have the same name: give them as a dict, name → {what}.")
    if not named:
        raise ValueError(f"There is no {what}: give at least one.")
    return named


def _columns(metrics: Sequence[Callable] | Mapping[str, Callable], with_parts: bool) -> dict[str, Callable]:
    columns = {}
    for name, metric in _named("metric", metrics).items():
        parameters = inspect.signature(metric).parameters
        unknown = [p.name for p in parameters.values() if p.default is p.empty and p.name not in GIVEN]
        if unknown or not {"maps", "method"} & set(parameters):
            raise TypeError(
                f"The metric {name!r} must take maps or method, and beside what has a default only some of "
                f"{', '.join(GIVEN)}."
            )
        if with_parts or "parts" not in parameters:
            columns[name] = metric
    return columns


def _examples(scenes: Sequence[Scene | Picture], preprocessing: Preprocessing) -> list[Example]:
    examples = [example(item, preprocessing) for item in scenes]
    if not examples:
        raise ValueError("There is no scene: give at least one.")
    if len({one.name for one in examples}) < len(examples):
        raise ValueError("Two scenes have the same name, so that their lines could not be told apart.")
    sizes = {tuple(one.image.shape[1:]) for one in examples}
    if len(sizes) > 1:
        raise ValueError(
            f"The pictures have several sizes in the network's input, {sorted(sizes)}: give the network a "
            "preprocessing with a crop."
        )
    return examples


def _measure(
    model: nn.Module, method: Callable[..., Explanation], columns: dict[str, Callable], chunk: list[Example]
) -> dict:
    """Values of all columns for the images of one chunk, and the choices that the method reports."""
    device = _device(model)
    images, masks, boxes, parts = (
        torch.stack([getattr(one, field) for one in chunk]).to(device)
        for field in ("image", "mask", "box", "part")
    )
    targets = [one.target for one in chunk]
    if "masks" in inspect.signature(method).parameters:
        method = functools.partial(method, masks=masks)
    start = _now(device)
    explanation = explain(method, model, images, targets)
    seconds = _now(device) - start
    values = (method, model, images, targets, explanation.map, masks, boxes, parts)
    given = dict(zip(GIVEN, values, strict=True))
    found = {}
    for name, metric in columns.items():
        asked = inspect.signature(metric).parameters
        found[name] = metric(**{key: given[key] for key in GIVEN if key in asked}).values.tolist()
    found["forwards"] = [explanation.forwards / len(chunk)] * len(chunk)
    found["seconds"] = [seconds / len(chunk)] * len(chunk)
    return {"values": found, "config": {key: _plain(value) for key, value in explanation.config.items()}}


def _plain(value):
    """As it comes back from a file, so that a table does not show what was kept and what was computed."""
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _device(model: nn.Module) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def _now(device: torch.device) -> float:
    if device.type == "cuda":    # or the clock would stop before the device has
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Cache:
    """Where the values of each row and chunk are kept, by everything that they depend on."""

    def __init__(self, folder: str | Path, model: nn.Module, columns: dict, chunks: list[list[Example]]):
        self.folder = Path(folder)
        self.shared = [
            describe_model(model),
            str(model),    # the layers; not in the settings, because the text changes with torch's versions
            {name: [describe_function(metric), sources(metric)] for name, metric in columns.items()},
        ]
        self.chunks = [
            digest(*(x for one in chunk for x in (one.image, one.target, one.mask, one.box, one.part)))
            for chunk in chunks
        ]

    def files(self, name: str, method: Callable) -> list[Path]:
        row = [*self.shared, describe_function(method), sources(method)]
        readable = re.sub(r"\W+", "-", name)
        return [self.folder / f"{readable}-{digest(*row, chunk)}.json" for chunk in self.chunks]
