"""Nearest neighbors of query images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from tfdml._utils.types import ArrayLike
from tfdml.plots import style
from tfdml.plots.pixels import as_pixels, show

_RIGHT_MARK, _WRONG_MARK = "\N{CHECK MARK}", "\N{BALLOT X}"
# Inches: largest side of an image, and smallest width of the headline.
_LARGEST_SIDE = 1.0
_SHORTEST_HEADLINE = 3.3


def nearest_neighbors(
    query_images: ArrayLike,
    neighbor_images: ArrayLike,
    correct: ArrayLike,
    *,
    query_names: Sequence[str] | None = None,
    neighbor_names: Sequence[str] | None = None,
    width: float = style.TEXT_WIDTH,
    title: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Plot queries, one per row, and their nearest neighbors: correct ones framed green, others red.

    Use it to see which mistakes an embedder makes. Correct neighbors have a solid frame and a check mark, others a
    dashed frame and a cross, so the figure is readable without distinguishing green from red.

    Args:
        query_images: Array `(queries, height, width, channels)`, or a sequence of images of any sizes; uint8, or float
            in 0–1, with 1, 3 or 4 channels.
        neighbor_images: Array `(queries, k, height, width, channels)`, or a sequence of sequences of images. The k
            neighbors of each query, nearest first.
        correct: bool array `(queries, k)`. Whether the neighbor has the query's class.
        query_names: Sequence of str, `(queries,)`. Text below the queries, such as class names. Default `None`.
        neighbor_names: Sequences of str, `(queries, k)`. Text below the neighbors. Default `None`.
        width: float, inches. Largest width. Default: the text width of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match, there are no queries or no neighbors, or an image is invalid.

    Example:
        >>> queries, neighbors = np.zeros((2, 8, 8, 1), "uint8"), np.zeros((2, 3, 8, 8, 1), "uint8")
        >>> figure = nearest_neighbors(queries, neighbors, correct=np.ones((2, 3), bool), query_names=["cat", "dog"])
    """
    correct = np.asarray(correct)
    if correct.ndim != 2 or 0 in correct.shape or correct.dtype != np.bool_:
        raise ValueError(
            f"Invalid correct. Received: correct of shape {correct.shape} and type {correct.dtype}. "
            "Expected: booleans (queries, neighbors)."
        )
    queries, neighbors = correct.shape
    _check_count("query_images", len(query_images), queries)
    _check_count("neighbor_images", len(neighbor_images), queries)
    for row in range(queries):
        _check_count(f"neighbor_images[{row}]", len(neighbor_images[row]), neighbors)
    if query_names is not None:
        _check_count("query_names", len(query_names), queries)
    if neighbor_names is not None:
        _check_count("neighbor_names", len(neighbor_names), queries)
        for row in range(queries):
            _check_count(f"neighbor_names[{row}]", len(neighbor_names[row]), neighbors)

    return draw_sheet(
        [as_pixels(query_images[row], f"query_images[{row}]") for row in range(queries)],
        [
            [
                as_pixels(neighbor_images[row][column], f"neighbor_images[{row}][{column}]")
                for column in range(neighbors)
            ]
            for row in range(queries)
        ],
        correct,
        ("same class", "other class"),
        query_names=query_names,
        neighbor_names=neighbor_names,
        width=width,
        title=title,
    )


def draw_sheet(
    queries,
    neighbors,
    verdicts,
    words,
    query_verdicts=None,
    query_names=None,
    neighbor_names=None,
    width=style.TEXT_WIDTH,
    title=None,
):
    """Draw queries, one per row, and their neighbors.

    Args:
        queries: Sequence of images from `as_pixels`.
        neighbors: Sequences of images, `(queries, k)`; `None` leaves a place empty.
        verdicts: Array `(queries, k)` of `True` (green frame), `False` (red, dashed) or `None` (gray).
        words: Pair of str, what `True` and `False` mean; `None` draws no legend.
        query_verdicts: Array `(queries,)`, as `verdicts`; `None` frames all queries black. Default `None`.
        query_names: Sequence of str, with one line or several. Default `None`.
        neighbor_names: Sequences of str, `(queries, k)`. Default `None`.
        width: float, inches. Largest width. Default: the text width of a two-column paper.
        title: str. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.
    """
    columns = len(neighbors[0])
    names = [] if query_names is None else list(query_names)
    names += [] if neighbor_names is None else [name for row in neighbor_names for name in row]
    lines = max((str(name).count("\n") + 1 for name in names), default=0)
    # The unit is the side of an image. The remaining inches are for margins, headlines, title and legend.
    pitch, apart = 1.12, 0.35
    extent = apart + columns * pitch + 1.0
    unit = min((width - 0.09) / (extent + 0.1), _LARGEST_SIDE)
    row_height = 1.12 + 0.15 * lines / unit
    figure = style.new_figure(
        max(unit * (extent + 0.1) + 0.09, _SHORTEST_HEADLINE),
        unit * (len(queries) * row_height + 0.05)
        + (0.42 if words is not None else 0.22)
        + (0.2 if title is not None else 0.0),
    )
    axes = figure.subplots()
    axes.set_axis_off()
    for row, query in enumerate(queries):
        top = row * row_height
        _place(axes, query, 0.0, top)
        if query_verdicts is None:
            axes.add_patch(Rectangle((0, top), 1, 1, fill=False, edgecolor=style.TEXT, linewidth=0.8, zorder=2))
        else:
            _frame(axes, query_verdicts[row], 0.0, top, unit)
        if query_names is not None:
            _write_below(axes, query_names[row], 0.0, top, pitch * unit)
        for column, pixels in enumerate(neighbors[row]):
            if pixels is None:
                continue
            left = apart + (column + 1) * pitch
            _place(axes, pixels, left, top)
            _frame(axes, verdicts[row][column], left, top, unit)
            if neighbor_names is not None:
                _write_below(axes, neighbor_names[row][column], left, top, pitch * unit)
    middle = 0.5 * (1.0 + apart + pitch)
    bottom = (len(queries) - 1) * row_height + 1
    axes.plot([middle, middle], [0, bottom], color=style.QUIET, linewidth=0.6)
    headline = {"fontsize": style.LABEL_SIZE, "color": style.TEXT, "va": "bottom"}
    axes.text(0.5, -0.1, "query", ha="center", **headline)
    axes.text(apart + pitch, -0.1, "nearest neighbors", ha="left", **headline)
    if words is not None:
        _legend(figure, words)
    axes.set_xlim(-0.05, extent + 0.05)
    axes.set_ylim(len(queries) * row_height, -0.05)
    axes.set_aspect("equal")
    style.add_title(figure, title)
    return figure


def _check_count(name, received, expected):
    if received != expected:
        raise ValueError(
            f"{name} does not match the shape of correct. Received: {received} entries. Expected: {expected}."
        )


def _place(axes, pixels, left, top):
    """Draw the image as large as fits into the unit square at (left, top), keeping its aspect ratio."""
    height, width = pixels.shape[:2]
    side = max(height, width)
    across, down = width / side, height / side
    x, y = left + 0.5 * (1 - across), top + 0.5 * (1 - down)
    show(axes, pixels, extent=(x, x + across, y + down, y), interpolation="auto", zorder=1)


def _frame(axes, verdict, left, top, unit):
    if verdict is None:
        axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor=style.QUIET, linewidth=0.8, zorder=2))
        return
    right = bool(verdict)
    color = style.RIGHT if right else style.WRONG
    axes.add_patch(
        Rectangle(
            (left, top),
            1,
            1,
            fill=False,
            edgecolor=color,
            linewidth=2.0,
            zorder=2,
            linestyle="solid" if right else (0, (2.5, 1.2)),
        )
    )
    # The mark is one fifth of the image's side; an inch has 72 points.
    axes.text(
        left + 0.96,
        top + 0.05,
        _RIGHT_MARK if right else _WRONG_MARK,
        ha="right",
        va="top",
        color=color,
        fontsize=max(5.0, 72 * unit * 0.2),
        family=style.typefaces(),
        fontweight="bold",
        zorder=3,
        path_effects=style.halo(1.8),
    )


def _write_below(axes, name, left, top, width):
    lines = map(style.drawable, str(name).split("\n"))
    axes.text(
        left + 0.5,
        top + 1.05,
        style.fitting("\n".join(lines), width, style.NOTE_SIZE),
        ha="center",
        va="top",
        fontsize=style.NOTE_SIZE,
        color=style.TEXT,
        family=style.typefaces(),
        parse_math=False,
    )


def _legend(figure, words):
    handles = [
        Line2D([], [], color=style.RIGHT, linewidth=2.0, label=f"{_RIGHT_MARK} {words[0]}"),
        Line2D(
            [],
            [],
            color=style.WRONG,
            linewidth=2.0,
            linestyle=(0, (2.5, 1.2)),
            label=f"{_WRONG_MARK} {words[1]}",
        ),
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        borderaxespad=0.0,
        handlelength=2.6,
        prop={"family": style.typefaces(), "size": style.NOTE_SIZE},
    )
