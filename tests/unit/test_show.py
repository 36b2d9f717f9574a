"""Figures: their colours, their layout, and that their alt text gets into the notebook."""

import base64
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from cambook import show, world
from cambook.show import figures

ALT = "Three panels that show the same cat."


@pytest.fixture
def shown(monkeypatch):
    """What was displayed: a list of (picture, data, metadata)."""
    outputs = []

    def publish(data, metadata):
        picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
        assert picture.mode == "RGB"  # opaque: a page in dark mode cannot shine through
        outputs.append((np.asarray(picture), data, metadata))

    monkeypatch.setattr("IPython.display.publish_display_data", publish)
    monkeypatch.setattr(figures, "_in_notebook", lambda: True)
    return outputs


@pytest.fixture
def photo():
    return world.scene(3).image


def lightness(colours):
    linear = (colours / 255.0) ** 2.2
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def bump(height=128, width=128, row=64, column=64, spread=20):
    y, x = np.mgrid[:height, :width]
    return np.exp(-(((x - column) / spread) ** 2 + ((y - row) / spread) ** 2))


# ---- colours ------------------------------------------------------------------------------------------


def test_heat_gets_steadily_lighter_and_is_inferno():
    from matplotlib import colormaps

    ramp = np.linspace(0, 1, 101)[None]
    colours = show.heat(ramp)
    assert colours.shape == (1, 101, 3) and colours.dtype == np.uint8
    assert (np.diff(lightness(colours[0].astype(float))) > 0).all()
    assert np.abs(colours / 255 - colormaps["inferno"](ramp)[..., :3]).max() < 0.04


def test_heat_takes_tensors_and_refuses_what_it_cannot_show():
    assert (show.heat(torch.ones(2, 2, dtype=torch.bfloat16)) == show.heat([[1.0, 1], [1, 1]])).all()
    for map, says in (
        (np.full((2, 2), 1.1), "show.signed"),
        (np.full((2, 2), -0.1), "show.signed"),
        (np.zeros((1, 2, 2)), "pick one"),
        (np.full((2, 2), np.nan), "NaN"),
    ):
        with pytest.raises(ValueError, match=says):
            show.heat(map)


def test_signed_is_white_at_zero_and_has_one_scale_for_both_signs():
    blue, white, red, pale = show.signed([[-2.0, 0.0, 2.0, 1.0]])[0].astype(int)
    assert white.min() > 240 and np.ptp(white) == 0
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50
    assert (show.signed([[1.0]], limit=2)[0, 0] == pale).all()
    assert (show.signed(np.zeros((2, 2))) == white).all()


def test_overlay_is_grey_where_cold_and_shows_the_object_where_hot():
    photo = np.zeros((8, 8, 3), dtype=np.uint8)
    photo[:, ::2] = (250, 120, 40)
    cold = show.overlay(photo, np.zeros((8, 8)))
    assert (cold == cold[..., :1]).all() and cold[0, 0, 0] > cold[0, 1, 0] + 50
    hot = show.overlay(photo, np.ones((8, 8)), contour=False)
    assert hot[0, 0, 0] > hot[0, 0, 2] + 50, "yellow must win over the photo's own colour"
    assert lightness(hot[0, 0].astype(float)) > lightness(hot[0, 1].astype(float)) * 1.7, "stripes are gone"
    assert (photo[:, ::2] == (250, 120, 40)).all(), "the caller's photo was painted on"


def test_the_contour_runs_along_half_of_the_maximum(photo):
    map = 0.6 * bump(spread=30)
    map /= 1.0 if map.max() < 0.6 else map.max() / 0.6
    plain, lined = show.overlay(photo, map, contour=False), show.overlay(photo, map)
    line = (plain != lined).any(axis=2)
    assert line.any() and (map[line] >= 0.3).all() and map[line].max() < 0.35
    assert (show.overlay(photo, 0 * map) == show.overlay(photo, 0 * map, contour=False)).all()


def test_outline_draws_the_inner_edge_only():
    picture = np.zeros((6, 6, 3), dtype=np.uint8)
    mask = np.zeros((6, 6), dtype=bool)
    mask[1:5, 0:4] = True  # touches the left side, where there is no edge to see
    drawn = show.outline(picture, mask, (9, 9, 9))[..., 0] == 9
    expected = mask.copy()
    expected[2:4, 0:3] = False
    assert (drawn == expected).all()
    assert (picture == 0).all(), "the caller's picture was painted on"
    with pytest.raises(ValueError, match="mask must be a bool array"):
        show.outline(picture, mask[:5])
    with pytest.raises(ValueError, match="mask must be a bool array"):
        show.outline(picture, mask.astype(float))


def test_overlay_says_what_is_wrong(photo):
    with pytest.raises(ValueError, match=r"the map is \(64, 128\), the photo \(128, 128\)"):
        show.overlay(photo, np.zeros((64, 128)))
    with pytest.raises(ValueError, match=r"a photo is a uint8 array .* net.preprocessing.photo"):
        show.overlay(torch.zeros(3, 128, 128), np.zeros((128, 128)))


def test_png_is_near_and_white_stays_white(photo):
    back = np.asarray(Image.open(io.BytesIO(show.png(photo)))).astype(int)
    assert np.abs(back - photo).max() <= 4
    white = np.full((3, 5, 3), 255, dtype=np.uint8)
    assert (np.asarray(Image.open(io.BytesIO(show.png(white)))) == 255).all()


def test_painting_needs_no_matplotlib_and_figures_no_pyplot():
    script = (
        "import sys, numpy as np\n"
        "from cambook import show\n"
        "photo = np.zeros((8, 8, 3), np.uint8)\n"
        "show.png(show.overlay(photo, np.ones((8, 8)))), show.signed(-np.eye(3))\n"
        "assert 'matplotlib' not in sys.modules, 'the command line would need matplotlib'\n"
        "show.images([photo, np.eye(4)], ['a', 'b'], alt='two small pictures')\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'pyplot would show the figure again'\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "two small pictures\n", "a plain script gets the alt text"


# ---- figures ------------------------------------------------------------------------------------------


def test_alt_text_is_in_the_output_and_is_its_text_form(shown, photo):
    show.images([photo], alt="A green cat,\n   looking left.")
    [(_, data, metadata)] = shown
    assert metadata == {"image/png": {"alt": "A green cat, looking left."}}
    assert set(data) == {"image/png", "text/plain"} and data["text/plain"] == "A green cat, looking left."


@pytest.mark.parametrize("alt", ["", "  ", "figure", None])
def test_alt_text_must_be_one(shown, photo, alt):
    with pytest.raises(ValueError, match="alt must say in a sentence"):
        show.images([photo], alt=alt)
    assert not shown


def test_small_maps_are_enlarged_cell_by_cell(shown):
    map = np.arange(16).reshape(4, 4) / 15
    show.images([map], alt=ALT)
    page = shown[0][0].astype(int)
    found = show.heat(map).astype(int)
    rows = [y for y in range(page.shape[0] - 256) if np.abs(page[y + 32, 12 + 32] - found[0, 0]).max() <= 4]
    top = rows[0]
    cells = page[top + 32 : top + 256 : 64, 12 + 32 : 12 + 256 : 64]
    assert np.abs(cells - found).max() <= 4


def test_every_kind_of_picture(shown, photo):
    kinds = [
        photo,
        photo / 255.0,
        photo[..., 0],
        photo[..., 0] > 99,
        bump(),
        bump() - 0.5,
        7 * bump(),
        np.arange(9).reshape(3, 3),
    ]
    show.images(kinds, [str(kind.dtype) for kind in kinds], alt=ALT)
    assert shown[0][0].shape[1] == figures.PAGE
    for wrong, says in (
        (photo.transpose(2, 0, 1), "net.preprocessing.photo"),
        (photo * 1.0, "uint8, or float within"),
        (np.zeros(5), "got shape"),
    ):
        with pytest.raises(ValueError, match=says):
            show.images([wrong], alt=ALT)
    with pytest.raises(ValueError, match="no picture"):
        show.images([], alt=ALT)
    with pytest.raises(ValueError, match="2 titles for 1 pictures"):
        show.images([photo], ["a", "b"], alt=ALT)


def test_only_maps_off_the_unit_range_get_a_colour_bar():
    assert figures._panel(bump())[1] is None
    assert figures._panel(3.0 * bump(row=0, column=0))[1] == (0, 3)
    assert figures._panel(np.array([[-1.0, 3.0]]))[1] == (-3, 3)


def test_the_size_of_panels():
    assert figures._panel_width(128, 4, None) == 256
    assert figures._panel_width(8, 1, None) == 256
    assert figures._panel_width(100, 2, None) == 200, "enlarged by a whole number"
    assert figures._panel_width(500, 2, None) == 256, "reduced to fit"
    assert figures._panel_width(128, 6, None) == 128
    assert figures._panel_width(100, 1, 1.5) == 150
    assert [figures._columns(count) for count in (1, 4, 5, 6, 7, 9)] == [1, 4, 3, 3, 4, 3]


def test_titles_wrap_and_no_text_is_cut_off(shown, photo):
    sentence = "After the division the fence is as quiet as the bird, and only its outline is left."
    show.images([photo, photo], [sentence, "short"], alt=ALT, suptitle=sentence * 3)
    page = shown[0][0]
    assert (page[:, :8] == 255).all() and (page[:, -8:] == 255).all() and (page[:8] == 255).all()
    lines = figures._wrap(sentence, 256, figures.TITLE)
    assert " ".join(lines) == sentence and len(lines) > 2
    assert all(figures._text_width(line, figures.TITLE) <= 256 for line in lines)
    assert figures._wrap("", 100, 14) == [] and figures._wrap("one\ntwo", 1000, 14) == ["one", "two"]


def test_a_grid_shows_the_photo_first_then_each_map_on_it(shown, photo, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        figures, "images", lambda pictures, titles, **more: drawn.update(zip(titles, pictures))
    )
    show.grid(photo, {"Grad-CAM": bump(), "Score-CAM": bump(row=20)}, alt=ALT)
    assert list(drawn) == ["photo", "Grad-CAM", "Score-CAM"]
    assert (drawn["photo"] == photo).all() and (drawn["Score-CAM"] == show.overlay(photo, bump(row=20))).all()


def test_numbers_are_written_short():
    written = [figures._number(value, 2) for value in (3.0, -0.0, 0.254, -0.001, 1e-9, -1.5, 100)]
    assert written == ["3", "0", "0.25", "0.00", "0.00", "-1.50", "100"]


def test_matrices_of_numbers(shown):
    show.numbers({"A": np.array([[1, 0.5], [0, -2]]), "b": torch.tensor([1, 2, 3])}, alt=ALT)
    show.numbers(np.eye(3), alt=ALT)
    assert shown[0][0].shape[0] < 200 and (shown[1][0] < 100).any(), "digits are dark"
    with pytest.raises(ValueError, match="at most 12 columns"):
        show.numbers(np.zeros((2, 13)), alt=ALT)
    with pytest.raises(ValueError, match="no matrix"):
        show.numbers({}, alt=ALT)


def test_bars(shown):
    show.bars(
        {"Grad-CAM": 0.74, "a centred Gaussian": 0.31, "random": -0.1},
        alt=ALT,
        title="Energy inside the object. " * 4,
    )
    page = shown[0][0]
    assert page.shape[1] == 640 and (page[:, :4] == 255).all() and (page[:, -4:] == 255).all()
    for values in ({}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="at least one value"):
            show.bars(values, alt=ALT)


def test_an_own_figure_is_opaque_and_not_shown_twice(shown):
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(figsize=(3, 2), dpi=200, facecolor="black")
    axes.plot([0, 1], [1, 0])
    show.figure(fig, alt="A line that falls.")
    page = shown[0][0]
    assert page.shape == (192, 288, 3) and (page[0, 0] == 255).all()
    assert plt.get_fignums() == []


def test_the_same_figure_has_the_same_bytes_whatever_the_readers_style(shown, photo):
    import matplotlib

    def draw():
        show.grid(photo, {"Grad-CAM": bump()}, alt=ALT, suptitle="Look at the cat.")
        show.bars({"a": 1.0, "b": 0.25}, alt=ALT, title="Two bars.")
        show.numbers(np.eye(2), alt=ALT)

    draw()
    dark = {"text.color": "white", "figure.facecolor": "black", "font.size": 20, "font.family": "monospace"}
    dark |= {"figure.dpi": 50, "savefig.dpi": 300}
    with matplotlib.rc_context(dark):
        draw()
    for before, after in zip(shown[:3], shown[3:]):
        assert before[1]["image/png"] == after[1]["image/png"]


def test_a_row_of_four_scenes_stays_small(shown):
    scenes = [world.scene(seed).image for seed in range(4)]
    show.images(scenes, alt=ALT)
    show.grid(scenes[0], {"a": bump(), "b": bump(row=30), "c": bump(column=30)}, alt=ALT)
    assert max(len(base64.b64decode(data["image/png"])) for _, data, _ in shown) < 90_000
