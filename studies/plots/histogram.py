"""Stacked histogram of groups."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style


def histogram(groups, edges, x_label, y_label="number", *, marks=None, width=style.COLUMN_WIDTH, title=None):
    """Draw the number of values in each interval, with the groups stacked.

    Args:
        groups: dict from the name of a group to its values.
        edges: float array. Increasing bounds of the intervals. An interval includes its lower bound, the last one both.
        x_label: str. Label of the values, with their unit.
        y_label: str. Label of the counts.
        marks: dict from a text to a value that is drawn as a dashed line, such as the median. Default: none.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no value, or one is outside the intervals.
    """
    edges = np.asarray(edges, float)
    groups = {name: np.asarray(values, float).reshape(-1) for name, values in groups.items()}
    everything = np.concatenate([*groups.values(), []])
    if not everything.size:
        raise ValueError(f"There is nothing to draw. Received: {len(groups)} groups without a value.")
    if not (everything.min() >= edges[0] and everything.max() <= edges[-1]):
        raise ValueError(
            f"Received: values {everything.min():g} to {everything.max():g}. Expected: {edges[0]:g} to {edges[-1]:g}."
        )
    figure = style.new_figure(width, 0.7 * width)
    axes = figure.subplots()
    style.style_axes(axes)
    axes.grid(False, axis="x")
    below = np.zeros(len(edges) - 1)
    for index, (name, values) in enumerate(groups.items()):
        counts, _ = np.histogram(values, edges)
        axes.bar(
            edges[:-1],
            counts,
            np.diff(edges),
            bottom=below,
            align="edge",
            color=style.PALETTE[index % len(style.PALETTE)],
            edgecolor="white",
            linewidth=0.6,
            label=name,
        )
        below += counts
    for index, (text, value) in enumerate((marks or {}).items()):
        axes.axvline(
            value, color=style.TEXT, linewidth=1.0, linestyle=("--", ":", "-.")[index % 3], label=text, zorder=3
        )  # fmt: skip
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(fontsize=style.TICK_SIZE, frameon=False, labelcolor=style.TEXT)
    style.add_title(figure, title)
    return figure
