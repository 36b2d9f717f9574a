"""nbval on a stored playground and figure: passes on a second run, and still sees a changed line."""

import os
import re
import subprocess
import sys

import nbformat
import pytest
from book import ROOT
from nbformat.v4 import new_code_cell, new_notebook
from nbval.plugin import get_sanitize_patterns

SANITIZE = ROOT / "tests" / "notebooks" / "sanitize.cfg"
CELLS = [
    "import time\nimport numpy as np\n"
    "from cambook import play, show\nfrom cambook.check import check, fingerprint",
    "frames = [np.full((8, 8, 3), 40 * i, np.uint8) for i in range(3)]\n"
    'play.scrub(frames, ["a", "b", "c"], alt="Three shades of grey")',
    'show.images(frames, ["a", "b", "c"], alt="Three shades of grey, side by side.")',
    'check("eq. 9.1: shades", frames[1].mean(), 40)\nfingerprint(np.eye(8))',
    'print(f"that took {time.perf_counter() % 10:.3f} s on cpu")',
]


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from store_notebooks import store
    finally:
        sys.path.pop(0)
    path = tmp_path_factory.mktemp("stored") / "90_small.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in CELLS]), path)
    store(path)
    return path


def nbval(path):
    """Run nbval on one notebook with the project's own settings."""
    plugins = ["-p", "conftest", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with", str(SANITIZE), "-v"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "lib"), env.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", *plugins, *options, str(path)]
    return subprocess.run(command, cwd=path.parent, env=env, capture_output=True, text=True)


def test_the_stored_form_holds_sentences_and_pictures_but_no_widget(stored):
    _, playground, figure, *_ = nbformat.read(stored, as_version=4).cells
    [output] = playground.outputs
    assert output.data == {
        "text/plain": "Playground, run this notebook to use it. Three shades of grey. step: a, b, c."
    }
    [output] = figure.outputs
    assert (
        output.metadata["image/png"]["alt"]
        == output.data["text/plain"]
        == "Three shades of grey, side by side."
    )


def test_nbval_passes_on_what_was_stored_and_sees_what_was_changed(stored, tmp_path):
    nb = nbformat.read(stored, as_version=4)
    nb.cells[2].outputs[0].data["text/plain"] = "Two shades."
    nb.cells[3].outputs[0].text = nb.cells[3].outputs[0].text.replace("0.50", "0.25", 1)
    path = tmp_path / stored.name
    nbformat.write(nb, path)
    result = nbval(path)
    verdicts = dict(re.findall(r"Cell (\d) (PASSED|FAILED)", result.stdout))
    expected = {"0": "PASSED", "1": "PASSED", "2": "FAILED", "3": "FAILED", "4": "PASSED"}
    assert verdicts == expected, f"playground, figure, fingerprint, duration: {result.stdout}"


def test_every_pattern_of_the_sanitize_file_is_read():
    text = SANITIZE.read_text()
    patterns = get_sanitize_patterns(text)
    assert len(patterns) == sum(line.startswith("regex:") for line in text.splitlines()) == 2
