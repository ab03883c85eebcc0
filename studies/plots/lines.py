"""Line plot of several series."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style


def lines(
    series, x_label, y_label, *, spread=None, x_log=False, y_log=False, width=style.COLUMN_WIDTH, title=None
):  # fmt: skip
    """Draw lines with markers, each with its own color and marker, and a legend.

    Args:
        series: dict from the name of a line to its points, `(x values, y values)`.
        x_label: str. Label of x, with its unit.
        y_label: str. Label of y, with its unit.
        spread: dict from the name of a line to half the height of the band around it, such as a standard deviation.
            Missing lines have no band. Default: none.
        x_log: bool. Whether the horizontal axis is logarithmic. Default: False.
        y_log: bool. Whether the vertical axis is logarithmic. Default: False.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no line, x and y differ in length, or a spread has no line.
    """
    if not series:
        raise ValueError("There is nothing to draw. Received: no line.")
    spread = spread or {}
    strangers = sorted(set(spread) - set(series))
    if strangers:
        raise ValueError(f"Received: a spread for {strangers}. Expected: names of {sorted(series)}.")
    figure = style.new_figure(width, 0.75 * width)
    axes = figure.subplots()
    style.style_axes(axes)
    for index, (name, (x, y)) in enumerate(series.items()):
        x, y = np.asarray(x, float), np.asarray(y, float)
        if x.ndim != 1 or x.shape != y.shape or not x.size:
            raise ValueError(
                f"Shapes of line {name!r} do not match. Received: x of shape {x.shape} and y of shape {y.shape}."
            )
        color = style.PALETTE[index % len(style.PALETTE)]
        axes.plot(
            x,
            y,
            color=color,
            marker=style.MARKERS[index % len(style.MARKERS)],
            linestyle="-" if index < len(style.PALETTE) else "--",
            linewidth=1.2,
            markersize=3.2,
            label=name,
        )
        if name in spread:
            half = np.asarray(spread[name], float)
            axes.fill_between(x, y - half, y + half, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log" if x_log else "linear")
    axes.set_yscale("log" if y_log else "linear")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(fontsize=style.TICK_SIZE, frameon=False, labelcolor=style.TEXT)
    style.add_title(figure, title)
    return figure
