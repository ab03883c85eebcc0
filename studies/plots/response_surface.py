"""Response surface fitted to scattered trials."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize

from tfdml.plots import style


def response_surface(
    x, y, surface, points, values, x_label, y_label, label, *, x_ticks=None, y_ticks=None, x_break=None,
    width=style.COLUMN_WIDTH, title=None,
):  # fmt: skip
    """Draw a surface in colors with contours, and on it the trials in the colors of their own values.

    The surface does not fit a trial that stands out from its surroundings. The best trial is marked with a star.

    Args:
        x: float array `(columns,)`, increasing. Coordinates of the columns of the surface.
        y: float array `(rows,)`, increasing. Coordinates of its rows.
        surface: float array `(rows, columns)`.
        points: float array `(trials, 2)`. Coordinates of the trials.
        values: float array `(trials,)`. Results of the trials; larger is better.
        x_label: str. Label of x, with its unit.
        y_label: str. Label of y, with its unit.
        label: str. Label of the surface and the values.
        x_ticks: dict from coordinates on the horizontal axis to their text; `None` for the numbers of matplotlib.
        y_ticks: The same for the vertical axis.
        x_break: float. Coordinate of a dashed line where the horizontal axis changes its meaning, for example from 0 to
            a logarithm. Default: none.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no trial or shapes do not match.
    """
    x, y, surface, points, values = (np.asarray(array, float) for array in (x, y, surface, points, values))
    if surface.shape != (len(y), len(x)) or not surface.size:
        raise ValueError(f"Received: a surface of shape {surface.shape}. Expected: {(len(y), len(x))}, rows × columns.")
    if points.shape != (len(values), 2) or not len(values):
        raise ValueError(
            f"Shapes do not match. Received: points of shape {points.shape} and values of shape {values.shape}."
        )
    figure = style.new_figure(width, 0.85 * width)
    axes = figure.subplots()
    style.style_axes(axes, grid=False)
    look = {
        "cmap": style.SEQUENTIAL_COLORMAP,
        "norm": Normalize(min(surface.min(), values.min()), max(surface.max(), values.max())),
    }
    # Rasterized, rather than one vector shape per cell.
    drawn = axes.pcolormesh(x, y, surface, shading="nearest", rasterized=True, **look)
    if np.ptp(surface):
        axes.contour(x, y, surface, levels=8, colors="white", linewidths=0.5, alpha=0.6)
    axes.scatter(*points.T, c=values, s=22, edgecolors="white", linewidths=0.9, zorder=3, clip_on=False, **look)
    best = values.argmax()
    axes.plot(
        *points[best], marker="*", markersize=11, color=style.ORANGE, markeredgecolor=style.TEXT, markeredgewidth=0.6,
        linestyle="none", label="best trial", zorder=4, clip_on=False,
    )  # fmt: skip
    if x_break is not None:
        axes.axvline(x_break, color="white", linewidth=1.0, linestyle="--")
    axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    for axis, ticks in ((axes.xaxis, x_ticks), (axes.yaxis, y_ticks)):
        if ticks is not None:
            axis.set_ticks(list(ticks), list(ticks.values()))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    bar = figure.colorbar(drawn, ax=axes, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=style.TICK_SIZE, length=2.5, width=0.6, color=style.QUIET, labelcolor=style.TEXT)
    bar.set_label(label, fontsize=style.LABEL_SIZE, color=style.TEXT)
    figure.legend(
        loc="outside upper center", fontsize=style.TICK_SIZE, frameon=False, labelcolor=style.TEXT, handletextpad=0.3
    )
    style.add_title(figure, title)
    return figure
