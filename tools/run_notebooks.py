"""Execute the notebooks of the book into build/, as notebooks and as HTML pages with an index.

    python tools/run_notebooks.py                                     all notebooks, at their own settings
    python tools/run_notebooks.py 01 02 -p MODEL tiny_resnet          two of them, with another network
    python tools/run_notebooks.py 02 -p MODEL squeezenet1_1 -p WEIGHTS weights.pth -p IMAGE photo.jpg

The notebooks themselves stay as they are. A notebook that fails does not stop the others; the exit status is
then 1. The pages load nothing from the network: MathJax is copied beside them.
"""

import argparse
import ast
import json
import os
import platform
import re
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from html import escape
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from nbformat import NotebookNode

from notebook_files import (
    KERNEL,
    KERNEL_ARGUMENTS,
    NOTEBOOKS,
    ROOT,
    WIDGET_VIEW,
    chosen,
    drop_widget_state,
    outputs,
)

BUILD = ROOT / "build"
STILL = (
    '<p class="still">Here the notebook is interactive: <code>make lab</code> opens it with its controls. '
    "The pictures around this line show the same thing standing still.</p>"
)


@dataclass
class Result:
    """How one notebook ran; ``build/results.json`` keeps one for each notebook."""

    name: str
    title: str
    summary: str
    minutes: float
    reason: str  # why it failed; empty when it ran through
    parameters: dict

    @property
    def page(self) -> str:
        return f"{self.name}.html"


def parse_parameters(pairs: list[list[str]]) -> dict:
    """``[["SEED", "3"], ["MODEL", "tiny_vgg"]]`` → ``{"SEED": 3, "MODEL": "tiny_vgg"}``.

    A value that names an existing file is made absolute, because the notebooks run in their own folder.
    """
    parameters = {}
    for name, value in pairs:
        try:
            parameters[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[name] = os.path.abspath(value) if os.path.exists(value) else value
    return parameters


def check_parameters(paths: list[Path], parameters: dict) -> None:
    """Stop when a notebook does not know a parameter: papermill would only warn, and run the defaults."""
    for path in paths:
        known = papermill.inspect_notebook(str(path)) if parameters else parameters
        unknown = [name for name in parameters if name not in known]
        if unknown:
            raise SystemExit(
                f"{path.name} has no parameter {', '.join(unknown)}. It has: {', '.join(known) or 'none'}."
            )


def title_and_summary(nb: NotebookNode) -> tuple[str, str]:
    """The notebook's H1 and the first paragraph below it, as plain text."""
    text = "\n\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    title, _, rest = text.partition("\n")
    paragraphs = (" ".join(block.split()) for block in rest.split("\n\n"))
    summary = next(
        (block for block in paragraphs if block and not block.startswith(("#", "|", "<", "!"))), ""
    )
    return _plain(title.lstrip("# ")), _plain(summary)


def execute(path: Path, target: Path, parameters: dict) -> Result:
    """Run one notebook in a new kernel into ``target``; a failure is in the result, not raised."""
    begin, reason = time.perf_counter(), ""
    try:
        papermill.execute_notebook(
            str(path),
            str(target),
            parameters=parameters,
            kernel_name=KERNEL,
            cwd=str(path.parent),
            progress_bar=sys.stderr.isatty(),
            extra_arguments=KERNEL_ARGUMENTS,
        )
    except papermill.PapermillExecutionError as error:
        reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}"
    except Exception as error:  # a kernel that dies or does not start: the other notebooks can still run
        reason = f"{type(error).__name__}: {error}"
    minutes = (time.perf_counter() - begin) / 60
    return Result(
        path.stem, *title_and_summary(nbformat.read(path, as_version=4)), minutes, reason, parameters
    )


def tidy(path: Path) -> None:
    """Take papermill's paths and times and the widgets' state out of an executed notebook."""
    nb = nbformat.read(path, as_version=4)
    for output in outputs(nb):
        if WIDGET_VIEW in output.get("data", {}):
            output.data["text/html"] = STILL
    drop_widget_state(nb)
    for owner in (nb, *nb.cells):
        owner.metadata.pop("papermill", None)
    nbformat.write(nb, path)


def write_page(
    result: Result, before: Result | None, after: Result | None, pages: set[str], build: Path
) -> None:
    """Convert one executed notebook to an HTML page with links to its neighbours."""
    nb = nbformat.read(build / "notebooks" / f"{result.name}.ipynb", as_version=4)
    exporter = HTMLExporter(
        template_name="book",
        extra_template_basedirs=[str(Path(__file__).parent / "nbconvert")],
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    resources = {"metadata": {"name": result.title}, "book": {"before": before, "after": after}}
    html, _ = exporter.from_notebook_node(nb, resources)
    (build / "html" / result.page).write_text(rebase(html, pages), encoding="utf-8")


def rebase(html: str, pages: set[str]) -> str:
    """Make links that are right in notebooks/ right in build/html/: to its pages, and to other files."""

    def moved(match: re.Match) -> str:
        attribute, link, anchor = match.groups()
        page = re.sub(r"\.ipynb$", ".html", link)
        if page not in pages and link != "index.html" and not link.startswith("mathjax/"):
            page = f"../../notebooks/{link}"
        return f'{attribute}="{page}{anchor}"'

    return re.sub(r'\b(href|src)="([^"#:]+)([^":]*)"', moved, html)


def write_index(results: list[Result], target: Path) -> None:
    """The page to open: what there is to read, how long it took to run, and whether it ran through."""
    rows = "\n".join(
        f'<tr><th scope="row"><a href="{r.page}">{escape(r.title)}</a><p>{escape(r.summary)}</p></th>'
        f"<td>{r.minutes:.1f}</td>"
        + (f'<td class="bad">failed<p>{escape(_short(r.reason))}</p>' if r.reason else "<td>ran through")
        + "".join(f"<p>{escape(name)} = {escape(str(value))}</p>" for name, value in r.parameters.items())
        + "</td></tr>"
        for r in results
    )
    machine = f"Python {platform.python_version()}, torch {version('torch')}, {os.cpu_count()} CPU cores"
    template = (Path(__file__).parent / "nbconvert" / "contents.html").read_text(encoding="utf-8")
    target.write_text(template.replace("{rows}", rows).replace("{machine}", machine), encoding="utf-8")


def print_table(results: list[Result]) -> None:
    width = max(len(r.name) for r in results)
    print(f"\n{'notebook'.ljust(width)}  minutes")
    for r in results:
        print(
            f"{r.name.ljust(width)}  {r.minutes:7.1f}  {'FAILED ' + _short(r.reason) if r.reason else 'ok'}"
        )
    print(f"{'all'.ljust(width)}  {sum(r.minutes for r in results):7.1f}")


def main(argv: list[str] | None = None, folder: Path = NOTEBOOKS, build: Path = BUILD) -> int:
    parser = argparse.ArgumentParser(description="Execute the notebooks into build/ and write HTML pages.")
    parser.add_argument("names", nargs="*", help='which notebooks, for example "01 02"; all when left out')
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter in every chosen notebook; can be given several times",
    )
    arguments = parser.parse_args(argv)
    parameters = parse_parameters(arguments.parameters)
    paths = chosen(arguments.names, folder)
    check_parameters(paths, parameters)

    executed, html = build / "notebooks", build / "html"
    executed.mkdir(parents=True, exist_ok=True)
    html.mkdir(exist_ok=True)
    results = []
    for number, path in enumerate(paths, 1):
        print(f"[{number}/{len(paths)}] {path.stem} …", flush=True)
        result = execute(path, executed / path.name, parameters)
        print(
            f"      FAILED after {result.minutes:.1f} min: {result.reason}"
            if result.reason
            else f"      done in {result.minutes:.1f} min",
            flush=True,
        )
        results.append(result)
        if (executed / path.name).exists():
            tidy(executed / path.name)

    write_pages(results, chosen([], folder), build)
    print_table(results)
    print(f"\nOpen {(html / 'index.html').resolve().as_uri()}")
    return 1 if any(r.reason for r in results) else 0


def write_pages(new: list[Result], paths: list[Path], build: Path) -> None:
    """Write the pages and the index: of this run's notebooks, and of those that earlier runs left there."""
    kept = build / "results.json"
    known = (
        {r["name"]: Result(**r) for r in json.loads(kept.read_text(encoding="utf-8"))}
        if kept.exists()
        else {}
    )
    known |= {r.name: r for r in new}
    results = [known[p.stem] for p in paths if p.stem in known and (build / "notebooks" / p.name).exists()]
    kept.write_text(json.dumps([asdict(r) for r in results], indent=1), encoding="utf-8")

    mathjax = Path(find_spec("jupyter_server_mathjax").origin).parent / "static"
    shutil.copytree(mathjax, build / "html" / "mathjax", dirs_exist_ok=True)
    pages = {r.page for r in results}
    for before, result, after in zip([None, *results], results, [*results[1:], None]):
        write_page(result, before, after, pages, build)
    write_index(results, build / "html" / "index.html")


def _plain(markdown: str) -> str:
    """Markdown without its marks for emphasis, code and links."""
    return re.sub(r"[*`]|\[([^]]*)\]\([^)]*\)", r"\1", markdown)


def _short(reason: str) -> str:
    return reason.strip().splitlines()[0][:150] if reason.strip() else ""


if __name__ == "__main__":
    sys.exit(main())
