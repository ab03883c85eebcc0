"""How a training went."""

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
    """Draws the loss of a training and, below it, the monitored metric; under CCP with the projections' bounds.

    The best value of the monitored metric is marked. Rows without a number (NaN, None, empty) interrupt
    nothing: the line goes through the rows that have one, so a metric that is computed every few epochs is a
    line too.

    Args:
        history: Columns by name, such as `History.history` of Keras or a CSV log: equally long lists of
            numbers. Read are the columns `loss`, `monitor`, that of `x` and, if there is one, `projection`:
            the number of the problem that a row belongs to. A line is drawn wherever that number changes.
        monitor: The metric's column; larger is better.
        loss: The loss' column. Of the loss' and the metric's column one may be missing.
        x: The column of the horizontal axis. `None` takes `"step"`, else `"epoch"`, else the row's number
            from 1 on.
        width: In inches.
        title: Above the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If both columns, or the column asked for as `x`, are missing, columns differ in length, or
            there is no row.
    """
    columns = {name: _numbers(name, values) for name, values in history.items()}
    drawn = [name for name in (loss, monitor) if name in columns]
    if not drawn:
        raise ValueError(
            f"Nothing to draw. Received: a history with columns {sorted(columns)}; expected {loss!r} or {monitor!r}."
        )
    rows = len(columns[drawn[0]])
    if rows == 0:
        raise ValueError(f"The history is empty. Received: column {drawn[0]!r} without rows; expected some.")
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
    """A column as float64, with NaN where it holds nothing or text that is no number."""

    def number(value):
        try:
            return float(value)
        except (TypeError, ValueError):
            return np.nan

    return np.array([number(value) for value in values], dtype=np.float64)


def _positions(columns, x, rows):
    if x is not None:
        if x not in columns:
            raise ValueError(f"No such column. Received: x={x!r}; expected one of {sorted(columns)}.")
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
    """The rows that begin another projection; a row without a number belongs to the one before."""
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
    # The new proxies come between two rows.
    boundaries = [0.5 * (position[row - 1] + position[row]) for row in changes]
    for axes in panels:
        for boundary in boundaries:
            axes.axvline(boundary, color=style.QUIET, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    top = panels[0]
    finite = position[np.isfinite(position)]
    edges = [finite.min(), *boundaries, finite.max()]
    first_row = int(np.flatnonzero(np.isfinite(projection))[0])
    numbers = [projection[first_row], *(projection[row] for row in changes)]
    # Numbers that would stand closer than their own width are left out, the first and each projection's start
    # kept in order.
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
