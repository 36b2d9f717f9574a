"""Playgrounds: sliders over pictures that are all made beforehand, and a grid of cells to paint.

Behind a slider an answer is one message to the browser. Paintings are too many to be made beforehand: there
the picture comes at once, and the numbers when they are ready.

A picture is an HTML widget with an `<img>` and not ipywidgets' Image, because the latter has no alt text.
"""

import base64
import html
import itertools
from collections.abc import Callable, Mapping, Sequence

from .show.paint import array, heat, png

try:
    import ipywidgets
except ImportError as error:
    raise ImportError("the playgrounds need ipywidgets: pip install 'cambook[notebooks]'.") from error

# What a cell of a painting can be, and how that is written on its button.
LEVELS, WRITTEN = (0.0, 0.5, 1.0), ("0", "½", "1")


def scrub(frames: Sequence, labels: Sequence[str], *, alt: str, name: str = "step") -> "Playground":
    """A slider through a row of pictures.

    frames: (H, W, 3) uint8 pictures. labels: one per frame. alt: what the pictures show; the current label is
    added to it. name: what the slider moves through.
    """
    labels = [str(label) for label in labels]
    if len(frames) != len(labels):
        raise ValueError(f"{len(frames)} frames need as many labels; got {len(labels)}: {labels}.")
    by_label = dict(zip(labels, frames))
    return explorer({name: labels}, lambda **choice: by_label[choice[name]], alt=alt)


def explorer(options: Mapping[str, Sequence], render: Callable, *, alt: str) -> "Playground":
    """A slider per option, and the picture that belongs to the choice.

    options: name -> its choices, all different. render(**choice) -> (H, W, 3) uint8 picture. Every
    combination is rendered now, so keep render cheap: compute the maps in the cell before and let render only
    pick one and paint it.
    alt: what the pictures show; the current choice is added to it.
    Tab goes from slider to slider, the arrow keys left and right move one. (Menus would be no good:
    JupyterLab takes their arrow keys for itself, to go from cell to cell.)
    """
    for name, choices in options.items():
        if not choices or len(set(choices)) != len(choices):
            raise ValueError(f"option {name!r} needs choices, all different; got {list(choices)}.")
    return Playground({name: _slider(name, choices) for name, choices in options.items()}, render, alt)


def paint(
    starts: Mapping[str, Sequence], draw: Callable, measure: Callable, *, alt: str
) -> "Painting":
    """A grid of cells to click, a picture of what is painted, and what it measures.

    starts: name -> (h, w) cells, each 0, ½ or 1, all of one size; a button each, and the first is there at
        the beginning. draw(cells) -> (H, W, 3) uint8 picture. measure(cells) -> dict, name -> text. Both are
        called with nested lists of floats at every click, so let them ask the network little.
    alt: what the picture shows.
    Tab goes from button to button, Enter or the space bar takes a cell from 0 to ½ to 1 and back.
    """
    return Painting(starts, draw, measure, alt)


class Painting(ipywidgets.VBox):
    """`starts`: name -> button; `cells`: rows of buttons; `picture`, `numbers`: HTML widgets."""

    def __init__(self, starts: Mapping[str, Sequence], draw: Callable, measure: Callable, alt: str):
        _check_alt(alt)
        grids = {name: array(cells).astype(float) for name, cells in starts.items()}
        sizes = {grid.shape for grid in grids.values()}
        if len(sizes) != 1 or len(next(iter(sizes))) != 2:
            raise ValueError(f"a painting starts from cells (h, w), all of one size; got {sorted(sizes)}.")
        for name, grid in grids.items():
            if not set(grid.flat) <= set(LEVELS):
                raise ValueError(f"the cells of {name!r} must be 0, ½ or 1.")
        self.alt, self._draw, self._measure = alt.strip().rstrip("."), draw, measure
        self._grid = next(iter(grids.values())).copy()
        self.starts = {name: ipywidgets.Button(description=name) for name in grids}
        for name, button in self.starts.items():
            button.on_click(lambda _, grid=grids[name]: self._begin(grid))
        rows, columns = self._grid.shape
        self.cells = [[self._button(row, column) for column in range(columns)] for row in range(rows)]
        self.picture, self.numbers = ipywidgets.HTML(), ipywidgets.HTML()
        self._show()
        cells = ipywidgets.VBox([ipywidgets.HBox(row) for row in self.cells])
        below = ipywidgets.HBox([cells, self.picture, self.numbers], layout={"flex_flow": "row wrap"})
        super().__init__([ipywidgets.HBox(list(self.starts.values())), below])

    def _button(self, row: int, column: int) -> ipywidgets.Button:
        button = ipywidgets.Button(layout={"width": "2.4em", "height": "2.4em", "padding": "0", "margin": "1px"})
        button.on_click(lambda _: self._click(row, column))
        return button

    def _click(self, row: int, column: int) -> None:
        self._grid[row, column] = LEVELS[(LEVELS.index(self._grid[row, column]) + 1) % len(LEVELS)]
        self._show()

    def _begin(self, grid) -> None:
        self._grid = grid.copy()
        self._show()

    def _show(self) -> None:
        colours = heat(self._grid)
        for row, line in enumerate(self.cells):
            for column, button in enumerate(line):
                red, green, blue = colours[row, column]
                level = WRITTEN[LEVELS.index(self._grid[row, column])]
                button.style.button_color = f"rgb({red}, {green}, {blue})"
                button.style.text_color = "black" if self._grid[row, column] == 1 else "white"
                button.description, button.tooltip = level, f"row {row + 1}, column {column + 1}: {level}"
        painted = self._grid.tolist()
        self.picture.value = _image(self._draw(painted), self.alt)
        lines = (
            f"<tr><th scope='row' style='text-align: left'>{html.escape(str(name))}</th>"
            f"<td>{html.escape(str(value))}</td></tr>"
            for name, value in self._measure(painted).items()
        )
        self.numbers.value = f"<table style='margin-left: 1em'>{''.join(lines)}</table>"

    def _repr_mimebundle_(self, **kwargs):
        """As `Playground`'s: a sentence that is the same on every run."""
        bundle = super()._repr_mimebundle_(**kwargs)
        rows, columns = self._grid.shape
        sentence = (
            f"Playground, run this notebook to use it. {self.alt}. {rows}×{columns} cells; "
            f"to start from: {', '.join(self.starts)}."
        )
        return {**bundle, "text/plain": sentence}


class Playground(ipywidgets.VBox):
    """Sliders above a picture. `controls`: name -> slider; `picture`: the HTML widget with the `<img>`."""

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], render: Callable, alt: str):
        _check_alt(alt)
        self.controls, self.alt = dict(controls), alt.strip().rstrip(".")
        self._pages = {}
        for choice in itertools.product(*(control.options for control in controls.values())):
            named = dict(zip(controls, choice))
            self._pages[choice] = self._page(render(**named), named)
        self.picture = ipywidgets.HTML()
        self._show()
        for control in self.controls.values():
            control.observe(self._show, names="value")
        super().__init__([*self.controls.values(), self.picture])

    def _page(self, picture, choice: Mapping) -> str:
        now = ", ".join(f"{name} {value}" for name, value in choice.items())
        return f"<div>{html.escape(now)}</div>{_image(picture, f'{self.alt}: {now}')}"

    def _show(self, change=None) -> None:
        self.picture.value = self._pages[tuple(control.value for control in self.controls.values())]

    def _repr_mimebundle_(self, **kwargs):
        """The widget, and for pages where no kernel runs a sentence that is the same on every run.

        The model id in the widget's own text would differ; a stored notebook keeps the sentence alone.
        """
        bundle = super()._repr_mimebundle_(**kwargs)
        choices = "; ".join(
            f"{name}: {', '.join(map(str, control.options))}" for name, control in self.controls.items()
        )
        return {**bundle, "text/plain": f"Playground, run this notebook to use it. {self.alt}. {choices}."}


def _check_alt(alt: str) -> None:
    if not alt.strip():
        raise ValueError("alt must say what the pictures show, for those who cannot see them.")


def _image(picture, alt: str) -> str:
    """The picture as HTML, with all that it needs inside."""
    width = array(picture).shape[1]
    width *= max(1, 384 // width)  # small pictures are enlarged, by whole numbers
    data = base64.b64encode(png(picture)).decode("ascii")
    return (
        f'<img class="cambook-picture" alt="{html.escape(alt)}" '
        f'style="width: {width}px; max-width: 100%" src="data:image/png;base64,{data}">'
    )


def _slider(name: str, choices: Sequence) -> ipywidgets.SelectionSlider:
    """Without its readout, one more stop for the Tab key: the choice is written above the picture."""
    return ipywidgets.SelectionSlider(
        options=list(choices),
        description=name,
        readout=False,
        style={"description_width": "6em"},
        layout={"width": "26em"},
    )
