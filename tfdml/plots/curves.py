"""Training curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tfdml.plots import style

_NAMES = {
    "map_at_r": "MAP@R",
    "precision_at_1": "P@1",
    "r_precision": "R-precision",
    "loss": "loss",
    "covering_radius": "covering radius",
}


def training_curve(
    history: Any,
    monitor: str = "val_map_at_r",
    *,
    loss: str | None = "loss",
    x: str | None = None,
    width: float = style.COLUMN_WIDTH,
    title: str | None = None,
) -> Figure:
    """Plot the loss of a training run and, below it, the monitored metric.

    Use it to see whether training converged and where the best weights are. The best value of the metric is marked.
    For CCP, vertical lines separate the proxy problems. Rows without a number (NaN, None, empty) are skipped, so a
    metric that is computed only every few epochs is also a continuous line.

    Args:
        history: Mapping from names to columns, lists of numbers of equal length, such as `History.history` of Keras or
            a CSV log. It uses the columns `loss`, `monitor` and `x`, and `projection`, the number of the problem, if it
            exists.
        monitor: str. Column of the metric; larger is better. Default `"val_map_at_r"`.
        loss: str. Column of the loss. Either this column or that of the metric may be missing. Default `"loss"`.
        x: str. Column of the horizontal axis. `None` uses `"step"`, else `"epoch"`, else row numbers from 1. Default
            `None`.
        width: float, inches. Default: one column of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the columns of loss and metric, or the column `x`, are missing, columns differ in length, or
            there are no rows.

    Example:
        >>> figure = training_curve({"epoch": [1, 2, 3], "loss": [1.0, 0.6, 0.5], "val_map_at_r": [0.2, 0.4, 0.3]})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss', 'MAP@R (validation)']
    """
    columns = {name: _numbers(name, values) for name, values in history.items()}
    drawn = [name for name in (loss, monitor) if name in columns]
    if not drawn:
        raise ValueError(
            f"There is nothing to plot. Received: a history with columns {sorted(columns)}. Expected: {loss!r} or "
            f"{monitor!r}."
        )
    rows = len(columns[drawn[0]])
    if rows == 0:
        raise ValueError(f"The history is empty. Received: column {drawn[0]!r} without rows. Expected: at least one.")
    position, position_name = _positions(columns, x, rows)
    wanted = drawn + [name for name in ("projection",) if name in columns]
    lengths = {name: len(columns[name]) for name in wanted}
    if set(lengths.values()) != {rows} or len(position) != rows:
        raise ValueError(f"Columns differ in length. Received: {lengths | {position_name: len(position)}}.")

    figure = style.new_figure(width, 0.55 + 1.15 * len(drawn))
    panels = figure.subplots(len(drawn), 1, sharex=True, squeeze=False)[:, 0]
    changes = _changes(columns["projection"]) if "projection" in columns else []
    for axes, name in zip(panels, drawn):
        style.style_axes(axes)
        values = columns[name]
        there = np.isfinite(values) & np.isfinite(position)
        color = style.BLUE if name == monitor else style.VERMILLION
        few = there.sum() <= 40
        axes.plot(
            position[there],
            values[there],
            color=color,
            linewidth=1.2,
            marker="o" if few else None,
            markersize=2.2,
            label=_readable(name),
        )
        axes.set_ylabel(_readable(name))
        if name == monitor and there.any():
            _mark_best(axes, position[there], values[there], position_name)
    _mark_projections(panels, position, columns.get("projection"), changes)
    panels[-1].set_xlabel(position_name)
    if np.all(position[np.isfinite(position)] % 1 == 0):
        panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    figure.align_ylabels(panels)
    style.add_title(figure, title)
    return figure


def _numbers(name, values):
    """Return a column as float64, with NaN for missing values and text that is not a number."""

    def number(value):
        try:
            return float(value)
        except (TypeError, ValueError):
            return np.nan

    return np.array([number(value) for value in values], dtype=np.float64)


def _positions(columns, x, rows):
    if x is not None:
        if x not in columns:
            raise ValueError(f"Unknown column. Received: x={x!r}. Expected: one of {sorted(columns)}.")
        return columns[x], _readable(x)
    for name in ("step", "epoch"):
        if name in columns:
            return columns[name], name
    return np.arange(1.0, rows + 1.0), "epoch"


def _readable(name):
    stem, place = (name[len("val_") :], " (validation)") if name.startswith("val_") else (name, "")
    if stem.startswith("recall_at_"):
        return f"R@{stem[len('recall_at_') :]}{place}"
    return _NAMES.get(stem, stem.replace("_", " ")) + place


def _changes(projection):
    """Return the rows that start another problem; a row without a number belongs to the one before."""
    rows, current = [], None
    for row, number in enumerate(projection):
        if np.isfinite(number):
            if current is not None and number != current:
                rows.append(row)
            current = number
    return rows


def _mark_best(axes, position, values, position_name):
    best = int(np.argmax(values))
    where, value = position[best], values[best]
    axes.plot(
        [where],
        [value],
        marker="*",
        markersize=8,
        color=style.ORANGE,
        markeredgecolor=style.TEXT,
        markeredgewidth=0.5,
        linestyle="none",
        label="best",
        zorder=4,
    )
    axes.margins(y=0.2)
    low, high = position.min(), position.max()
    share = 0.5 if high == low else (where - low) / (high - low)
    side = "right" if share > 0.6 else "left" if share < 0.25 else "center"
    axes.annotate(
        f"{value:.4g} at {position_name} {where:g}",
        (where, value),
        xytext=(0, 5),
        textcoords="offset points",
        ha=side,
        va="bottom",
        fontsize=style.NOTE_SIZE,
        color=style.TEXT,
        path_effects=style.halo(),
        parse_math=False,
    )


def _mark_projections(panels, position, projection, changes):
    if not changes:
        return
    # Draw boundaries between two rows, where the new proxies start.
    boundaries = [0.5 * (position[row - 1] + position[row]) for row in changes]
    for axes in panels:
        for boundary in boundaries:
            axes.axvline(boundary, color=style.QUIET, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    top = panels[0]
    finite = position[np.isfinite(position)]
    edges = [finite.min(), *boundaries, finite.max()]
    first_row = int(np.flatnonzero(np.isfinite(projection))[0])
    numbers = [projection[first_row], *(projection[row] for row in changes)]
    # Omit numbers that would overlap the preceding one.
    room = 0.045 * (edges[-1] - edges[0])
    last = -np.inf
    for number, start, end in zip(numbers, edges[:-1], edges[1:]):
        centre = 0.5 * (start + end)
        if centre - last < room:
            continue
        last = centre
        top.annotate(
            f"{number:.0f}",
            (centre, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=style.NOTE_SIZE,
            color=style.QUIET,
            annotation_clip=False,
        )
    top.annotate(
        "projection",
        (0.0, 1.0),
        xycoords="axes fraction",
        xytext=(0, 11),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=style.NOTE_SIZE,
        color=style.QUIET,
        annotation_clip=False,
    )
