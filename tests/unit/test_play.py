"""Playgrounds: moving a control changes the picture and its alt text, from frames made beforehand."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

ipywidgets = pytest.importorskip("ipywidgets", reason="the notebooks extra is not installed")

from cambook import play  # noqa: E402


def frame(value, size=8):
    return np.full((size, size, 3), value, dtype=np.uint8)


def seen(playground):
    """Grey value and alt text of the picture on the page."""
    source = re.search(r'src="data:image/png;base64,([^"]+)"', playground.picture.value).group(1)
    alt = re.search(r'alt="([^"]*)"', playground.picture.value).group(1)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source))))[0, 0, 0], alt


def test_the_slider_changes_picture_and_alt_text():
    playground = play.scrub(
        [frame(0), frame(80), frame(160)], ["shallow", "middle", "deep"], alt="A map", name="layer"
    )
    slider = playground.controls["layer"]
    assert isinstance(slider, ipywidgets.SelectionSlider) and slider.continuous_update
    assert (
        seen(playground) == (0, "A map: layer shallow")
        and "<div>layer shallow</div>" in playground.picture.value
    )
    slider.value = "deep"
    assert seen(playground) == (160, "A map: layer deep")
    slider.index = 1
    assert seen(playground) == (80, "A map: layer middle")


def test_the_explorer_shows_every_combination_and_renders_each_once():
    rendered = []

    def render(scene, method):
        rendered.append((scene, method))
        return frame(16 * scene + (128 if method == "Score-CAM" else 0))

    playground = play.explorer({"scene": [1, 2, 3], "method": ["Grad-CAM", "Score-CAM"]}, render, alt="Heat")
    assert sorted(rendered) == [(s, m) for s in (1, 2, 3) for m in ("Grad-CAM", "Score-CAM")]
    # no menus: JupyterLab takes their arrow keys for itself
    assert all(isinstance(control, ipywidgets.SelectionSlider) for control in playground.controls.values())
    for scene in (3, 1, 2):
        for method, extra in (("Score-CAM", 128), ("Grad-CAM", 0)):
            playground.controls["scene"].value = scene
            playground.controls["method"].value = method
            assert seen(playground) == (16 * scene + extra, f"Heat: scene {scene}, method {method}")
    assert len(rendered) == 6, "moving a control must not compute anything"


def test_text_in_the_page_cannot_break_out_of_it():
    playground = play.scrub([frame(0)], ['"><script>'], alt="a < b")
    assert (
        "<script>" not in playground.picture.value
        and "a &lt; b: step &quot;&gt;&lt;script&gt;" in playground.picture.value
    )


def test_small_pictures_are_enlarged():
    assert "width: 384px" in play.scrub([frame(0, 128)], ["a"], alt="x").picture.value
    assert "width: 224px" in play.scrub([frame(0, 224)], ["a"], alt="x").picture.value


def test_where_no_kernel_runs_a_sentence_is_left_that_never_changes():
    made = [
        play.explorer(
            {"scene": [1, 2, 3], "show": ["mask", "map"]}, lambda **_: frame(0), alt="Maps of a cat."
        )
        for _ in "ab"
    ]
    first, second = (playground._repr_mimebundle_() for playground in made)
    sentence = "Playground, run this notebook to use it. Maps of a cat. scene: 1, 2, 3; show: mask, map."
    assert first["text/plain"] == second["text/plain"] == sentence
    assert set(first) == {"text/plain", "application/vnd.jupyter.widget-view+json"}


def painting(rows=2, columns=3, asked=None):
    """What is drawn is grey of the cells' sum; what is measured is that sum."""
    asked = [] if asked is None else asked

    def measure(cells):
        asked.append(cells)
        return {"sum <b>": f"{sum(map(sum, cells)):g}"}

    starts = {"empty": np.zeros((rows, columns)), "full": np.ones((rows, columns))}
    return play.paint(starts, lambda cells: frame(int(20 * sum(map(sum, cells)))), measure, alt="My map.")


def test_a_click_takes_a_cell_from_0_to_a_half_to_1_and_back():
    asked = []
    made = painting(asked=asked)
    assert seen(made) == (0, "My map") and "<td>0</td>" in made.numbers.value
    cell = made.cells[1][2]
    told = []
    for _ in range(3):
        cell.click()
        told.append((cell.description, cell.tooltip, cell.style.button_color, seen(made)[0]))
    assert [words for words, *_ in told] == ["½", "1", "0"]
    assert told[1][1] == "row 2, column 3: 1" and told[1][2] == "rgb(252, 255, 164)"
    assert [grey for *_, grey in told] == [8, 16, 0], "half and whole of 20, rounded to eights"
    assert [cells[1][2] for cells in asked] == [0, 0.5, 1, 0]
    assert all(cells[0] == [0, 0, 0] for cells in asked), "the other cells stay"


def test_a_painting_begins_again_from_a_button_and_leaves_the_start_as_it_was():
    made = painting()
    made.starts["full"].click()
    assert "<td>6</td>" in made.numbers.value
    made.cells[0][0].click()
    assert "<td>5</td>" in made.numbers.value
    made.starts["full"].click()
    assert "<td>6</td>" in made.numbers.value and "sum &lt;b&gt;" in made.numbers.value


def test_a_painting_leaves_a_sentence_where_no_kernel_runs():
    made = [painting()._repr_mimebundle_() for _ in "ab"]
    sentence = "Playground, run this notebook to use it. My map. 2×3 cells; to start from: empty, full."
    assert made[0]["text/plain"] == made[1]["text/plain"] == sentence
    assert set(made[0]) == {"text/plain", "application/vnd.jupyter.widget-view+json"}


def test_bad_paintings_are_refused():
    for starts, words in (
        ({"a": np.zeros((2, 2)), "b": np.zeros((2, 3))}, "all of one size"),
        ({"a": np.zeros(4)}, "all of one size"),
        ({}, "all of one size"),
        ({"a": np.full((2, 2), 0.3)}, "cells of 'a' must be 0, ½ or 1"),
    ):
        with pytest.raises(ValueError, match=words):
            play.paint(starts, lambda cells: frame(0), lambda cells: {}, alt="x")
    with pytest.raises(ValueError, match="alt must say"):
        play.paint({"a": np.zeros((2, 2))}, lambda cells: frame(0), lambda cells: {}, alt=" ")


def test_bad_playgrounds_are_refused():
    with pytest.raises(ValueError, match="'step' needs choices, all different; got .'a', 'a'"):
        play.scrub([frame(0), frame(1)], ["a", "a"], alt="x")
    with pytest.raises(ValueError, match="2 frames need as many labels; got 1"):
        play.scrub([frame(0), frame(1)], ["a"], alt="x")
    with pytest.raises(ValueError, match="alt must say"):
        play.scrub([frame(0)], ["a"], alt=" ")
    with pytest.raises(ValueError, match="'layer' needs choices"):
        play.explorer({"layer": []}, lambda **_: frame(0), alt="x")
    with pytest.raises(ValueError, match="a photo is a uint8"):
        play.explorer({"layer": [1]}, lambda **_: np.zeros((4, 4)), alt="x")
