"""Exercises: stored unwritten, with a folded solution that passes its own test."""

import ast
import contextlib
import re

import pytest
from book import NOTEBOOKS, calls, code_cells, markdown_cells, printed, read, tree

from cambook import exercises
from cambook.check import check_exercise

ASKED = [
    (path, ast.literal_eval(call.args[0]), call.args[1].id)
    for path in NOTEBOOKS
    for cell in code_cells(read(path))
    for call in calls(cell, "check_exercise")
]


def definitions(nb) -> dict:
    """The notebook's imports and functions, without running anything else."""
    space: dict = {}
    for cell in code_cells(nb):
        for node in tree(cell).body:
            if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef):
                # A default that is a value of the page: nothing has computed it here, and no solution may need it.
                with contextlib.suppress(NameError):
                    exec(compile(ast.Module([node], []), "notebook", "exec"), space)
    return space


def solutions(nb) -> list[str]:
    """The Python blocks inside folds whose summary begins with "Solution"."""
    folds = [
        fold
        for cell in markdown_cells(nb)
        for fold in re.findall(r"<details>\s*<summary>\s*Solution.*?</details>", cell.source, re.DOTALL)
    ]
    return [code for fold in folds for code in re.findall(r"```python\n(.*?)```", fold, re.DOTALL)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_three_to_five_exercises_stored_unwritten(path):
    numbers = [number for notebook, number, _ in ASKED if notebook == path]
    assert 3 <= len(numbers) <= 5 and len(set(numbers)) == len(numbers), numbers
    assert all(number.startswith(f"{int(path.name[:2])}.") for number in numbers), numbers
    for number in numbers:
        assert f"exercise {number}: not yet written" in printed(read(path)), (
            f"exercise {number} is stored with an answer"
        )


@pytest.mark.parametrize(
    ("path", "number", "function"), ASKED, ids=[f"exercise {number}" for _, number, _ in ASKED]
)
def test_the_folded_solution_passes_its_test(path, number, function, capsys):
    nb = read(path)
    fitting = [code for code in solutions(nb) if re.search(rf"^def {function}\(", code, re.MULTILINE)]
    assert len(fitting) == 1, f"{path.name} needs one folded solution that defines {function}"
    space = definitions(nb)
    exec(fitting[0], space)
    check_exercise(number, space[function])
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(rf"PASS exercise {number}   [1-9]\d* cases", verdict), verdict


def test_every_registered_exercise_is_asked_somewhere():
    assert set(exercises.tests()) == {number for _, number, _ in ASKED}
