"""Without Triton the pocket interpreter stands in, and notebook 10 says the same, cell by cell."""

import pytest
from book import FOLDER, KERNEL, code_cells, read
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell

PATH = FOLDER / "10_kernels.ipynb"
NO_TRITON = "import sys\n\nsys.modules['triton'] = None    # importing it is an ImportError from here on"
WITNESS = "from cambook import pocket\n\nprint(pocket.tl is pocket.language, sys.modules['triton'])"


def said(cell) -> str:
    """What a cell printed, and the text of what it displayed; printing may arrive in several pieces."""
    return "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)


@pytest.fixture(scope="module")
def without():
    nb = read(PATH)
    nb.cells = [new_code_cell(NO_TRITON), *code_cells(nb), new_code_cell(WITNESS)]
    where = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(nb, kernel_name=KERNEL, timeout=600, resources=where).execute()
    return nb.cells[1:]


def test_it_really_ran_without_triton(without):
    assert said(without[-1]) == "True None\n"


def test_every_cell_says_the_same(without):
    stored = code_cells(read(PATH))
    compared = [
        (was.source, said(was), said(now))
        for was, now in zip(stored, without[:-1], strict=True)
        if "nbval-ignore-output" not in was.metadata.get("tags", [])
    ]
    for source, was, now in compared:
        assert was == now, f"{source}\n--- with Triton\n{was}\n--- without\n{now}"
    assert sum(was.count("PASS ") for _, was, _ in compared) > 40
