"""Figures of the book: colour-safe, with alt text, the same bytes on every run.

Colours (`heat`, `signed`, `overlay`, `outline`) are NumPy in, NumPy out. Figures (`images`, `grid`,
`numbers`, `bars`, `figure`) are displayed in the notebook; each demands `alt`, one sentence for readers who
cannot see it.
"""

from .figures import bars, figure, grid, images, numbers
from .paint import heat, outline, overlay, png, signed

__all__ = ["bars", "figure", "grid", "heat", "images", "numbers", "outline", "overlay", "png", "signed"]
