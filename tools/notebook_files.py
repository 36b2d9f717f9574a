"""What the tools share: the book's notebooks, and notebooks without the state of their widgets."""

import os
from pathlib import Path

from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
KERNEL = "python3"
# The kernel's own log (ports, encryption, shutdown) is not the notebook's output and only worries readers.
KERNEL_ARGUMENTS = ["--log-level=CRITICAL"]
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"

# A kernel called python3 that was once registered for the user must not win over this environment's.
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


def chosen(names: list[str], folder: Path = NOTEBOOKS) -> list[Path]:
    """The notebooks ``NN_*.ipynb`` of ``folder`` in order: all, or those that a name such as "01" begins.

    Raises SystemExit with a sentence when there are none or a name fits none.
    """
    every = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not every:
        raise SystemExit(f"There are no notebooks in {folder}: nothing to run.")
    for name in names:
        if not any(path.name.startswith(name) for path in every):
            raise SystemExit(
                f"No notebook begins with {name!r}. There are: {', '.join(p.stem for p in every)}."
            )
    return [path for path in every if not names or path.name.startswith(tuple(names))]


def outputs(nb: NotebookNode) -> list[NotebookNode]:
    """All outputs of all code cells, in order."""
    return [output for cell in nb.cells if cell.cell_type == "code" for output in cell.outputs]


def drop_widget_state(nb: NotebookNode) -> None:
    """Take out what only a live kernel can use; the widget's plain text stays where the widget was.

    GitHub shows "Invalid Notebook" for stored widget metadata, and the model ids are new at every run.
    """
    nb.metadata.pop("widgets", None)
    for output in outputs(nb):
        output.get("data", {}).pop(WIDGET_VIEW, None)
