"""For authors: execute the notebooks in place and store their outputs in the one form that the tests expect.

    python tools/store_notebooks.py            all notebooks
    python tools/store_notebooks.py 01 02      only these

nbval compares the stored outputs with those of a new run, so what differs from run to run must not be stored:
times, widget state, random cell ids, stderr. A notebook is left as it was when a cell fails, when an output
names a folder of this machine, or when the file would be larger than 1 MB.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from notebook_files import KERNEL, KERNEL_ARGUMENTS, ROOT, chosen, drop_widget_state, outputs

LIMIT = 1_000_000  # bytes: larger files load slowly and are not shown on GitHub


class Refused(Exception):
    """The notebook cannot be stored; the message says why and what to do."""


def execute(nb: NotebookNode, folder: Path) -> None:
    """Run all cells in a new kernel with ``folder`` as its working directory, as nbval and JupyterLab do."""
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        nb,
        kernel_name=KERNEL,
        resources={"metadata": {"path": str(folder)}},
        timeout=None,
        extra_arguments=KERNEL_ARGUMENTS,
        store_widget_state=False,
        record_timing=False,
    )
    try:
        client.execute()
    except CellExecutionError as error:
        raise Refused(f"a cell failed:\n{error}") from None


def normalise(nb: NotebookNode) -> None:
    """Bring an executed notebook into its stored form (in place)."""
    drop_widget_state(nb)
    nb.nbformat, nb.nbformat_minor = 4, 5
    nb.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": KERNEL},
            "language_info": {"name": "python"},
        }
    )
    used, count = set(), 0
    for cell in nb.cells:
        cell.id = _identity(cell, used)
        cell.metadata = nbformat.from_dict(
            {k: v for k, v in cell.metadata.items() if k in ("tags", "jupyter")}
        )
        if cell.cell_type != "code":
            continue
        if cell.source.strip():
            count += 1
            cell.execution_count = count
        cell.outputs = _merged(out for out in cell.outputs if out.get("name") != "stderr")
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def check(nb: NotebookNode, text: str) -> None:
    """Raise Refused for what a stored notebook must not contain."""
    size = len(text.encode())
    if size > LIMIT:
        raise Refused(
            f"it would be {size / 1e6:.1f} MB, the limit is {LIMIT / 1e6:.0f} MB: store smaller figures"
        )
    shown = str([output.get("text") or output.get("data") or output for output in outputs(nb)])
    for place in (ROOT, Path(sys.prefix), Path.home(), Path(tempfile.gettempdir())):
        if place != Path(place.anchor) and f"{place}{os.sep}" in shown:
            raise Refused(f"an output names a folder of this machine ({place}): print something else")


def store(path: Path) -> None:
    """Execute one notebook and write it back in its stored form."""
    nb = nbformat.read(path, as_version=4)
    execute(nb, path.parent)
    normalise(nb)
    text = nbformat.writes(nb).rstrip("\n") + "\n"
    check(nb, text)
    part = path.with_suffix(".part")  # then renamed: an interrupted write leaves the notebook whole
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


def _identity(cell: NotebookNode, used: set[str]) -> str:
    """A cell id that depends on the cell's text alone, so that notebooks written anew keep their ids."""
    turn = 0
    while (name := hashlib.sha256(f"{cell.cell_type}{turn}{cell.source}".encode()).hexdigest()[:8]) in used:
        turn += 1
    used.add(name)
    return name


def _merged(cell_outputs) -> list[NotebookNode]:
    """Outputs with neighbouring pieces of stdout joined: where a stream is cut depends on timing."""
    merged: list[NotebookNode] = []
    for output in cell_outputs:
        if merged and output.output_type == "stream" == merged[-1].output_type:
            merged[-1].text += output.text
        else:
            merged.append(output)
    return merged


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Execute notebooks in place and store their outputs.")
    parser.add_argument("names", nargs="*", help='which notebooks, for example "01 02"; all when left out')
    refused = 0
    for path in chosen(parser.parse_args(argv).names):
        print(f"{path.stem} …", end=" ", flush=True)
        try:
            store(path)
            print(f"stored, {path.stat().st_size / 1e3:.0f} kB")
        except Refused as reason:
            print(f"NOT stored: {reason}")
            refused += 1
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
