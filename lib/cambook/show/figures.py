"""Figures in a notebook: laid out to the pixel, displayed as one PNG that carries its alt text.

Panels are enlarged by copying pixels: a cell of an 8×8 map stays a square that can be counted, and the PNG
stays small. Matplotlib (imported when first needed) only writes the text; pyplot, its backends and the
reader's style are not touched, so that nothing is shown twice and everybody sees the same.
"""

import base64
import functools
import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from .paint import array, heat, overlay, png, signed

DPI = 96
PANEL = 256  # pixels
GAP = 12
PAGE = 4 * PANEL + 5 * GAP  # four panels with their gaps; browsers would shrink wider figures
TITLE, SMALL = 14, 12  # font sizes in pixels
FONT = "DejaVu Sans"  # comes with matplotlib: the same letters on every machine
LINE = 1.3  # line height, in font sizes
INK, FRAME, BAR = "#1a1a1a", (190, 190, 190), (51, 99, 141)


def images(
    pictures: Sequence,
    titles: Sequence[str] | None = None,
    *,
    alt: str,
    suptitle: str | None = None,
    columns: int | None = None,
    scale: float | None = None,
) -> None:
    """Display pictures and maps side by side.

    pictures: each one of (H, W, 3) uint8, or float in [0, 1]; (H, W) bool (a mask: white is True); (H, W)
    uint8 (grey); (H, W) float or int (a map). A map within [0, 1] is coloured by `heat`; one with negative
    values by `signed`; any other runs from 0 to its maximum. A map that is not within [0, 1] gets a colour
    bar, because its colours mean nothing without numbers.
    titles: one per picture; full sentences are wrapped. suptitle: a sentence above all, what to see.
    alt: the figure in one or two sentences, for those who cannot see it; also the stored text of the output.
    columns: pictures in a row, default at most four. scale: screen pixels for one pixel of the widest
    picture, default as large as fits the page, whole when enlarging.
    """
    panels = [_panel(picture) for picture in pictures]
    if not panels:
        raise ValueError("no picture to show: pass a list with at least one.")
    titles = [""] * len(panels) if titles is None else list(titles)
    if len(titles) != len(panels):
        raise ValueError(f"{len(titles)} titles for {len(panels)} pictures: give each picture one title.")
    columns = columns or _columns(len(panels))
    width = _panel_width(max(colours.shape[1] for colours, _ in panels), columns, scale)
    panels = [(_resize(colours, width), bar) for colours, bar in panels]
    _publish(_compose(panels, titles, suptitle, columns), alt)


def grid(
    photo,
    maps: Mapping,
    *,
    alt: str,
    suptitle: str | None = None,
    columns: int | None = None,
    scale: float | None = None,
    contour: bool = True,
) -> None:
    """Display a photo and, beside it, each map laid over it.

    photo: (H, W, 3) uint8. maps: title -> (H, W) map in [0, 1]. The other arguments: see `images` and
    `overlay`.
    """
    pictures = [photo] + [overlay(photo, map, contour) for map in maps.values()]
    images(pictures, ["photo", *maps], alt=alt, suptitle=suptitle, columns=columns, scale=scale)


def numbers(matrices, *, alt: str, suptitle: str | None = None, digits: int = 2) -> None:
    """Display small matrices with their numbers in the cells, side by side.

    matrices: title -> matrix, or one matrix; each (h, w) with at most 12 columns, or (h,) for a row. digits:
    decimals shown; whole numbers are shown without. The tint tells the sign (red > 0, blue < 0) and the size
    within its matrix.
    """
    if not isinstance(matrices, Mapping):
        matrices = {"": matrices}
    if not matrices:
        raise ValueError("no matrix to show: pass at least one.")
    panels = [(_cells(np.atleast_2d(array(matrix)), digits), None) for matrix in matrices.values()]
    row, used = 0, 0
    for colours, _ in panels:  # as many in the first row as fit the page
        used += colours.shape[1] + GAP
        row += used <= PAGE
    _publish(_compose(panels, list(matrices), suptitle, max(row, 1)), alt)


def bars(values: Mapping[str, float], *, alt: str, title: str | None = None, digits: int = 2) -> None:
    """Display one horizontal bar per name, with its number at the end.

    values: name -> number, drawn from top to bottom in the order given. digits: decimals of the printed
    numbers.
    """
    lengths = [float(value) for value in values.values()]
    if not lengths or not np.isfinite(lengths).all():
        raise ValueError("bars needs at least one value, and finite ones.")
    written = [_number(length, digits) for length in lengths]
    width, step = 640, 30
    names = math.ceil(max(_text_width(name, TITLE) for name in values))
    room = math.ceil(max(_text_width(text, TITLE) for text in written)) + GAP
    left = names + 2 * GAP + (room if min(lengths) < 0 else 0)
    low, high = min(*lengths, 0), max(*lengths, 0)
    unit = (width - left - room - GAP) / ((high - low) or 1)
    zero = left - low * unit
    heading = _wrap(title or "", width - 2 * GAP, TITLE)
    labels = [(line, GAP, GAP + number * TITLE * LINE, TITLE, "left") for number, line in enumerate(heading)]
    top = math.ceil(len(heading) * TITLE * LINE) + 2 * GAP
    page = np.full((top + step * len(lengths) + GAP, width, 3), 255, dtype=np.uint8)
    for row, (name, length, text) in enumerate(zip(values, lengths, written)):
        y, end = top + row * step, zero + length * unit
        page[y : y + 20, round(min(zero, end)) : round(max(zero, end))] = BAR
        labels.append((name, GAP + names, y + 2, TITLE, "right"))
        labels.append(
            (text, end + (4 if length >= 0 else -4), y + 2, TITLE, "left" if length >= 0 else "right")
        )
    page[top - 4 : -GAP, round(zero)] = 0
    _publish(_write(page, labels), alt)


def figure(fig, *, alt: str) -> None:
    """Display a matplotlib figure of your own: opaque, white behind, 96 dots per inch, with alt text.

    fig: a `matplotlib.figure.Figure`; one made by pyplot is closed, so that it does not appear a second time.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    fig.set_facecolor("white")
    fig.set_dpi(DPI)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)
    _publish(drawn, alt)


# ---- from a picture or a map to a panel ---------------------------------------------------------------


def _panel(picture) -> tuple[np.ndarray, tuple | None]:
    """Colours (H, W, 3) uint8 of one picture or map, and its colour bar (low, high), if it needs one."""
    picture = array(picture)
    if picture.ndim == 3 and picture.shape[2] == 3:
        return _true_colours(picture), None
    if picture.ndim != 2:
        raise ValueError(
            f"a picture is (H, W, 3) and a map is (H, W); got shape {picture.shape}: "
            "net.preprocessing.photo(tensor) makes a picture from a tensor, map[0] picks one map of a batch."
        )
    if picture.dtype == bool:
        return np.repeat(255 * picture[..., None].astype(np.uint8), 3, axis=2), None
    if picture.dtype == np.uint8:
        return np.repeat(picture[..., None], 3, axis=2), None
    if picture.min() < 0:
        limit = float(np.abs(picture).max())
        return signed(picture), (-limit, limit)
    high = float(picture.max())
    if high <= 1:
        return heat(picture), None
    return heat(picture / high), (0.0, high)


def _true_colours(picture: np.ndarray) -> np.ndarray:
    if picture.dtype == np.uint8:
        return picture
    if not (picture.dtype.kind == "f" and picture.min() >= 0 and picture.max() <= 1):
        raise ValueError(
            "a colour picture is uint8, or float within [0, 1]; this one is "
            f"{picture.dtype} from {picture.min():.3g} to {picture.max():.3g}."
        )
    return np.round(255 * picture).astype(np.uint8)


def _cells(matrix: np.ndarray, digits: int) -> np.ndarray:
    """Draw the cells of one matrix with their numbers."""
    if matrix.ndim != 2 or matrix.shape[1] > 12:
        raise ValueError(
            f"numbers draws matrices of at most 12 columns; got shape {matrix.shape}: use images."
        )
    written = [[_number(value, digits) for value in row] for row in matrix]
    width = max(40, 14 + max(math.ceil(_text_width(text, TITLE)) for row in written for text in row))
    height = 36
    limit = float(np.abs(matrix.astype(float)).max())
    tints = signed(matrix, 2 * limit)  # half strength, so that black numbers stay readable
    colours = np.repeat(np.repeat(tints, height, axis=0), width, axis=1)
    labels = [
        (text, (column + 0.5) * width, (row + 0.5) * height - 0.6 * TITLE, TITLE, "center")
        for row, texts in enumerate(written)
        for column, text in enumerate(texts)
    ]
    for edge in range(height, colours.shape[0], height):
        colours[edge] = 255
    for edge in range(width, colours.shape[1], width):
        colours[:, edge] = 255
    return _write(colours, labels)


def _number(value, digits: int) -> str:
    value = float(value)
    if value == round(value):
        return f"{value + 0.0:.0f}"  # + 0.0 turns -0 into 0
    return f"{round(value, digits) + 0.0:.{digits}f}"


# ---- layout -------------------------------------------------------------------------------------------


def _columns(count: int) -> int:
    """At most four in a row, and rows as even as possible."""
    return math.ceil(count / math.ceil(count / 4))


def _panel_width(widest: int, columns: int, scale: float | None) -> int:
    if scale is not None:
        return max(1, round(widest * scale))
    room = min(PANEL, (PAGE - (columns + 1) * GAP) // columns)
    return widest * (room // widest) if widest <= room else room


def _resize(colours: np.ndarray, width: int) -> np.ndarray:
    """Enlarge by copying pixels, reduce by averaging."""
    from PIL import Image

    height = max(1, round(colours.shape[0] * width / colours.shape[1]))
    method = Image.Resampling.NEAREST if width >= colours.shape[1] else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(colours).resize((width, height), method))


def _compose(panels: list, titles: list[str], suptitle: str | None, columns: int) -> np.ndarray:
    """Place panels, titles and colour bars on a white page; (H, W, 3) uint8."""
    cell = [
        max(colours.shape[1] for colours, _ in panels[column::columns])
        for column in range(min(columns, len(panels)))
    ]
    page_width = max(sum(cell) + GAP * (len(cell) + 1), 320)
    labels, placed, top = [], [], GAP
    for line in _wrap(suptitle or "", page_width - 2 * GAP, TITLE):
        labels.append((line, GAP, top, TITLE, "left"))
        top += TITLE * LINE
    top += GAP / 2 if suptitle else 0
    for start in range(0, len(panels), columns):
        row = panels[start : start + columns]
        texts = [_wrap(title, width, TITLE) for title, width in zip(titles[start : start + columns], cell)]
        title_height = math.ceil(max(len(lines) for lines in texts) * TITLE * LINE)
        left = GAP
        for (colours, bar), lines, width in zip(row, texts, cell):
            for number, line in enumerate(lines):  # titles stand on their pictures: short ones start lower
                y = top + title_height - (len(lines) - number) * TITLE * LINE
                labels.append((line, left, y, TITLE, "left"))
            picture_top = math.ceil(top + title_height) + 4
            placed.append((colours, left, picture_top))
            if bar is not None:
                strip, texts_below = _colour_bar(
                    bar, colours.shape[1], left, picture_top + colours.shape[0] + 6
                )
                placed.append(strip)
                labels += texts_below
            left += width + GAP
        height = max(colours.shape[0] + (32 if bar is not None else 0) for colours, bar in row)
        top = math.ceil(top + title_height) + 4 + height + GAP
    page = np.full((math.ceil(top), page_width, 3), 255, dtype=np.uint8)
    page = _write(page, labels)
    for colours, left, y in placed:
        h, w = colours.shape[:2]
        page[y - 1 : y + h + 1, left - 1 : left + w + 1] = FRAME
        page[y : y + h, left : left + w] = colours
    return page


def _colour_bar(bar: tuple[float, float], width: int, left: int, top: int) -> tuple[tuple, list]:
    """A strip of colours with the numbers at its ends (and zero in the middle of a signed one)."""
    low, high = bar
    ramp = np.linspace(low, high, width)[None].repeat(8, axis=0)
    colours = signed(ramp) if low < 0 else heat(ramp / high)
    texts = [
        (f"{low:.2g}", left, top + 11, SMALL, "left"),
        (f"{high:.2g}", left + width, top + 11, SMALL, "right"),
    ]
    if low < 0:
        texts.append(("0", left + width / 2, top + 11, SMALL, "center"))
    return (colours, left, top), texts


# ---- text ---------------------------------------------------------------------------------------------


def _points(pixels: float) -> float:
    return pixels * 72 / DPI


@functools.cache
def _renderer():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()


def _text_width(text: str, size: float) -> float:
    """Width in pixels, as matplotlib will write it."""
    from matplotlib.font_manager import FontProperties

    font = FontProperties(family=FONT, size=_points(size))
    return _renderer().get_text_width_height_descent(text, font, ismath=False)[0]


def _wrap(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines that fit the width; a word longer than a line stays whole."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and _text_width(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return [] if lines == [""] else lines


def _write(page: np.ndarray, labels: list[tuple]) -> np.ndarray:
    """Write texts on a page. labels: (text, x, y of the upper edge, size in pixels, alignment)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = page.shape[:2]
    fig = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    fig.patch.set_alpha(0)
    for text, x, y, size, align in labels:
        fig.text(
            x / width, 1 - y / height, text, size=_points(size), ha=align, va="top", color=INK,
            family=FONT, parse_math=False,
        )  # fmt: skip
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    drawn = np.asarray(canvas.buffer_rgba()).astype(np.float64)[:height, :width]
    ink = drawn[..., 3:] / 255
    return np.round(page * (1 - ink) + drawn[..., :3] * ink).astype(np.uint8)


# ---- display ------------------------------------------------------------------------------------------


def _publish(picture: np.ndarray, alt: str) -> None:
    """Display as PNG with alt text in the output's metadata, where it stays in the stored notebook.

    The text form is the alt text itself: nbval compares it, and an object's repr would differ on every run.
    """
    if not isinstance(alt, str) or len(alt.split()) < 3:
        raise ValueError("alt must say in a sentence what the figure shows, for those who cannot see it.")
    alt = " ".join(alt.split())
    if not _in_notebook():
        print(alt)  # a plain script has nowhere to display a picture
        return
    from IPython.display import publish_display_data

    encoded = base64.b64encode(png(picture)).decode("ascii")
    publish_display_data({"image/png": encoded, "text/plain": alt}, {"image/png": {"alt": alt}})


def _in_notebook() -> bool:
    return "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
