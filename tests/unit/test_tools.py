"""tools/: what `make run` writes, and the form in which `make store` keeps the notebooks."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import run_notebooks
import store_notebooks
from notebook_files import WIDGET_VIEW, chosen

ROOT = Path(__file__).resolve().parents[2]
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
SHOW = f"""import base64
from IPython.display import display
png = {{"image/png": "{PIXEL}", "text/plain": "one pixel"}}
display(png, raw=True, metadata={{"image/png": {{"alt": 'A "dot" < 2'}}}})"""
WIDGET = (
    f"""display({{"{WIDGET_VIEW}": {{"model_id": str(id(display))}}, "text/plain": "slider"}}, raw=True)"""
)
PARAMETERS = new_code_cell('MODEL = "tiny_vgg"\nSEED = 0', metadata={"tags": ["parameters"]})


def write(folder: Path, name: str, *cells) -> Path:
    """A notebook of markdown cells (text that begins with #) and code cells (other text, or cells)."""
    made = [
        cell
        if not isinstance(cell, str)
        else new_markdown_cell(cell)
        if cell.startswith("#")
        else new_code_cell(cell)
        for cell in cells
    ]
    path = folder / f"{name}.ipynb"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path


def code_cells(path: Path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@pytest.fixture
def book(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(
        folder,
        "00_good",
        "# The *first*\n\nWith [a link](01_bad.ipynb#end) to `it`,\nand [code](../lib/x.py).",
        PARAMETERS,
        "import sys\nprint(MODEL, SEED)\nprint('noise', file=sys.stderr)",
        SHOW,
        WIDGET,
    )
    write(
        folder,
        "01_bad",
        "# The second",
        PARAMETERS,
        "assert SEED == 0, 'eq. 1.3 is broken'",
        "print('after')",
    )
    return folder


class TestRun:
    @pytest.fixture
    def ran(self, book, tmp_path, capsys):
        status = run_notebooks.main(["-p", "SEED", "3"], book, tmp_path / "build")
        return status, tmp_path / "build", capsys.readouterr().out

    def test_goes_on_after_a_failure_and_says_why(self, book, ran):
        status, build, said = ran
        assert status == 1
        assert re.search(r"\[1/2\] 00_good …\n      done in \d+\.\d min\n", said)
        reason = "cell 3: AssertionError: eq. 1.3 is broken"
        assert re.search(rf"\[2/2\] 01_bad …\n      FAILED after \d+\.\d min: {reason}\n", said)
        assert re.search(rf"00_good +\d+\.\d  ok\n01_bad +\d+\.\d  FAILED {reason}\n", said)
        assert (build / "html" / "index.html").resolve().as_uri() in said

        done = build / "notebooks" / "00_good.ipynb"
        assert code_cells(done)[2].outputs[0].text == "tiny_vgg 3\n"
        assert "papermill" not in re.sub('"cell_type": "markdown".*', "", done.read_text())
        assert nbformat.read(book / "00_good.ipynb", as_version=4).cells[2].outputs == [], (
            "the source was changed"
        )

        page = BeautifulSoup((build / "html" / "00_good.html").read_text(), "html.parser")
        assert page.title.text == "The first" and page.html["lang"] == "en"
        assert page.find("img")["alt"] == 'A "dot" < 2', "the alt text did not reach the page"
        links = [link["href"] for link in page.main.find_all("a") if not link["href"].startswith("#")]
        assert links == ["01_bad.html#end", "../../notebooks/../lib/x.py"]
        assert page.find("a", rel="next")["href"] == "01_bad.html" and page.find("a", rel="prev") is None
        assert "make lab" in page.find(class_="still").text and page.find("script", type=WIDGET_VIEW) is None
        loaded = [
            tag.get("src") or tag.get("href") for tag in page.find_all(["script", "link", "img", "iframe"])
        ]
        assert {address.split("/")[0].split(":")[0] for address in loaded if address} == {"mathjax", "data"}
        assert (build / "html" / "mathjax" / "MathJax.js").is_file()

        index = (build / "html" / "index.html").read_text()
        assert '<a href="00_good.html">The first</a><p>With a link to it, and code.</p>' in index
        assert (
            "ran through<p>SEED = 3</p>" in index
            and "<p>cell 3: AssertionError: eq. 1.3 is broken</p>" in index
        )

        # A later run of one notebook keeps the other one's page and row.
        assert run_notebooks.main(["01"], book, build) == 0
        assert [r["reason"] for r in json.loads((build / "results.json").read_text())] == ["", ""]
        assert "The first" in (build / "html" / "index.html").read_text()

    def test_unknown_names_are_errors(self, book, tmp_path):
        with pytest.raises(SystemExit, match="00_good.ipynb has no parameter SEDE. It has: MODEL, SEED."):
            run_notebooks.main(["-p", "SEDE", "3"], book, tmp_path / "build")
        with pytest.raises(SystemExit, match="No notebook begins with '07'. There are: 00_good, 01_bad."):
            run_notebooks.main(["07"], book, tmp_path / "build")
        assert not (tmp_path / "build").exists()

    def test_parameters(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photo.jpg").touch()
        pairs = [
            ["SEED", "3"],
            ["MODEL", "resnet50"],
            ["TARGET", "None"],
            ["IMAGE", "photo.jpg"],
            ["WEIGHTS", "no.pth"],
        ]
        assert run_notebooks.parse_parameters(pairs) == {
            "SEED": 3,
            "MODEL": "resnet50",
            "TARGET": None,
            "IMAGE": str(tmp_path / "photo.jpg"),
            "WEIGHTS": "no.pth",
        }


class TestStore:
    def test_form(self):
        nb = new_notebook(
            metadata={"widgets": {"state": {}}, "kernelspec": {"name": "mine", "display_name": "Mine"}},
            cells=[
                new_code_cell(
                    "a",
                    execution_count=7,
                    metadata={"execution": {"iopub.status.busy": "2026"}, "tags": ["x"], "papermill": {}},
                    outputs=[
                        new_output("stream", name="stdout", text="1"),
                        new_output("stream", name="stderr", text="noise"),
                        new_output("stream", name="stdout", text="2"),
                        new_output("execute_result", {"text/plain": "3"}, execution_count=7),
                        new_output("display_data", {WIDGET_VIEW: {"model_id": "9"}, "text/plain": "slider"}),
                    ],
                ),
                new_code_cell(" "),
                new_code_cell("a"),
                new_markdown_cell("a"),
            ],
        )
        store_notebooks.normalise(nb)
        first, empty, second, text = nb.cells
        assert [cell.execution_count for cell in (first, empty, second)] == [1, None, 2]
        assert first.metadata == {"tags": ["x"]}
        assert [o.get("text") or o.data for o in first.outputs] == [
            "12",
            {"text/plain": "3"},
            {"text/plain": "slider"},
        ]
        assert first.outputs[1].execution_count == 1
        assert nb.metadata == {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        ids = [cell.id for cell in nb.cells]
        assert len(set(ids)) == 4
        for cell in nb.cells:
            cell.id = "random"
        store_notebooks.normalise(nb)
        assert [cell.id for cell in nb.cells] == ids
        nbformat.validate(nb)

    def test_leaves_a_failing_notebook_alone(self, book, monkeypatch, capsys):
        before = (book / "01_bad.ipynb").read_text()
        write(book, "01_bad", "# The second", "1 / 0")
        before = (book / "01_bad.ipynb").read_text()
        monkeypatch.setattr(store_notebooks, "chosen", lambda names: chosen(names, book))
        assert store_notebooks.main(["01"]) == 1
        said = capsys.readouterr().out
        assert "NOT stored: a cell failed" in said and "1 / 0" in said and "ZeroDivisionError" in said
        assert (book / "01_bad.ipynb").read_text() == before
        assert not list(book.glob("*.part"))

    def test_refuses_large_files_and_paths(self):
        nb = new_notebook(cells=[new_code_cell("x", outputs=[new_output("stream", text="fine")])])
        store_notebooks.check(nb, "x" * 1_000_000)
        with pytest.raises(store_notebooks.Refused, match="1.0 MB, the limit is 1 MB"):
            store_notebooks.check(nb, "x" * 1_000_001)
        nb.cells[0].outputs[0].text = f"read {ROOT}/lib/cambook"
        with pytest.raises(store_notebooks.Refused, match="names a folder of this machine"):
            store_notebooks.check(nb, "")

    def test_storing_twice_gives_the_same_file(self, book):
        path = book / "00_good.ipynb"
        store_notebooks.store(path)
        first = path.read_bytes()
        store_notebooks.store(path)
        assert path.read_bytes() == first
        assert first.endswith(b"}\n") and b"noise\\n" not in first.split(b'"outputs"')[2]
