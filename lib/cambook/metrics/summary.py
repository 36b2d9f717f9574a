"""What a table of evidence found: every value, the means with intervals, as text, HTML, figure and file."""

import csv
import functools
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .bootstrap import interval
from .plot import ORACLE, dots
from .storage import read, write

if TYPE_CHECKING:
    import pandas

COSTS = ("forwards", "seconds")
LOWER_IS_BETTER = {"average_drop", "deletion", "max_sensitivity"}
HIGHER_IS_BETTER = {
    "pointing_game", "energy_pointing_game", "energy_in_box", "energy_in_part", "relevance_rank", "increase",
    "average_gain", "average_drop_in_deletion", "adcc", "insertion", "road",
}  # fmt: skip
# Below this number of images a table says that they are few: an interval is then wide as a rule.
FEW = 100
# What two tables must have in common so that their numbers may be compared.
COMPARED = ("model", "targets", "rows", "metrics")


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """What `metrics.table` returns, and `metrics.read_table` reads.

    frame: tidy pandas data frame, one line for each method, metric and image, with the columns method,
        control (bool), metric, image, value. NaN where the metric excludes the image. Two of the metrics are
        costs, "forwards" and "seconds".
    settings: everything the numbers depend on: network, methods and metrics with every option, images; and
        the machine, for the seconds.

    Printed, and shown in a notebook, it is its table of means; `plot` draws them.
    """

    frame: "pandas.DataFrame"
    settings: dict

    @classmethod
    def of(cls, values: dict[str, dict[str, list[float]]], settings: dict) -> "Table":
        """From row → column → values, in the order of the images."""
        pandas = import_pandas()
        images = settings["images"]
        pieces = [
            pandas.DataFrame({
                "method": name, "control": settings["rows"][name]["control"], "metric": column,
                "image": images, "value": numbers,
            })
            for name, columns in values.items() for column, numbers in columns.items()
        ]  # fmt: skip
        return cls(pandas.concat(pieces, ignore_index=True), settings)

    @functools.cached_property
    def summary(self) -> "pandas.DataFrame":
        """One line for each method and metric: mean, low and high (95 % bootstrap over images), images.

        images: how many were not excluded. Of the seconds the "mean" is the median, which the first image's
        warming up does not move; costs have no interval.
        """
        pandas = import_pandas()
        lines = []
        for (method, metric), part in self.frame.groupby(["method", "metric"], sort=False):
            values = part["value"].dropna()
            low, high = (math.nan, math.nan) if metric in COSTS else interval(values)
            middle = values.median() if metric == "seconds" else values.mean()
            lines.append((method, part["control"].iloc[0], metric, middle, low, high, len(values)))
        return pandas.DataFrame(
            lines, columns=["method", "control", "metric", "mean", "low", "high", "images"]
        )

    def against(self, method: str) -> "pandas.DataFrame":
        """Every other row minus this one, image by image: method, metric, difference, low, high, images.

        The interval is that of the mean difference over the images that both have. Two rows whose own
        intervals overlap may well differ, because both find the same images hard: this is what tells.
        """
        pandas = import_pandas()
        values = self.frame[~self.frame["metric"].isin(COSTS)]
        wide = values.pivot(index=["metric", "image"], columns="method", values="value")
        _known(method, wide.columns)
        lines = []
        for metric in values["metric"].unique():
            for other in values["method"].unique():
                if other != method:
                    gaps = (wide.loc[metric, other] - wide.loc[metric, method]).dropna()
                    lines.append((other, metric, gaps.mean(), *interval(gaps), len(gaps)))
        return pandas.DataFrame(lines, columns=["method", "metric", "difference", "low", "high", "images"])

    def direction(self, metric: str) -> int:
        """1 where more is better, -1 where less is, 0 for costs and where it is not known."""
        name = self.settings["metrics"].get(metric, {}).get("function", "").rpartition(".")[2]
        return (name in HIGHER_IS_BETTER) - (name in LOWER_IS_BETTER)

    def fooled(self) -> dict[str, str]:
        """Metric → the degenerate control that does as well as the best method on it, or better."""
        found = {}
        for metric, part in self.summary.groupby("metric", sort=False):
            sign = self.direction(metric)
            part = part[(part["method"] != ORACLE) & part["mean"].notna()]
            rivals, ours = part[part["control"]], part[~part["control"]]
            if sign and len(rivals) and len(ours):
                best = rivals.loc[(sign * rivals["mean"]).idxmax()]
                if sign * best["mean"] >= (sign * ours["mean"]).max():
                    found[metric] = best["method"]
        return found

    def plot(self) -> None:
        """Display the means with their intervals, one panel for each metric."""
        from .. import show

        figure, alt = dots(self)
        show.figure(figure, alt=alt)

    def save(self, path: str | Path) -> None:
        """Write two small files: every value, with four digits, and beside it the settings (.json).

        path: of the first, which ends in .csv: one line for each method and image, one column a metric.
        """
        path = _csv(path)
        columns = list(self.frame["metric"].unique())
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["method", "image", *columns])
        wide = self.frame.pivot(index=["method", "image"], columns="metric", values="value")
        for method in self.settings["rows"]:
            for image in self.settings["images"]:
                values = wide.loc[method, image][columns]
                lines.writerow([method, image, *("" if math.isnan(v) else f"{v:.4g}" for v in values)])
        write(path.with_suffix(".json"), self.settings)
        write(path, text.getvalue())

    def beside(self, other: "Table") -> tuple[list[float], list[float]]:
        """The other table's values and this one's for the same lines, to be compared by `check`.

        other: has some of this one's rows, metrics and images, with the same network and options; else a
            ValueError says what differs. Excluded images are -1 in both lists. Costs are left out: seconds
            are never the same twice, and forwards depend on how many images are explained together.
        """
        for key in COMPARED:
            _check_same(key, self.settings[key], other.settings[key])
        keys = ["method", "metric", "image"]
        mine = self.frame.set_index(keys)["value"]
        theirs = other.frame[~other.frame["metric"].isin(COSTS)].set_index(keys)["value"]
        missing = theirs.index.difference(mine.index)
        if len(missing):
            raise ValueError(f"The stored table has no {', '.join(missing[0])}: compute it again.")
        return theirs.fillna(-1).tolist(), mine[theirs.index].fillna(-1).tolist()

    def __repr__(self) -> str:
        head, *body = self._cells()
        words = [[*name.split("_"), arrow] if arrow else name.split("_") for name, arrow in head]
        depth = max(map(len, words))
        lines = [[line[row] if row < len(line) else "" for line in words] for row in range(depth)]
        rows = [[name, *cells] for name, _, cells in body]
        table = [["", *line] for line in lines] + rows
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        written = [
            "  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in table
        ]
        first = sum(not control for _, control, _ in body) + depth
        rule = "-" * len(written[0])
        parts = [*written[:depth], rule, *written[depth:first]]
        parts += [rule, *written[first:]] if written[first:] else []
        return "\n".join(line.rstrip() for line in [*parts, "", *self._notes()])

    def _repr_html_(self) -> str:
        head, *body = self._cells()
        titles = "".join(
            f"<th scope='col'>{html.escape(name.replace('_', ' '))} {arrow}</th>" for name, arrow in head
        )
        rows, groups = "", 0
        for name, control, cells in body:
            rule = " style='border-top: 1px solid'" if control and not groups else ""
            groups += control
            bold = [f"<b>{cell[:-1]}</b>" if cell.endswith("*") else cell for cell in cells]
            written = "".join(f"<td>{cell}</td>" for cell in bold)
            rows += f"<tr{rule}><th scope='row'>{html.escape(name)}</th>{written}</tr>"
        notes = html.escape(" ".join(self._notes()).replace("* ", "bold: "))
        return f"<table><thead><tr><th></th>{titles}</tr></thead><tbody>{rows}</tbody></table><p>{notes}</p>"

    def _cells(self) -> list:
        """First (name, arrow) of each column; then each row's name, whether it is a control, and cells."""
        metrics = list(self.frame["metric"].unique())
        lines = {(line.method, line.metric): line for line in self.summary.itertuples()}
        count = len(self.settings["images"])
        rows = self.settings["rows"]
        best = {}
        for metric in metrics:
            ours = [lines[name, metric].mean for name in rows if not rows[name]["control"]]
            ours = [self.direction(metric) * mean for mean in ours if not math.isnan(mean)]
            best[metric] = max(ours, default=math.nan) if self.direction(metric) else math.nan
        body = []
        for name, row in rows.items():
            cells = []
            for metric in metrics:
                line = lines[name, metric]
                star = not row["control"] and self.direction(metric) * line.mean == best[metric]
                cells.append(_cell(line, count) + "*" * star)
            body.append((name, row["control"], cells))
        return [[(metric, {1: "↑", -1: "↓", 0: ""}[self.direction(metric)]) for metric in metrics], *body]

    def _notes(self) -> list[str]:
        model, count = self.settings["model"]["network"], len(self.settings["images"])
        notes = [
            f"{model}, {count} images. Mean ± half the width of its 95 % bootstrap interval over images;"
            " (n) where only n images count, the others being excluded.",
            "* the best method. ↑ more is better, ↓ less is better.",
        ]
        if count < FEW:
            notes.append("So few images: read the intervals, not the means.")
        fooled = ", ".join(f"{metric} ({control})" for metric, control in self.fooled().items())
        if fooled:
            notes.append(f"A degenerate control does as well as the best method, or better, on {fooled}.")
        return notes


def read_table(path: str | Path) -> Table:
    """The table that `Table.save` wrote: path.csv and path.json. FileNotFoundError, ValueError if damaged."""
    path = _csv(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no stored table {path}: `make evidence` computes the book's.")
    settings = read(path.with_suffix(".json"))
    with path.open(encoding="utf-8", newline="") as file:
        (_, _, *columns), *lines = list(csv.reader(file)) or [["", ""]]
    wanted = [[row, image] for row in (settings or {}).get("rows", {}) for image in settings["images"]]
    whole = all(len(line) == len(columns) + 2 for line in lines)
    if not wanted or not whole or [line[:2] for line in lines] != wanted:
        raise ValueError(f"{path} and its settings (.json) do not belong together: compute the table again.")
    values = {row: {column: [] for column in columns} for row in settings["rows"]}
    for row, _, *cells in lines:
        for column, cell in zip(columns, cells, strict=True):
            values[row][column].append(float(cell or "nan"))
    return Table.of(values, settings)


def import_pandas():
    """The package, which only tables need. ImportError with a sentence where it is not installed."""
    try:
        import pandas
    except ImportError:
        raise ImportError(
            'A table needs pandas: install it, or cambook with its extra "notebooks".'
        ) from None
    return pandas


def _csv(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".csv":
        raise ValueError(f"A table is stored in a file that ends in .csv, unlike {path.name!r}.")
    return path


def _cell(line, count: int) -> str:
    if math.isnan(line.mean):
        return "none"
    if line.metric in COSTS:
        return f"{line.mean:.3g}"
    few = f" ({line.images})" if line.images < count else ""
    return f"{line.mean:.3f} ±{(line.high - line.low) / 2:.3f}{few}"


def _known(method: str, names: Sequence[str]) -> None:
    if method not in names:
        raise ValueError(f"The table has no row {method!r}; it has {', '.join(names)}.")


def _check_same(key: str, mine: dict | str, theirs: dict | str) -> None:
    """What both have must be the same; of the rows and metrics, one table may have more."""
    if key in ("rows", "metrics"):
        common = mine.keys() & theirs.keys()
        mine, theirs = ({name: rows[name] for name in sorted(common)} for rows in (mine, theirs))
    if mine == theirs:
        return
    if isinstance(mine, dict):
        differing = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        key = f"{key}: {', '.join(differing)}"
    raise ValueError(
        f"The two tables were made with different settings ({key}), so their numbers do not compare: use the "
        "stored ones, or compute the stored table again."
    )
