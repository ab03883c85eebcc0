"""Convex hulls of classes in the plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from tfdml.plots import style

_MARK_SHAPES = ("o", "X", "D", "^")
_STROKES = ("-", (0, (3.5, 1.2)), (0, (1.0, 1.0)))
# Minimum distance between class names, relative to the width of a panel.
_TEXT_DISTANCE = 0.05


class HullPanel(NamedTuple):
    """One panel of `class_hulls`.

    Attributes:
        outlines: dict from the class to the corners of its hull, `(corners, 2)`, in order around it.
        points: float array `(n, 2)`. Small dots, such as embeddings; or `None`.
        labels: array `(n,)`. Classes of the dots.
        marks: dict from the legend text to points of another kind, such as prototypes: `(points, labels)`. Labels of
            `None` are for points without a class, which are black.
    """

    outlines: dict
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    marks: dict = {}


def class_hulls(panels, *, points_name="embeddings", class_names=None, width=style.TEXT_WIDTH, title=None):
    """Draw the convex hulls of classes with their points, in panels side by side on one scale.

    If there are more classes than colors, classes of the same color differ in the line around their hull. A class name
    is written in its hull, or slightly moved if it would cover another name or a small hull.

    Args:
        panels: dict from the name of a panel to its `HullPanel`.
        points_name: str. Label of the small dots in the legend.
        class_names: dict or list from the class to the text at its hull; `None` shows the class itself.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no panel or a panel has no hull.
    """
    if not panels or not all(panel.outlines for panel in panels.values()):
        raise ValueError(f"Each panel needs at least one hull. Received: panels {list(panels)}.")
    figure = style.new_figure(width, width / len(panels) + 0.55)
    grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    classes = sorted({label for panel in panels.values() for label in panel.outlines})
    inks = {label: style.PALETTE[place % len(style.PALETTE)] for place, label in enumerate(classes)}
    strokes = {label: _STROKES[place // len(style.PALETTE) % len(_STROKES)] for place, label in enumerate(classes)}
    low, high = _limits(panels.values())
    kinds = list(dict.fromkeys(name for panel in panels.values() for name in panel.marks))
    for axes, (name, panel) in zip(grid, panels.items()):
        style.style_axes(axes, grid=False)
        axes.set_title(name, fontsize=style.LABEL_SIZE, color=style.TEXT)
        axes.set_xlabel("dimension 1")
        for label, corners in panel.outlines.items():
            axes.add_patch(
                Polygon(
                    corners,
                    facecolor=(*to_rgb(inks[label]), 0.25),
                    edgecolor=inks[label],
                    linewidth=0.9,
                    linestyle=strokes[label],
                    zorder=2,
                )
            )
        if panel.points is not None:
            _scatter(axes, panel.points, panel.labels, inks, "o", 3.0, 0.0, 1)
        for kind, (points, labels) in panel.marks.items():
            _scatter(axes, points, labels, inks, _shape(kinds.index(kind)), 16.0, 0.5, 3)
        for label, place in zip(panel.outlines, _text_places(panel, _TEXT_DISTANCE * (high - low)[0])):
            text = style.drawable(label if class_names is None else class_names[label])
            style.write_class(axes, place, text, inks[label], size=style.NOTE_SIZE, outline=1.6, order=4)
        axes.set_aspect("equal")
    grid[0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    grid[0].set_ylabel("dimension 2")
    entries = [Line2D([], [], linewidth=6, color=style.BACKGROUND_POINTS, label="hull of a class")]
    if any(panel.points is not None for panel in panels.values()):
        entries.append(_entry("o", 2.0, points_name, style.QUIET))
    for place, kind in enumerate(kinds):
        uncolored = all(panel.marks[kind][1] is None for panel in panels.values() if kind in panel.marks)
        entries.append(_entry(_shape(place), 4.0, kind, style.TEXT if uncolored else style.QUIET))
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=len(entries),
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
    )
    style.add_title(figure, title)
    return figure


def _limits(panels):
    """Lower left and upper right corner of a square around everything."""
    groups = [corners for panel in panels for corners in panel.outlines.values()]
    groups += [points for panel in panels for points, _ in panel.marks.values()]
    groups += [panel.points for panel in panels if panel.points is not None]
    return style.square_around(np.concatenate([np.reshape(points, (-1, 2)) for points in groups]), margin=0.03)


def _text_places(panel, distance):
    """Places of the class names: in the middle of the hulls, or above small ones."""
    places = [
        np.mean(corners, axis=0) + (0.0, 0.7 * distance if np.ptp(corners, axis=0).max() < 0.5 * distance else 0.0)
        for corners in panel.outlines.values()
    ]
    return _spread(places, distance)


def _spread(places, distance):
    """Separate places `(n, 2)` that are closer than `distance` to each other; others do not move."""
    places = np.array(places, np.float64)
    # Coincident places are separated upwards.
    tiny = 1e-3 * distance * np.arange(len(places))[:, None] * [0.0, 1.0]
    for _ in range(200):
        apart = (places + tiny)[:, None] - (places + tiny)
        lengths = np.linalg.norm(apart, axis=-1) + np.where(np.eye(len(places)), np.inf, 0.0)
        lacking = np.maximum(0.0, distance - lengths)
        if lacking.max() < 1e-2 * distance:
            break
        places += 0.5 * np.sum(apart * (lacking / lengths)[..., None], axis=1)
    return places


def _shape(place):
    return _MARK_SHAPES[place % len(_MARK_SHAPES)]


def _scatter(axes, points, labels, inks, marker, size, edge, order):
    colors = style.TEXT if labels is None else [inks.get(label, style.BACKGROUND_POINTS) for label in labels]
    axes.scatter(
        *np.asarray(points).T, s=size, c=colors, marker=marker, linewidths=edge, edgecolors="white", zorder=order
    )  # fmt: skip


def _entry(marker, size, name, color):
    return Line2D([], [], linestyle="", marker=marker, markersize=size, color=color, label=name)
