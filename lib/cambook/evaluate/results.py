"""From finished shards to what one reads: maps, tables, intervals, figures."""

import zipfile
from typing import TYPE_CHECKING

from .. import artefacts, metrics
from ..files import whole
from ..metrics.plot import dots
from ..metrics.storage import write as write_text
from ..models.weights import sha256
from . import shards

if TYPE_CHECKING:
    from .run import Run


def write(run: "Run") -> dict:
    """Write all results of a run whose shards are finished, and say what run.json is to say about them.

    NETWORK_METHOD.npz    maps by file name, as `artefacts.load_maps` reads them
    NETWORK_METHOD.csv    metrics by file name, as `artefacts.load_metrics` reads them
    images.parquet        all of these lines in one table
    summary.csv, .txt, .png    means with 95 % intervals over the pictures

    A picture that could not be read is in none of them.
    """
    folder, network = run.folder, run.plan.network
    by_row = {row: [shard for shard in run.shards if shard.row == row] for row in run.plan.methods}
    found = {shard.file: shards.values(folder, shard) for shard in run.shards}
    files, lines = [], {}
    for row, mine in by_row.items():
        lines[row] = {name: line for shard in mine for name, line in found[shard.file]["values"].items()}
    unreadable = {name: why for one in found.values() for name, why in one["unreadable"].items()}
    names = [item.name for item in run.items if all(item.name in of_row for of_row in lines.values())]
    notes = _notes(run, len(names), unreadable)
    if names:
        for row, mine in by_row.items():
            files.append(_write_maps(run, row, mine))
            chosen = {name: lines[row][name] for name in names}
            files.append(artefacts.save_metrics(folder, network, row, chosen))
        files.append(_write_parquet(run, names, lines))
        files += _write_summary(run, names, lines, notes)
    print("\n".join(notes))
    checksums = {name: sum_ for one in found.values() for name, sum_ in one["sha256"].items()}
    return {
        "pictures": len(names),
        "unreadable": unreadable,
        "devices": sorted({one["device"] for one in found.values()}),
        "choices": {row: next((one["config"] for s in mine if (one := found[s.file])["config"]), {})
                    for row, mine in by_row.items()},
        "files": {file.name: sha256(file) for file in files},
        "photos": checksums,
    }


def _notes(run: "Run", count: int, unreadable: dict) -> list[str]:
    """What a reader has to know before the numbers."""
    notes = []
    if run.plan.recipe:
        notes.append(f"Recipe {run.plan.recipe}.")
    if run.plan.changes:
        notes.append(f"NOT the recipe's experiment: {'; '.join(run.plan.changes)}.")
    of = run.settings["of"]
    notes.append(f"{count} pictures" + (f" of the {of} in" if of else " of") + f" {run.plan.data_set}.")
    if unreadable:
        listed = ", ".join(sorted(unreadable))
        notes.append(f"{len(unreadable)} pictures could not be read and are left out: {listed}.")
    return notes


def _write_maps(run: "Run", row: str, mine: list[shards.Shard]):
    """One map after the other: of 50,000 pictures they would not fit into memory."""
    path = artefacts.path(run.folder, run.plan.network, row, "npz")
    with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for shard in mine:
            for name, one in shards.maps(run.folder, shard):
                shards.add_map(archive, name, one)
    return path


def _write_parquet(run: "Run", names: list[str], lines: dict):
    import pandas

    frame = pandas.DataFrame([
        {"network": run.plan.network, "method": row, "image": name, **of_row[name]}
        for row, of_row in lines.items() for name in names
    ])  # fmt: skip
    path = run.folder / "images.parquet"
    with whole(path) as part:
        frame.to_parquet(part, engine="pyarrow", index=False)
    return path


def _write_summary(run: "Run", names: list[str], lines: dict, notes: list[str]) -> list:
    columns = [*run.settings["metrics"], *shards.COSTS]
    numbers = {
        row: {column: [of_row[name][column] for name in names] for column in columns}
        for row, of_row in lines.items()
    }
    table = metrics.Table.of(
        numbers,
        {
            "model": run.settings["model"] | {"network": run.plan.network},
            "rows": {row: {"control": row in metrics.controls.CONTROLS} for row in lines},
            "metrics": run.settings["metrics"],
            "images": names,
        },
    )
    paths = [run.folder / f"summary.{kind}" for kind in ("csv", "txt", "png")]
    write_text(paths[0], table.summary.to_csv(index=False))
    write_text(paths[1], "\n".join([*notes, "", repr(table), ""]))
    figure, _ = dots(table)
    with whole(paths[2]) as part:
        figure.savefig(part, format="png", dpi=150)
    print(f"{table!r}\n")
    return paths
