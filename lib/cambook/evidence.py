"""The book's tables of evidence: what each chapter claims, on the same pictures for all chapters.

`make evidence` computes and stores them in evidence/. A notebook shows the stored table and computes a few of
its lines again:

    stored = evidence.stored("03_gig_path", "tiny_vgg")    # shows itself as a table; stored.plot() draws it
    check("its first scenes", *evidence.again("03_gig_path", "tiny_vgg"), atol=evidence.TOLERANCE)

A chapter takes part by an entry in `CHAPTERS`.
"""

import csv
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from . import methods, metrics, models, world
from .explanation import Explanation
from .metrics.table import METRICS
from .rows import gig_cam_f_by, increment_cam_by, poly_cam_by, union_cam_by

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "evidence"
NETWORKS = ("tiny_vgg", "tiny_resnet")
# The network for the real pictures, and its weights among them.
REAL_NETWORK, REAL_WEIGHTS = "squeezenet1_1", "models/squeezenet1_1_onnxzoo-a4caa091.pth"
FIRST_SEED = 70_000_000    # far from the scenes of the training, of the networks' tests and of the book
COUNT = 300
# What another machine's rounding may change in a value, of which four digits are stored.
TOLERANCE = 0.01

Rows = Mapping[str, Callable[..., Explanation]]
# Few steps: of a single scene the area differs from that of 224 by up to 0.03, in the mean of 12 by 0.002.
CURVES = (
    functools.partial(metrics.insertion, steps=32),
    functools.partial(metrics.deletion, steps=32),
)
# What the papers of GIG-CAM and its fusion report; and the energy in the exact masks, which photos lack.
LOCALISATION = (
    metrics.pointing_game,
    metrics.energy_in_box,
    metrics.energy_pointing_game,
    metrics.average_drop,
    metrics.increase,
)
# All that ask the network at most twice about a map.
CHEAP = (
    metrics.pointing_game,
    metrics.energy_pointing_game,
    metrics.energy_in_part,
    metrics.relevance_rank,
    metrics.average_drop,
    metrics.increase,
    metrics.average_gain,
    metrics.average_drop_in_deletion,
)
# The other readings of GIG-CAM, in a fifth of its 50 steps: in 50 they would take a core two hours. GIG-CAM
# itself stands beside them with both, because an adaptive path with fewer steps is another path.
GIG_CAM_IN_10 = functools.partial(methods.gig_cam, steps=10)
# A straight path stays straight in fewer steps: those of 10 and 50 agree to 0.01 in all means.
INTEGRATED_GRAD_CAM_IN_10 = functools.partial(methods.integrated_grad_cam, steps=10)

POLY_CAMS = {
    **{f"pcam_{variant}": functools.partial(poly_cam_by, variant=variant) for variant in ("plus", "minus", "pm")},
    "pcam_pm_without_lnorm": functools.partial(poly_cam_by, lnorm=False),
}

# Of the pictures in phase 2, as a share of the input's; None is the activations' own, of the abstract.
INCREMENT_SIDES = {"activation": None, "quarter": 0.25, "half": 0.5, "input": 1}


@dataclass(frozen=True)
class Chapter:
    """methods, metrics and controls as in `metrics.table`; count of the pictures."""

    methods: Rows
    metrics: Sequence[Callable] = METRICS
    count: int = COUNT
    controls: bool = True


def _rows(*functions: Callable, **more: Callable) -> Rows:
    return {function.__name__: function for function in functions} | more


CHAPTERS = {
    "01_cam_and_grad_cam": Chapter(_rows(methods.grad_cam, methods.grad_cam_pp, methods.layer_cam)),
    "02_score_cam": Chapter(
        _rows(
            methods.grad_cam,
            methods.score_cam,
            score_cam_probabilities=functools.partial(methods.score_cam, score="probability"),
            score_cam_code=functools.partial(methods.score_cam, weighting="probability"),
        ),
        # Three rows of Score-CAM show tiny_resnet 1,500 masked pictures for every scene.
        count=100,
    ),
    "03_gig_path": Chapter(
        {
            "grad_cam": methods.grad_cam,
            "integrated_grad_cam": INTEGRATED_GRAD_CAM_IN_10,
            "straight_A2": functools.partial(GIG_CAM_IN_10, fraction=1.0),
            "gig_cam": methods.gig_cam,
            "gig_cam_in_10": GIG_CAM_IN_10,
            **{
                f"guide_{guide}": functools.partial(GIG_CAM_IN_10, guide=guide)
                for guide in ("input_grad_pixel", "cam_low", "cam_high", "features")
            },
            **{
                f"sum_{accumulation}": functools.partial(GIG_CAM_IN_10, accumulation=accumulation)
                for accumulation in ("A1", "A2e", "A4")
            },
        },
        LOCALISATION,
    ),
    "04_multi_scale_fusion": Chapter(
        {
            "grad_cam": methods.grad_cam,
            "gig_cam": methods.gig_cam,
            "gig_cam_in_10": GIG_CAM_IN_10,
            **{
                f"fusion_{fusion}": functools.partial(gig_cam_f_by, fusion=fusion, steps=10)
                for fusion in ("res", "prod", "pow", "ratio", "lap", "avg")
            },
            "fusion_res_quarter": functools.partial(gig_cam_f_by, fusion="res", strength=0.25, steps=10),
            # The original scale three times: what the rule does to a map that learns nothing new.
            **{
                f"itself_{fusion}": functools.partial(
                    gig_cam_f_by, fusion=fusion, steps=10, scales=(1, 1, 1)
                )
                for fusion in ("res", "prod")
            },
        },
        LOCALISATION,
    ),
    "05_increment_cam": Chapter(
        {
            "grad_cam": methods.grad_cam,
            "score_cam": methods.score_cam,
            **{
                f"{name}_{merge}": functools.partial(increment_cam_by, side=side, merge=merge)
                for name, side in INCREMENT_SIDES.items()
                for merge in ("maps", "weights", "multiplicative", "self_scored")
            },
            # Phase 2 alone: what the small picture still tells.
            **{
                f"{name}_phase2": functools.partial(increment_cam_by, side=side, lam=0)
                for name, side in INCREMENT_SIDES.items()
            },
            **{
                f"half_{regularise}": functools.partial(increment_cam_by, side=0.5, regularise=regularise)
                for regularise in ("gaussian", "shrink")
            },
            # The other way to a quarter of the cost.
            "few_channels_maps": functools.partial(increment_cam_by, side=1, channels=0.25),
            "few_channels_phase2": functools.partial(increment_cam_by, side=1, channels=0.25, lam=0),
        },
    ),
    "06_poly_cam": Chapter(
        {
            "grad_cam": methods.grad_cam,
            "grad_cam_pp": methods.grad_cam_pp,
            "layer_cam": methods.layer_cam,
            "score_cam": methods.score_cam,
            "integrated_gradients": methods.integrated_gradients,
            "guided_ig": functools.partial(methods.guided_ig, steps=50),
            "integrated_grad_cam": INTEGRATED_GRAD_CAM_IN_10,
            "gig_cam_in_10": GIG_CAM_IN_10,
            "fusion_res": functools.partial(gig_cam_f_by, fusion="res", steps=10),
            "increment_cam_half": functools.partial(increment_cam_by, side=0.5, merge="maps"),
            **POLY_CAMS,
        },
        (
            *METRICS,
            functools.partial(metrics.insertion, protocol="polycam", steps=16),
            functools.partial(metrics.deletion, protocol="polycam", steps=16),
        ),
    ),
    # What 16 steps blur: of a map of thin lines most of the curve happens in the first of them. The rows that the
    # chapter compares, in the protocol's own 224 steps, which take fourteen times as long.
    "06_poly_cam_all_steps": Chapter(
        _rows(methods.grad_cam, methods.score_cam) | POLY_CAMS,
        (
            functools.partial(metrics.insertion, protocol="polycam"),
            functools.partial(metrics.deletion, protocol="polycam"),
        ),
        # 300 scenes would take a core three hours.
        count=100,
        controls=False,
    ),
    "07_union_cam": Chapter(
        {
            "grad_cam": methods.grad_cam,
            **{name: functools.partial(union_cam_by, pick=name) for name in ("score_cam", "denoised", "fused")},
            "union_cam": union_cam_by,
            # The reading of the denoising that does something, at the percentile of Group-CAM.
            "denoised_map_70": functools.partial(union_cam_by, pick="denoised", denoise="map", theta=70),
            "union_cam_map_70": functools.partial(union_cam_by, denoise="map", theta=70),
            "fusion_cam": functools.partial(union_cam_by, method=methods.fusion_cam),
        },
        (
            *METRICS,
            functools.partial(metrics.insertion, steps=16),
            functools.partial(metrics.deletion, steps=16),
        ),
    ),
    # Without Score-CAM, which has chapter 02: to explain six times for its sensitivity would take longer than
    # all other rows together.
    "08_measuring_explanations": Chapter(
        _rows(methods.grad_cam, methods.grad_cam_pp, methods.layer_cam),
        (
            *CHEAP,
            metrics.adcc,
            *CURVES,
            functools.partial(metrics.road, fractions=(0.2, 0.5)),
            functools.partial(metrics.max_sensitivity, samples=5),
        ),
        # Ten scenes of each kind: curves, filled holes and draws take a core 7 to 10 seconds a scene.
        count=30,
    ),
    # Each method by itself, nothing shared, so that the seconds are its own.
    "09_side_by_side": Chapter(
        _rows(methods.grad_cam, methods.grad_cam_pp, methods.layer_cam, methods.score_cam)
        | {"integrated_grad_cam": INTEGRATED_GRAD_CAM_IN_10}
        | _rows(methods.gig_cam, methods.gig_cam_f)
        | {"increment_cam": functools.partial(increment_cam_by, side=0.5)}
        | _rows(methods.poly_cam, methods.union_cam, methods.fusion_cam),
        # Without ADCC and the sensitivity, which explain again: every method two times and eleven times.
        (
            *CHEAP,
            functools.partial(metrics.insertion, steps=16),
            functools.partial(metrics.deletion, steps=16),
            functools.partial(metrics.road, fractions=(0.2,)),
        ),
        # Ten scenes of each kind: the methods that ask about every channel take a core most of a minute a scene.
        count=30,
    ),
}


def networks(real: Path | None = None) -> list[str]:
    """Those that have tables: the embedded ones, and the one for real pictures if their folder is given."""
    return [*NETWORKS, REAL_NETWORK] if real else list(NETWORKS)


def load(network: str, real: Path | None = None) -> nn.Module:
    """The network with this name; the one for real pictures needs their folder. ValueError for another."""
    if network in NETWORKS:
        return models.load(network)
    if network == REAL_NETWORK and real:
        return models.load(network, real / REAL_WEIGHTS)
    raise ValueError(f"There are tables for {', '.join(networks(real))}, not for {network!r}.")


def pictures(network: str, numbers: Sequence[int], real: Path | None = None) -> list:
    """The pictures of these numbers from those that a network's tables are computed on.

    Of the real pictures, which are few, those that there are.
    """
    if network == REAL_NETWORK:
        every = real_pictures(real)
        return [every[number] for number in numbers if number < len(every)]
    return [scene(number) for number in numbers]


def scene(number: int) -> world.Scene:
    """The tables' scene of this number: in turn with one class, with two, and with two siblings.

    Explained is the first class. Where a second one is there, a map that only says "object" has half of its
    energy on the wrong one.
    """
    seed = FIRST_SEED + number
    if number % 3 == 0:
        return world.scene(seed)
    return world.two_class_scene(seed, siblings=number % 3 == 2)


def real_pictures(folder: Path) -> list[metrics.Picture]:
    """The pictures in folder/imagenet_val with the boxes of its index.csv; few, so with wide intervals."""
    with (folder / "imagenet_val" / "index.csv").open(encoding="utf-8", newline="") as file:
        return [
            metrics.Picture(
                name=Path(row["file"]).stem,
                photo=folder / "imagenet_val" / row["file"],
                target=int(row["class"]),
                boxes=json.loads(row["boxes_xyxy"]),
            )
            for row in csv.DictReader(file)
        ]


def compute(
    chapter: str,
    network: str,
    count: int | None = None,
    *,
    real: Path | None = None,
    cache: Path | None = None,
    progress: bool | None = None,
) -> metrics.Table:
    """A chapter's table on the network's first `count` pictures; None: the chapter's own number of them.

    cache, progress: as in `metrics.table`.
    """
    entry, model = _entry(chapter), load(network, real)
    scenes = pictures(network, range(entry.count if count is None else count), real)
    return metrics.table(
        model,
        entry.methods,
        scenes,
        metrics=entry.metrics,
        controls=entry.controls,
        cache=cache,
        progress=progress,
    )


def path(chapter: str, network: str, folder: Path = FOLDER) -> Path:
    """Where a table is stored; its settings lie beside it, in the same name with .json."""
    return folder / f"{chapter}.{network}.csv"


def stored(chapter: str, network: str, folder: Path = FOLDER) -> metrics.Table:
    """The stored table; FileNotFoundError where it was not computed yet, ValueError where it is damaged."""
    _entry(chapter)
    return metrics.read_table(path(chapter, network, folder))


def again(
    chapter: str,
    network: str,
    numbers: Sequence[int] = (0, 1, 2),
    rows: Sequence[str] | None = None,
    *,
    real: Path | None = None,
    folder: Path = FOLDER,
) -> tuple[list[float], list[float]]:
    """A few lines of a stored table, computed again, and as they are stored; for `check`, within `TOLERANCE`.

    numbers: of the pictures. rows: methods and controls by name; None for all. Excluded images are -1. Raises
    ValueError for a row that the chapter has not, and where the stored table was made with another network,
    or with other options of a method or metric, than the book has today.
    """
    entry, kept = _entry(chapter), stored(chapter, network, folder)
    every = {**entry.methods, **metrics.controls.CONTROLS}
    unknown = set(rows or ()) - set(every)
    if unknown:
        raise ValueError(f"The table of {chapter} has no row {sorted(unknown)}; it has {', '.join(every)}.")
    found = metrics.table(
        load(network, real),
        {name: every[name] for name in rows or every},
        pictures(network, numbers, real),
        metrics=entry.metrics,
        controls=False,
        progress=False,
    )
    return kept.beside(found)


def _entry(chapter: str) -> Chapter:
    if chapter not in CHAPTERS:
        raise ValueError(f"No chapter with a table is called {chapter!r}; there are {', '.join(CHAPTERS)}.")
    return CHAPTERS[chapter]
