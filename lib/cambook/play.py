"""Playgrounds: sliders over pictures that are all made beforehand: an answer is one message to the browser.

The picture is an HTML widget with an `<img>` and not ipywidgets' Image, because the latter has no alt text.
"""

import base64
import html
import itertools
from collections.abc import Callable, Mapping, Sequence

from .show.paint import array, png

try:
    import ipywidgets
except ImportError as error:
    raise ImportError("the playgrounds need ipywidgets: pip install 'cambook[notebooks]'.") from error


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


class Playground(ipywidgets.VBox):
    """Sliders above a picture. `controls`: name -> slider; `picture`: the HTML widget with the `<img>`."""

    def __init__(self, controls: Mapping[str, ipywidgets.Widget], render: Callable, alt: str):
        if not alt.strip():
            raise ValueError("alt must say what the pictures show, for those who cannot see them.")
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
        width = array(picture).shape[1]
        width *= max(1, 384 // width)  # small pictures are enlarged, by whole numbers
        data = base64.b64encode(png(picture)).decode("ascii")
        return (
            f"<div>{html.escape(now)}</div>"
            f'<img class="cambook-picture" alt="{html.escape(f"{self.alt}: {now}")}" '
            f'style="width: {width}px; max-width: 100%" src="data:image/png;base64,{data}">'
        )

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


def _slider(name: str, choices: Sequence) -> ipywidgets.SelectionSlider:
    """Without its readout, one more stop for the Tab key: the choice is written above the picture."""
    return ipywidgets.SelectionSlider(
        options=list(choices),
        description=name,
        readout=False,
        style={"description_width": "6em"},
        layout={"width": "26em"},
    )
