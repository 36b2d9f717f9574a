"""The notebooks as they lie in the repository: readable on a static page, and worth comparing with a new run.

Stored outputs are the reference of `pytest --nbval`, which compares only what is there: a notebook without
outputs, or without execution counts, passes without any comparison. So this file comes first.

Widgets. A widget's output holds two forms: a view that names a model in the running kernel, by an id that is
new on every run, and a text. `tools/store_notebooks.py` keeps the text and drops the view (and the notebook's
widget state, which makes GitHub say "Invalid Notebook"). nbval skips the view and compares the text.
ipywidgets' own text changes with the widget's state, so `cambook.play` replaces it by a sentence that depends
on nothing but the arguments. No cell needs the tag `nbval-ignore-output` for its widget; `test_nbval.py`
stores a playground and lets nbval compare it.
"""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest
from book import FOLDER, NOTEBOOKS, check_names, code_cells, markdown_cells, read, tree
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

LIMIT = 1_000_000  # bytes
LONGEST_CELL = 25  # lines
PARAMETERS = {"MODEL", "IMAGE", "TARGET", "DEVICE", "SEED"}
LABELS = ("paper", "official code", "follow-up code", "ancestor", "our reading")
# SVG holds random ids, JavaScript and widgets need a kernel or a network: none of them can be compared.
STORABLE = {"text/plain", "text/html", "text/markdown", "text/latex", "image/png"}
MACHINE_PATH = re.compile(
    r"(?<![\w./:])/(home|root|tmp|Users|usr|var|opt|mnt|work|private|content)/|\b[A-Z]:\\(Users|Windows)"
)


def test_there_are_notebooks():
    assert NOTEBOOKS, f"no notebook NN_*.ipynb in {FOLDER}: nothing was tested"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebook(path):
    problems = complaints(read(path), path)
    if path.stat().st_size >= LIMIT:
        problems.append(f"the file has {path.stat().st_size} bytes, and {LIMIT} is the limit")
    assert not problems, "\n".join([path.name, *problems])


def complaints(nb, path: Path) -> list[str]:
    """Everything that is wrong with a stored notebook, one line each."""
    try:
        nbformat.validate(nb)
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {error.message}"]
    return [
        *_headings(nb),
        *_parameters(nb),
        *_counts(nb),
        *_outputs(nb),
        *_metadata(nb),
        *_paths(nb),
        *_alt_texts(nb),
        *_equations(nb, path),
        *_lengths(nb),
        *_links(nb, path.parent),
    ]


def _headings(nb):
    titles = [
        (index, line)
        for index, cell in enumerate(nb.cells)
        if cell.cell_type == "markdown"
        for line in _without_code(cell.source).splitlines()
        if re.match(r"# \S", line)
    ]
    if [index for index, _ in titles] != [0]:
        yield f"one H1, in the first cell; found {titles}"


def _parameters(nb):
    tagged = [cell for cell in code_cells(nb) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged `parameters`; papermill needs exactly one"
        return
    names = set()
    for statement in tree(tagged[0]).body:
        try:
            names |= {target.id for target in statement.targets}
            ast.literal_eval(statement.value)
        except (AttributeError, ValueError):
            yield f"parameters are NAME = constant; {ast.unparse(statement)!r} would be stale after injection"
    if PARAMETERS - names:
        yield f"the parameters cell lacks {', '.join(sorted(PARAMETERS - names))}"


def _counts(nb):
    counts = [cell.execution_count for cell in code_cells(nb)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts} and not 1…{len(counts)}: run `make store`"
    if not any(cell.outputs for cell in code_cells(nb)):
        yield "no cell has an output, so nbval compares nothing"


def _outputs(nb):
    for cell in code_cells(nb):
        for output in cell.outputs:
            where = f"cell [{cell.execution_count}]"
            if output.output_type == "error":
                yield f"{where} stores an error: {output.ename}"
            if output.get("name") == "stderr":
                yield f"{where} stores stderr: {output.text[:60]!r}"
            for kind in set(output.get("data", {})) - STORABLE:
                yield f"{where} stores {kind}, which cannot be compared on another run"
            if re.search(r"\bat 0x[0-9a-f]{6,}", _text(output)):
                yield f"{where} stores an object's address, which is new on every run"


def _metadata(nb):
    for owner in (nb, *nb.cells):
        for key in {"widgets", "papermill"} & set(owner.metadata):
            yield f"metadata holds {key!r}: run `make store`"


def _paths(nb):
    texts = [cell.source for cell in nb.cells]
    texts += [_text(output) for cell in code_cells(nb) for output in cell.outputs]
    texts += [json.dumps(owner.metadata) for owner in (nb, *nb.cells)]
    for text in texts:
        if found := MACHINE_PATH.search(text):
            yield f"a path of somebody's machine: …{text[found.start() : found.start() + 40]!r}"


def _alt_texts(nb):
    for cell in code_cells(nb):
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data and not output.metadata.get("image/png", {}).get("alt", "").strip():
                yield f"the figure of cell [{cell.execution_count}] has no alt text: use cambook.show"
            yield from _images_without_alt(data.get("text/html", ""))
    for cell in markdown_cells(nb):
        for image in re.findall(r"!\[\s*\]\([^)]*\)", cell.source):
            yield f"{image} has no alt text"
        yield from _images_without_alt(cell.source)


def _images_without_alt(text):
    for image in re.findall(r"<img\b[^>]*>", text):
        if not re.search(r"""\balt\s*=\s*(["'])\s*[^"'\s]""", image):
            yield f"{image[:60]} has no alt text"


def _equations(nb, path):
    names = [name for cell in code_cells(nb) for name in check_names(cell)]
    seen = set()
    for cell in markdown_cells(nb):
        for tag in re.findall(r"\\tag\{([^}]*)\}", cell.source):
            if not re.fullmatch(rf"{int(path.name[:2])}\.\d+", tag):
                yield f"\\tag{{{tag}}} is not numbered {int(path.name[:2])}.n"
            if tag in seen:
                yield f"\\tag{{{tag}}} occurs twice"
            seen.add(tag)
            if not any(re.match(rf"eq\. (.*\D)?{re.escape(tag)}(?!\d)", name) for name in names):
                yield f'\\tag{{{tag}}} has no check("eq. {tag}: …")'
            if not re.search("|".join(LABELS), cell.source, re.IGNORECASE):
                yield f"\\tag{{{tag}}} has no evidence label beside it: {', '.join(LABELS)}"


def _lengths(nb):
    for cell in code_cells(nb):
        lines = len(cell.source.splitlines())
        if lines > LONGEST_CELL:
            yield f"cell [{cell.execution_count}] has {lines} lines, and {LONGEST_CELL} is the limit"


def _links(nb, folder):
    for cell in markdown_cells(nb):
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", _without_code(cell.source)):
            if not re.match(r"[a-z]+:", target) and not (folder / target).exists():
                yield f"a link to {target}, which does not exist"


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def _text(output) -> str:
    """All text of an output; pictures are base64, in which anything may occur by chance."""
    parts = [output.get("text", ""), output.get("evalue", ""), "\n".join(output.get("traceback", []))]
    parts += [str(data) for kind, data in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join(parts)


# ---- the rules themselves, on a notebook that is right and on one fault each --------------------------


def good():
    picture = {"image/png": {"alt": "A cat."}}
    nb = new_notebook(
        cells=[
            new_markdown_cell("# 1 · A title\n\n```python\n# no heading\n```\nBack to [the start](.)."),
            new_code_cell(
                'MODEL = "tiny_vgg"\nIMAGE = 3\nTARGET = None\nDEVICE = "cpu"\nSEED = 0', execution_count=1
            ),
            new_markdown_cell(r"The map *(paper)*: $$M = wA \tag{1.1}$$ ![a cat](.)"),
            new_code_cell(
                'check("eq. 1.1: a sum", M, w * A)\nshow.images([M], alt="A cat.")',
                execution_count=2,
                outputs=[
                    new_output("stream", text="PASS eq. 1.1: a sum   (4, 4)  within 1e-06\n"),
                    new_output(
                        "display_data", {"image/png": "/tmp/AAAA", "text/plain": "A cat."}, metadata=picture
                    ),
                ],
            ),
        ]
    )
    nb.cells[1].metadata["tags"] = ["parameters"]
    return nb


PATH = Path(__file__).parent / "01_made_up.ipynb"


def stream(nb, text, name="stdout"):
    nb.cells[3].outputs.append(new_output("stream", text=text, name=name))


def display(nb, data, **metadata):
    nb.cells[3].outputs.append(new_output("display_data", data, metadata=metadata))


def replace(index, old, new):
    def fault(nb):
        assert old in nb.cells[index].source
        nb.cells[index].source = nb.cells[index].source.replace(old, new)

    return fault


FAULTS = {
    "a title in the second cell": (replace(2, "The map", "# The map\n"), "one H1"),
    "no title": (replace(0, "# 1", "1"), "one H1"),
    "no parameters tag": (lambda nb: nb.cells[1].metadata.pop("tags"), "0 cells are tagged"),
    "a parameter is missing": (replace(1, "SEED = 0", "pass_ = 0"), "lacks SEED"),
    "a derived parameter": (replace(1, "SEED = 0", "SEED = IMAGE + 1"), "would be stale"),
    "an import among the parameters": (replace(1, "SEED = 0", "SEED = 0\nimport torch"), "would be stale"),
    "a cell run twice": (lambda nb: nb.cells[3].update(execution_count=7), r"counts are \[1, 7\]"),
    "never run": (lambda nb: nb.cells[3].update(execution_count=None), "counts are"),
    "outputs stripped": (lambda nb: nb.cells[3].update(outputs=[]), "nbval compares nothing"),
    "an error": (
        lambda nb: nb.cells[3].outputs.append(new_output("error", ename="KeyError")),
        "stores an error: KeyError",
    ),
    "a warning": (lambda nb: stream(nb, "UserWarning: x", "stderr"), "stores stderr"),
    "an address": (lambda nb: display(nb, {"text/plain": "<Figure at 0x7f3b6c1d>"}), "object's address"),
    "an svg": (lambda nb: display(nb, {"image/svg+xml": "<svg/>"}), r"stores image/svg\+xml"),
    "a widget": (
        lambda nb: display(nb, {"application/vnd.jupyter.widget-view+json": {}}),
        "stores application/vnd.jup",
    ),
    "widget state": (lambda nb: nb.metadata.update(widgets={}), "metadata holds 'widgets'"),
    "papermill's notes": (lambda nb: nb.cells[1].metadata.update(papermill={}), "metadata holds 'papermill'"),
    "a path in an output": (lambda nb: stream(nb, "loaded '/home/me/x.pth'"), "somebody's machine"),
    "a path in a cell": (replace(3, "show", 'open(r"C:\\Users\\me")\nshow'), "somebody's machine"),
    "a figure without alt": (
        lambda nb: display(nb, {"image/png": "AAAA"}),
        r"figure of cell \[2\] has no alt",
    ),
    "a figure with empty alt": (
        lambda nb: display(nb, {"image/png": "A"}, **{"image/png": {"alt": " "}}),
        "has no alt",
    ),
    "a markdown image without alt": (replace(2, "![a cat]", "![]"), "has no alt text"),
    "an html image without alt": (replace(2, "![a cat](.)", '<img src="cat.png" alt="">'), "has no alt text"),
    "an html output without alt": (lambda nb: display(nb, {"text/html": "<img src='x'>"}), "has no alt text"),
    "an equation without check": (replace(3, "eq. 1.1", "eq. 1.11"), r'has no check\("eq. 1.1: …"\)'),
    "a check that names it in passing": (replace(3, "eq. 1.1", "see eq. 1.1"), "has no check"),
    "an equation without label": (replace(2, "(paper)", ""), "no evidence label"),
    "an equation of another notebook": (replace(2, "1.1", "2.1"), r"not numbered 1\.n"),
    "an equation number used twice": (replace(2, "![", r"$$x \tag{1.1}$$ !["), "occurs twice"),
    "a long cell": (replace(3, "show", "\n" * 25 + "show"), "has 27 lines"),
    "a dead link": (replace(0, "(.)", "(02_missing.ipynb#part)"), "link to 02_missing.ipynb"),
    "no notebook at all": (lambda nb: nb.cells[1].pop("outputs"), "not a valid notebook"),
}


def test_a_right_notebook_gets_no_complaint():
    assert complaints(good(), PATH) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_gets_its_complaint(fault):
    nb = good()
    commit, says = FAULTS[fault]
    commit(nb)
    found = complaints(nb, PATH)
    assert found and re.search(says, "\n".join(found)), found


def test_an_equation_may_be_checked_together_with_others():
    nb = good()
    replace(3, "eq. 1.1", "eq. 1.2 and 1.1")(nb)
    assert complaints(nb, PATH) == []
