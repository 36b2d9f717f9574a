"""The command `python -m cambook evaluate`: options in, files out, one sentence for each mistake."""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import torch

from ..explain import add_preprocessing, preprocessing
from . import cluster, cost, datasets, networks, shards
from .plan import METHODS, METRICS, TARGETS, Plan, change, read_recipe
from .run import Run

# How an unfinished run ends; 2 is for bad input, as in the other commands.
STOPPED, INTERRUPTED = 1, 130


def main(arguments: list[str]) -> int:
    """Run or estimate what the command line says; returns the exit status.

    0: all results are written. 1: stopped by the machine, the scheduler or the disk. 2: bad input. 130:
    interrupted by the user. After 1 and 130 the same command goes on where it was.
    """
    options = _parser().parse_args(arguments)
    run = None
    try:
        plan, words = _plan(options)
        run = Run(plan, _data(options), _folder(options, plan), options.device or networks.best_device())
        _introduce(run, words)
        if options.dry_run:
            _estimate(run, options)
        else:
            run.go(workers=options.workers, scheduler=options.scheduler)
            print(f"wrote {run.folder}")
        return 0
    except (ValueError, TypeError, ImportError) as problem:
        print(f"cambook: {problem}", file=sys.stderr)
        return 2
    except (cluster.Stopped, OSError) as problem:
        if run is None:
            print(f"cambook: {problem}", file=sys.stderr)
            return 2
        advice = "when that is mended, the same command goes on."
        print(f"cambook: {problem}; {advice} {_state(run)}", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt:
        state = _state(run) if run else ""
        print(f"cambook: Interrupted; the same command goes on. {state}", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cambook evaluate",
        description="Explain and measure the pictures of a data set, on all cores or GPUs. Interrupted, the "
        "same command goes on where it was.",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="a paper's protocol, from recipes/, or a TOML file; what else is given replaces what it says",
    )
    group = parser.add_argument_group("network")
    group.add_argument("--network", metavar="NAME", help="tiny_vgg (default), tiny_resnet, or of torchvision")
    group.add_argument("--weights", help="a state dict (.pth, .safetensors), or a torchvision set")
    group.add_argument("--device", help="cpu or cuda; default: cuda where there is a GPU")
    add_preprocessing(parser)
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "--squash", type=int, metavar="PIXELS", help="side of the square that all pictures are brought to"
    )
    group.add_argument("--data-set", choices=datasets.NAMES, help="default: world, the picture world")
    group.add_argument(
        "--data",
        metavar="FOLDER",
        help='where data sets lie, of the data set "folder" its pictures; default: $CAMBOOK_DATA, or data',
    )
    group.add_argument("--images", type=int, metavar="N", help="how many, drawn by the seed; default: all")
    group.add_argument("--seed", type=int, metavar="S", help="default: 0")
    group.add_argument(
        "--target", choices=TARGETS, help="the network's choice of class (default), or the annotated one"
    )
    group = parser.add_argument_group("what is computed")
    group.add_argument("--methods", nargs="+", metavar="NAME", help=", ".join(METHODS))
    group.add_argument("--metrics", nargs="+", metavar="NAME", help=", ".join(METRICS))
    group.add_argument(
        "--out", metavar="FOLDER", help="default: results/RECIPE, or results/DATASET-NETWORK without one"
    )
    group.add_argument("--dry-run", action="store_true", help="only say what it would cost")
    group = parser.add_argument_group("Dask")
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes on this machine; default: one a GPU, or one a core as far as memory goes",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a cluster that is there, such as tcp://host:8786; its workers must see the data and --out "
        "under the same paths",
    )
    return parser


def _plan(options: argparse.Namespace) -> tuple[Plan, dict]:
    plan, words = read_recipe(options.recipe) if options.recipe else (Plan(), {})
    plan = change(
        plan,
        network=options.network,
        weights=_absolute(options.weights),
        preprocessing=preprocessing(options) or None,
        squash=options.squash,
        data_set=options.data_set,
        images=options.images,
        seed=options.seed,
        target=options.target,
        methods=_rows(options.methods),
        metrics=_rows(options.metrics),
    )
    return dataclasses.replace(plan, weights=networks.stored(plan, _data(options))), words


def _absolute(weights: str | None) -> str | None:
    """A file's path as workers need it, which run in folders of their own; a set's name as it is."""
    return os.path.abspath(weights) if weights and os.path.exists(weights) else weights


def _rows(names: list[str] | None) -> dict[str, dict] | None:
    return None if names is None else {name: {} for name in names}


def _data(options: argparse.Namespace) -> Path:
    return Path(options.data or os.environ.get("CAMBOOK_DATA") or "data").resolve()


def _folder(options: argparse.Namespace, plan: Plan) -> Path:
    name = Path(options.recipe).stem if options.recipe else f"{plan.data_set}-{plan.network}"
    return Path(options.out or Path("results") / name)


def _introduce(run: Run, words: dict) -> None:
    plan = run.plan
    for line in (words.get("title"), words.get("paper")):
        if line:
            print(line)
    for what in words.get("unknown", []):
        print(f"unknown: {what}")
    if plan.changes:
        print(f"NOT the recipe's experiment: {'; '.join(plan.changes)}")
    print(
        f"{len(run.items)} pictures of {plan.data_set}, {plan.network}, {plan.target} class; "
        f"methods: {', '.join(plan.methods)}; metrics: {', '.join(run.settings['metrics'])}"
    )


def _estimate(run: Run, options: argparse.Namespace) -> None:
    """Print images, passes and hours, from a few timed passes of the first picture that can be read."""
    workers = options.workers or cluster.default_workers(run.device, run.network_bytes)
    if run.device == "cpu":
        torch.set_num_threads(max(1, cluster.cores() // workers))
    net = run.net.to(run.device)
    picture = shards.prepare(run.items[0], net.preprocessing, run.plan.squash)
    image = picture.image[None].to(run.device)
    once, both = cost.seconds(net, image)
    rows = cost.of_plan(run.plan, cost.channels(net, image), boxes=run.boxes)
    count, left = len(run.items), len(run.left()) / len(run.shards)

    def hours(passes: cost.Passes) -> float:
        return (passes.forwards * once + passes.backwards * both) / workers / 3600

    for row, passes in rows.items():
        all_ = passes * count
        print(f"  {row:<24} {all_.forwards + all_.backwards:>14,.0f} forwards  {hours(all_):>10.2f} hours")
    total = sum(rows.values(), cost.Passes()) * count
    passes = total.forwards + total.backwards
    print(
        f"{count} pictures, at most {passes:,.0f} forwards ({total.backwards:,.0f} of them also backwards): "
        f"about {hours(total):.2f} hours with {workers} workers on this {run.device}, of which {left:.0%} "
        "are left\n"
        f"(measured: {once * 1000:.1f} ms forwards, {both * 1000:.1f} ms forwards and backwards, "
        f"{image.shape[-1]}x{image.shape[-2]} pixels)"
    )


def _state(run: Run) -> str:
    finished = len(run.shards) - len(run.left())
    return f"{finished} of {len(run.shards)} shards are finished and kept in {run.folder}."
