"""What a run is made of: from a recipe's file and the command line to functions and settings."""

import dataclasses
import functools
import hashlib
import inspect
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .. import methods, metrics
from ..metrics.controls import CONTROLS

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
METHODS: dict[str, Callable] = {name: getattr(methods, name) for name in methods.__all__} | CONTROLS
METRICS: dict[str, Callable] = {
    name: getattr(metrics, name)
    for name in (
        "pointing_game", "energy_pointing_game", "energy_in_box", "energy_in_part", "relevance_rank",
        "average_drop", "increase", "average_gain", "average_drop_in_deletion", "adcc",
        "insertion", "deletion", "road", "max_sensitivity",
    )
}  # fmt: skip
# What a metric has to be given that only annotated pictures have.
TRUTH = {"masks", "boxes", "parts"}
TARGETS = ("top1", "annotated")
# A recipe's own words, which no setting follows from.
WORDS = ("title", "paper", "known", "unknown")


@dataclass(frozen=True)
class Plan:
    """One network on one data set.

    network, weights, preprocessing: as in `models.load`. squash: side in pixels to which pictures are brought
        first whatever their shape, as tensors and without antialiasing; None keeps their shape.
    data_set, images, seed: as in `datasets`. names: of the pictures to draw from. target: "top1" or
        "annotated".
    methods, metrics: row → {"method" or "metric": its name where the row is called otherwise, and options}.
    recipe: the name of the recipe that the plan began with; changes: what it no longer has from it.
    """

    network: str = "tiny_vgg"
    weights: str | None = None
    preprocessing: dict = field(default_factory=dict)
    squash: int | None = None
    data_set: str = "world"
    images: int | None = None
    seed: int = 0
    names: tuple[str, ...] | None = None
    target: str = "top1"
    methods: dict[str, dict] = field(default_factory=lambda: {"grad_cam": {}})
    metrics: dict[str, dict] | None = None
    recipe: str | None = None
    changes: tuple[str, ...] = ()

    def rows(self) -> dict[str, Callable]:
        """The methods, with their options, by their rows' names. ValueError for an unknown name or option."""
        return _functions("method", METHODS, self.methods)

    def columns(self, *, boxes: bool) -> dict[str, Callable]:
        """The metrics in the same way. boxes: whether the data set has some, which some metrics need."""
        chosen = self.metrics
        if chosen is None:
            names = ["average_drop", "increase", "insertion", "deletion"]
            chosen = {name: {} for name in (["pointing_game", "energy_in_box"] if boxes else []) + names}
        columns = _functions("metric", METRICS, chosen)
        need = [name for name, metric in columns.items() if TRUTH & set(inspect.signature(metric).parameters)]
        if need and not boxes:
            raise ValueError(
                f"{', '.join(need)} cannot be measured, because the pictures of {self.data_set} have no "
                "boxes: choose other --metrics."
            )
        return columns


def read_recipe(name: str) -> tuple[Plan, dict]:
    """A recipe by its name in recipes/, or by the path of its file; and its words for the reader.

    Raises FileNotFoundError for an unknown name, ValueError for a file that is no recipe.
    """
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in RECIPES.glob("*.toml")))
        known = f"choose one of {known}" if known else "the papers' are in the project's folder recipes"
        raise FileNotFoundError(f"There is no recipe {path}: {known}; or give the path of a file (.toml).")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"The recipe {path} is no TOML: {error}.") from None
    words = {key: content.pop(key) for key in WORDS if key in content}
    names = content.pop("pictures", None)
    if names is not None:
        content["names"] = tuple((path.parent / names).read_text(encoding="utf-8").split())
    settable = {one.name for one in dataclasses.fields(Plan)} - {"recipe", "changes", "names"}
    unknown = set(content) - settable - {"names"}
    if unknown:
        raise ValueError(f"The recipe {path} says {', '.join(sorted(unknown))}, but a recipe has only "
                         f"{', '.join(sorted(settable | {'pictures', *WORDS}))}.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Plan(**content, recipe=f"{path.stem} (sha256 {digest[:16]})"), words


def change(plan: Plan, **given) -> Plan:
    """The plan with what the command line gives (None: nothing), and what it so departs from its recipe.

    What only goes with what was changed goes, too: another network has other weights, preprocessing and
    layers, another data set other file names.
    """
    given = {key: value for key, value in given.items() if value is not None}
    said = tuple(
        f"{key.replace('_', ' ')} {_short(value)}" + (f" instead of {_short(old)}" if old else "")
        for key, value in given.items() if value != (old := getattr(plan, key))
    )
    if given.get("network", plan.network) != plan.network:
        without_layers = {
            row: {key: value for key, value in options.items() if key != "layers"}
            for row, options in plan.methods.items()
        }
        plan = dataclasses.replace(plan, weights=None, preprocessing={}, methods=without_layers)
    if given.get("data_set", plan.data_set) != plan.data_set:
        plan = dataclasses.replace(plan, names=None)
    return dataclasses.replace(plan, **given, changes=said if plan.recipe else ())


def _short(value) -> str:
    return ", ".join(value) if isinstance(value, dict) else str(value)


def _functions(kind: str, known: dict[str, Callable], rows: dict[str, dict]) -> dict[str, Callable]:
    found = {}
    for row, options in rows.items():
        options = dict(options)
        name = options.pop(kind, row)
        if name not in known:
            raise ValueError(f"There is no {kind} {name!r}: choose among {', '.join(known)}.")
        parameters = inspect.signature(known[name]).parameters
        # All metrics name what they are given without a default; the rest are choices.
        choices = {key for key, parameter in parameters.items() if parameter.default is not parameter.empty}
        if set(options) - choices:
            raise ValueError(f"{name} has no option {', '.join(sorted(set(options) - choices))}: it has "
                             f"{', '.join(sorted(choices - {'targets'}))}.")
        if options.get("score") == "sigmoid":    # of networks with a yes or no for each class
            options["score"] = torch.sigmoid
        if "progress" in choices:    # one bar for the run, none for each map
            options["progress"] = False
        found[row] = functools.partial(known[name], **options)
    return found
