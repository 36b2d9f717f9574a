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
