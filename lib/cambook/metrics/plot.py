"""The figure of a table: means with their intervals, one panel for each metric."""

import math

OURS, CONTROL = "#33638d", "#8a8a8a"
# A control that is right by construction: to come first is no shame for the metric.
ORACLE = "exact_mask"
MOST_IN_A_ROW = 4


def dots(table):
    """The matplotlib figure of a `Table`, and the sentences that say what it shows."""
    from matplotlib.figure import Figure

    metrics = list(table.settings["metrics"])
    names = list(table.settings["rows"])
    lines = math.ceil(len(metrics) / MOST_IN_A_ROW)
    columns = math.ceil(len(metrics) / lines)    # rows as even as possible
    height = 0.24 * len(names) + 0.75
    fig = Figure(figsize=(1.8 + 2.2 * columns, lines * height + 0.3), layout="constrained")
    axes = fig.subplots(lines, columns, squeeze=False, sharey=True)
    for axis, metric in zip(axes.flat, metrics):
        part = table.summary[table.summary["metric"] == metric].set_index("method")
        for place, name in enumerate(names):
            line = part.loc[name]
            colour, marker = (CONTROL, "s") if line["control"] else (OURS, "o")
            axis.plot([line["low"], line["high"]], [place, place], color=colour, linewidth=2)
            axis.plot(line["mean"], place, marker, color=colour, markersize=5)
        arrow = {1: " →", -1: " ←", 0: ""}[table.direction(metric)]
        axis.set_title(metric.replace("_", " ") + arrow, fontsize=9)
        axis.grid(axis="x", color="#e0e0e0")
        axis.set_axisbelow(True)
        axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    for axis in axes.flat[len(metrics) :]:
        axis.set_visible(False)
    return fig, _alt(table, metrics)


def _alt(table, metrics: list[str]) -> str:
    count = len(table.settings["images"])
    said = []
    for metric in metrics:
        sign = table.direction(metric)
        part = table.summary[(table.summary["metric"] == metric) & table.summary["mean"].notna()]
        best = []
        for control, words in ((False, "best method"), (True, "best degenerate control")):
            rows = part[(part["control"] == control) & (part["method"] != ORACLE)]
            if len(rows) and sign:
                line = rows.loc[(sign * rows["mean"]).idxmax()]
                best.append(f"{words} {line['method']} {line['mean']:.2f}")
        said.append(f"{metric}: {', '.join(best)}" if best else metric)
    return (
        f"Dots with 95 % intervals over {count} images, one panel a metric, methods as discs and controls as "
        f"squares. {'; '.join(said)}."
    )
