"""Common style of all figures: sizes, colors and axes, without changing matplotlib's global settings."""

from __future__ import annotations

import logging
import unicodedata
from functools import lru_cache

import numpy as np
from matplotlib import patheffects
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font

_logger = logging.getLogger(__name__)

# Widths of one column and of the text of a two-column paper, inches.
COLUMN_WIDTH = 3.3
TEXT_WIDTH = 7.0

# Font sizes in points, readable at the widths above.
TITLE_SIZE = 9
LABEL_SIZE = 8
TICK_SIZE = 7
NOTE_SIZE = 7
# Of the typeface on average, in units of the font size.
_CHARACTER_WIDTH = 0.64

# Colors of Okabe and Ito, distinguishable with every kind of color vision. Without their yellow, which is too pale on
# white paper, and black, which is used for text.
BLUE = "#0072B2"
ORANGE = "#E69F00"
GREEN = "#009E73"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
SKY = "#56B4E9"
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY)
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">", "p")

RIGHT = GREEN
WRONG = "#CC3311"
TEXT = "#222222"
QUIET = "#767676"
BACKGROUND_POINTS = "#C9C9C9"
GRID = "#E6E6E6"
SEQUENTIAL_COLORMAP = "viridis"

# Ships with matplotlib, so it is always available, and covers most alphabets.
TYPEFACE = "DejaVu Sans"

# Typefaces for characters that `TYPEFACE` lacks, used if installed: Chinese, Japanese and Korean first.
FALLBACKS = (
    "Noto Sans CJK JP", "Noto Sans JP", "Source Han Sans JP", "IPAexGothic", "IPAGothic", "TakaoGothic",
    "Hiragino Sans", "Yu Gothic", "Meiryo", "MS Gothic", "Noto Sans CJK SC", "Noto Sans SC", "PingFang SC",
    "Microsoft YaHei", "SimHei", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "Noto Sans KR",
    "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "Noto Sans Arabic", "Noto Sans Hebrew",
    "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Noto Sans Ethiopic",
    "Noto Sans Georgian", "Noto Sans Khmer", "Nirmala UI", "Leelawadee UI", "Arial Unicode MS", "FreeSans", "Unifont",
)  # fmt: skip


def new_figure(width, height):
    """Return an empty figure of the given size in inches that pyplot does not manage."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def style_axes(axes, grid=True):
    """Apply the common style to axes: two spines, small ticks, a light grid behind the data."""
    axes.set_facecolor("white")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
        axes.spines[side].set_linewidth(0.6)
    axes.tick_params(labelsize=TICK_SIZE, length=2.5, width=0.6, color=QUIET, labelcolor=TEXT)
    axes.xaxis.label.set(fontsize=LABEL_SIZE, color=TEXT)
    axes.yaxis.label.set(fontsize=LABEL_SIZE, color=TEXT)
    if grid:
        axes.grid(True, color=GRID, linewidth=0.6)
        axes.set_axisbelow(True)


def square_around(points, margin=0.05):
    """Return the lower left and upper right corners of a square around points `(n, 2)`.

    The margin on each side is a fraction of the larger extent of the points.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    half = (0.5 + margin) * (high - low).max() or 1.0
    return 0.5 * (low + high) - half, 0.5 * (low + high) + half


def write_class(axes, place, name, color, *, size=LABEL_SIZE, outline=2.0, order=3):
    """Write the name of a class in a darker shade of its color, with a halo.

    Args:
        axes: `matplotlib.axes.Axes`.
        place: float array `(2,)`. Center of the text.
        name: str that is `drawable`.
        color: Color of the class.
        size: float, points. Font size.
        outline: float, points. Width of the halo. Default 2.
        order: float. zorder of matplotlib. Default 3.
    """
    axes.text(
        *place,
        name,
        ha="center",
        va="center",
        fontsize=size,
        fontweight="bold",
        family=typefaces(),
        color=0.6 * np.array(to_rgb(color)),
        path_effects=halo(outline),
        zorder=order,
        parse_math=False,
    )


def add_title(figure, title):
    """Write the title above the whole figure unless it is `None`."""
    if title is not None:
        figure.suptitle(title, fontsize=TITLE_SIZE, color=TEXT, family=typefaces(), parse_math=False)


def halo(width=1.6):
    """Return a white outline that keeps text readable over points and images."""
    return [patheffects.withStroke(linewidth=width, foreground="white")]


def typefaces():
    """Return `TYPEFACE` and the installed `FALLBACKS` for matplotlib's `family`; the first that has a glyph is used."""
    return [TYPEFACE, *_installed_fallbacks()]


def drawable(text):
    """Return the text with only characters that one of the `typefaces` has.

    A single character that cannot be shown alone (no glyph, no ink, or a combining mark) is replaced by its code point,
    such as `U+3042`; in longer texts, characters without a glyph are replaced by `?`. The first missing character
    causes a warning.
    """
    text = str(text)
    glyphs = _glyphs()
    missing = sorted({character for character in text if ord(character) not in glyphs and character.isprintable()})
    if missing:
        _warn_of_missing_glyphs(missing[0])
    if len(text) == 1:
        alone = text.isprintable() and not text.isspace() and not unicodedata.category(text).startswith("M")
        return text if alone and ord(text) in glyphs else f"U+{ord(text):04X}"
    return "".join(character if ord(character) in glyphs else "?" for character in text)


def shortened(text, length):
    """Return the text, or its beginning and an ellipsis if it has more than `length` characters."""
    text = str(text)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def fitting(text, width, size):
    """Return the text with each line shortened to about `width` inches at this font size, but to four characters."""
    length = max(4, int(72 * width / (_CHARACTER_WIDTH * size)))
    return "\n".join(shortened(line, length) for line in str(text).split("\n"))


_warned: list[str] = []


def _warn_of_missing_glyphs(character):
    if not _warned:
        _warned.append(character)
        _logger.warning(
            "No installed typeface has glyphs for some characters in names, which are shown as '?' or as code points. "
            "Received: U+%04X (%s). Install a typeface that has them, such as Noto Sans CJK (Debian: fonts-noto-cjk).",
            ord(character),
            unicodedata.name(character, "without a name"),
        )


@lru_cache(maxsize=1)
def _installed_fallbacks():
    installed = {font.name for font in fontManager.ttflist}
    return [name for name in FALLBACKS if name in installed]


@lru_cache(maxsize=1)
def _glyphs():
    glyphs = set()
    for name in typefaces():
        # Class names are bold in some figures and regular in others.
        fonts = [findfont(FontProperties(name, weight=weight)) for weight in ("normal", "bold")]
        glyphs |= set.intersection(*(set(FT2Font(font).get_charmap()) for font in fonts))
    return frozenset(glyphs)
