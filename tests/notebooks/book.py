"""What the notebook tests share: where the notebooks are, what is in their cells, and how one is run."""

import ast
import os
from pathlib import Path

import nbformat
import papermill
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
KERNEL = "python3"

# A kernel called python3 that somebody registered for their user account must not win over this
# environment's.
os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "code"]


def markdown_cells(nb: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in nb.cells if cell.cell_type == "markdown"]


def tree(cell: NotebookNode) -> ast.Module:
    """The syntax tree of a code cell; lines such as %timeit are turned into Python first."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def calls(cell: NotebookNode, function: str) -> list[ast.Call]:
    """The calls of a function in a cell, as check(…) or as module.check(…)."""
    found = []
    for node in ast.walk(tree(cell)):
        if isinstance(node, ast.Call) and function in (
            getattr(node.func, "id", ""),
            getattr(node.func, "attr", ""),
        ):
            found.append(node)
    return found


def check_names(cell: NotebookNode) -> list[str]:
    """The first argument of every check(…) in a cell; of f-strings the fixed parts."""
    names = []
    for call in calls(cell, "check"):
        parts = (
            [node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)]
            if call.args
            else []
        )
        names.append("".join(str(part) for part in parts))
    return names


def printed(nb: NotebookNode) -> str:
    """Everything the code cells wrote to stdout."""
    return "".join(out.text for cell in code_cells(nb) for out in cell.outputs if out.get("name") == "stdout")


def run(path: Path, output: Path, parameters: dict) -> NotebookNode:
    """Execute a notebook with papermill in a fresh kernel, in the notebook's own folder.

    A parameter that the notebook does not have is an error: papermill only warns ("Passed unknown parameter")
    and then runs the defaults, so that a test of another network would silently test the same one again.
    """
    unknown = set(parameters) - set(papermill.inspect_notebook(str(path)))
    if unknown:
        raise ValueError(f"{path.name} has no parameter {', '.join(sorted(unknown))}.")
    return papermill.execute_notebook(
        str(path), str(output), parameters=parameters, cwd=str(FOLDER), kernel_name=KERNEL, progress_bar=False
    )
