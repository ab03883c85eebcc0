"""Line plots of several quantities, in panels that share a legend."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfdml.plots import style


class LinePanel(NamedTuple):
    """One panel of `line_panels`.

    Attributes:
        y_label: str. Label of y, with its unit.
        series: dict from the name of a line to its points, `(x values, y values)`.
        bands: dict from the name of a line to the `(lower, upper)` edge of the band around it, such as quartiles.
            Missing lines have no band.
        levels: dict from the name of a horizontal line, for a value that does not depend on x, to its height.
        y_log: bool. Whether the vertical axis is logarithmic.
    """

    y_label: str
    series: dict
    bands: dict | None = None
    levels: dict | None = None
    y_log: bool = False


def line_panels(panels, x_label, *, x_log=False, width=style.TEXT_WIDTH, title=None):
    """Draw panels side by side with one legend; a name has the same color and marker in all of them.

    Args:
        panels: list of `LinePanel`.
        x_label: str. Label of x, with its unit.
        x_log: bool. Whether the horizontal axes are logarithmic, with ticks at the x values of the lines.
            Default: False.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no panel, a panel has no line, x and y differ in length, or a band has no line.
    """
    if not panels or not all(panel.series for panel in panels):
        raise ValueError(f"There is nothing to draw. Received: {len(panels)} panels. Expected: at least one line each.")
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    levels = list(dict.fromkeys(name for panel in panels for name in panel.levels or {}))
    looks = {name: _line_look(index) for index, name in enumerate(names)}
    looks.update({name: _level_look(index) for index, name in enumerate(levels)})

    figure = style.new_figure(width, 0.55 + 0.75 * width / max(2, len(panels)))
    handles = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        style.style_axes(axes)
        for name, (x, y) in panel.series.items():
            x, y = np.asarray(x, float), np.asarray(y, float)
            if x.ndim != 1 or x.shape != y.shape or not x.size:
                raise ValueError(
                    f"Shapes of line {name!r} do not match. Received: x of shape {x.shape} and y of shape {y.shape}."
                )
            (handles[name],) = axes.plot(x, y, label=name, **looks[name])
        for name, (lower, upper) in (panel.bands or {}).items():
            if name not in panel.series:
                raise ValueError(f"Received: a band for {name!r}. Expected: names of {sorted(panel.series)}.")
            axes.fill_between(
                panel.series[name][0], lower, upper, color=looks[name]["color"], alpha=0.2, linewidth=0
            )
        for name, height in (panel.levels or {}).items():
            handles[name] = axes.axhline(height, label=name, **looks[name])
        axes.set_yscale("log" if panel.y_log else "linear")
        axes.set_ylabel(panel.y_label)
        axes.set_xlabel(x_label)
        if x_log:
            axes.set_xscale("log")
            marked = sorted({float(value) for x, _ in panel.series.values() for value in x})
            axes.set_xticks(marked, [f"{value:g}" for value in marked])
            axes.minorticks_off()
    rows = -(-len(looks) // 4)
    figure.legend(
        [handles[name] for name in looks],
        list(looks),
        loc="outside lower center",
        ncols=-(-len(looks) // rows),
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
    )
    style.add_title(figure, title)
    return figure


def _line_look(index):
    return {
        "color": style.PALETTE[index % len(style.PALETTE)],
        "marker": style.MARKERS[index % len(style.MARKERS)],
        "linestyle": "-" if index < len(style.PALETTE) else "--",
        "linewidth": 1.2,
        "markersize": 3.2,
    }


def _level_look(index):
    return {"color": style.TEXT, "linestyle": ("--", ":", "-.")[index % 3], "linewidth": 1.0, "zorder": 1.5}
