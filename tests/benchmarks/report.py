"""What the benchmarks found, as a table, a chart, and BENCHMARKS.md."""

import json
import statistics
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness import COPY

ROOT = Path(__file__).parent.parent.parent
RESULTS = Path(__file__).parent / "results"
DEVICES = {"cpu": "CPU", "cuda": "CUDA"}
OURS, THEIRS = "#33638d", "#c9c9c9"

HEAD = """# Benchmarks

How fast cambook is, beside the libraries that one would use instead. `make bench` measures again on your
machine, and `make bench ARGS="--store"` writes this page. Medians of interleaved rounds, smallest and largest
in brackets. "Forwards" are the images that went through the network in one call, whoever sent them. A rival
with a batch size is timed at several, and the ratio is against the fastest line that is not ours.

What falls short, and why. Score-CAM and the curves are passes through the network and next to nothing else:
on a CPU four fifths of the time are oneDNN's convolutions (torch's profiler). What the engine can still do is
to keep the threads from waiting for each other: whole chunks go side by side, a thread each, where torch
shares out every layer. That is why it takes less than the bare passes in torch's own way (first row). The rest
is the network, and only a faster one would help, which is what “fast” asks of devices with instructions for half
precision; the CPU below has none. Folding batch normalisation into the convolutions gave 2 to 13 %, TorchScript's
`optimize_for_inference` no more, `torch.compile` with frozen weights 18 % after 20 s of compiling; all of them need to
trace the caller's network. Guided IG is 1.65 times (ResNet-18) and 2.75 times (`tiny_vgg`) as fast as saliency, where 4
was wanted: all that saliency takes is 1.9 and 4.1 times the bare passes forwards and backwards of a batch, and those
both need (`path_engine`).
The machine is shared: a bare pass of ResNet-18 took between 21 and 38 ms a picture within ten
minutes, so a difference of a tenth means little. Of the kernels, the CPU runs the plain references: they are there to be
right everywhere. `weighted_sum` is slower than its three plain calls because it also sees to constant maps.
"""


def ratio(row: dict, name: str) -> float | None:
    """How the contender of ours called `name` compares with the best of the others, as the row wants it."""
    medians = {key: statistics.median(value["figures"]) for key, value in row["results"].items()}
    others = [value for key, value in medians.items() if key not in (*row["ours"], COPY)]
    if not others:
        return None
    best = min(others)
    return medians[name] / best if row["ratio"] == "ours / theirs" else best / medians[name]


def table(name: str, row: dict) -> str:
    """One row of the benchmark as a Markdown table."""
    unit = {"seconds": "s", "megabytes": "MB"}[row["measures"]]
    lines = [f"**{row['title']}** (`{name}`; wanted: {row['goal']})", "",
             f"| | {unit} | forwards | {row['ratio']} |", "|---|---:|---:|---:|"]    # fmt: skip
    for contender, result in row["results"].items():
        figures = result["figures"]
        spread = f" ({number(min(figures))} to {number(max(figures))})" if len(figures) > 1 else ""
        compared = ratio(row, contender) if contender in row["ours"] else None
        lines.append(
            f"| {contender} | {number(statistics.median(figures))}{spread} | "
            f"{'' if result['forwards'] is None else result['forwards']} | "
            f"{'' if compared is None else f'**{compared:.2f}**'} |"
        )
    if row["bytes"]:
        ours, copy = (statistics.median(row["results"][key]["figures"]) for key in (row["ours"][0], COPY))
        moved = f"{row['bytes'] / 1e6:.1f} MB must move at least: {row['bytes'] / ours / 1e9:.1f} GB/s"
        lines += ["", f"{moved}, {copy / ours:.0%} of what copying reaches."]
    if row["note"]:
        lines += ["", row["note"]]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three digits that mean something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def chart(found: dict, path: Path) -> None:
    """Bars of all rows, ours and theirs, each row to its own scale."""
    rows = found["rows"]
    heights = [len(row["results"]) + 2 for row in rows.values()]
    fig = Figure(figsize=(9, 0.33 * sum(heights)), layout="constrained")
    FigureCanvasAgg(fig)
    panels = fig.subplots(len(rows), squeeze=False, height_ratios=heights)[:, 0]
    for axes, row in zip(panels, rows.values(), strict=True):
        names = list(row["results"])[::-1]
        medians = [statistics.median(row["results"][name]["figures"]) for name in names]
        axes.barh(names, medians, color=[OURS if name in row["ours"] else THEIRS for name in names])
        axes.bar_label(axes.containers[0], [number(value) for value in medians], padding=3)
        axes.margins(x=0.12)
        axes.set_title(f"{row['title']}, {row['measures']} (shorter is better)", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, dpi=80)


def store(found: dict, device: str) -> None:
    """Keep the figures in the project, and write BENCHMARKS.md from all that is kept."""
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{device}.json").write_text(text, encoding="utf-8")
    chart(found, RESULTS / f"{device}.png")
    (ROOT / "BENCHMARKS.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """BENCHMARKS.md, from tests/benchmarks/results/."""
    parts = [HEAD]
    for device, name in DEVICES.items():
        file = RESULTS / f"{device}.json"
        parts.append(f"## {name}\n")
        if not file.exists():
            parts.append("Not measured.\n")
            continue
        found = json.loads(file.read_text(encoding="utf-8"))
        machine = found["machine"]
        versions = ", ".join(f"{key} {value}" for key, value in machine.items() if key != "device")
        parts.append(f"{machine['device']}; {found['date']}; {versions}.\n")
        drawn = (RESULTS / f"{device}.png").relative_to(RESULTS.parents[2])
        parts.append(f"![Bars of the medians that the tables below give]({drawn.as_posix()})\n")
        parts += [table(key, row) for key, row in found["rows"].items()]
    return "\n".join(parts)
