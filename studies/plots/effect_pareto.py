"""Effects ordered by size."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.patches import Patch

from tfdml.plots import style

_ROW_HEIGHT = 0.24
_RAISES, _LOWERS = style.BLUE, style.ORANGE


class EffectPanel(NamedTuple):
    """One panel of `effect_pareto`.

    Attributes:
        title: str. Title of the panel, such as the loss; empty for none.
        names: list of str. Names of the effects.
        values: float array `(effects,)`. Positive effects raise the score.
        limit: float. Effects of larger absolute value are significant; None if unknown.
    """

    title: str
    names: list
    values: list
    limit: float | None = None


def effect_pareto(panels, x_label, *, limit_name="significance limit (95%)", width=None, title=None):
    """Draw effects as bars, the largest at the top, with a line beyond which they are significant.

    Args:
        panels: list of `EffectPanel`, side by side.
        x_label: str. Label of the effect, with its unit. Bars show absolute values; color and number show the sign.
        limit_name: str. Label of the line in the legend.
        width: float. Width in inches. Default: a column for one panel, the text width for several.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is nothing to draw, or names and values of a panel differ in number.
    """
    if not panels:
        raise ValueError("There is nothing to draw. Received: no panel.")
    for panel in panels:
        if np.ndim(panel.values) != 1 or len(panel.values) != len(panel.names) or not panel.names:
            raise ValueError(
                f"Shapes do not match. Received: {len(panel.names)} names and values of shape {np.shape(panel.values)}."
            )
    width = width or (style.COLUMN_WIDTH if len(panels) == 1 else style.TEXT_WIDTH)
    rows = max(len(panel.names) for panel in panels)
    figure = style.new_figure(width, 0.95 + _ROW_HEIGHT * rows)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        style.style_axes(axes)
        axes.grid(False, axis="y")
        values = np.asarray(panel.values, float)
        order = np.argsort(-np.abs(values), kind="stable")
        colors = [_RAISES if values[index] >= 0 else _LOWERS for index in order]
        bars = axes.barh(np.arange(len(order)), np.abs(values[order]), height=0.62, color=colors)
        axes.bar_label(
            bars, [f"{values[index]:+.2f}" for index in order], padding=2, fontsize=style.NOTE_SIZE, color=style.TEXT
        )
        if panel.limit is not None:
            axes.axvline(panel.limit, color=style.TEXT, linewidth=1.0, linestyle="--")
        axes.set_yticks(
            np.arange(len(order)), [style.drawable(panel.names[index]) for index in order],
            fontsize=style.TICK_SIZE, family=style.typefaces(),
        )
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(order) - 0.4, -0.6)
        # Room for the number next to the longest bar.
        axes.set_xlim(0.0, 1.22 * max(np.abs(values).max(), panel.limit or 0.0) or 1.0)
        axes.set_xlabel(x_label)
        axes.set_title(
            style.drawable(panel.title), fontsize=style.LABEL_SIZE, color=style.TEXT, family=style.typefaces()
        )
    handles = [Patch(color=_RAISES, label="raises"), Patch(color=_LOWERS, label="lowers")]
    limits = [line for axes in figure.axes for line in axes.lines]
    if limits:
        limits[0].set_label(limit_name)
        handles.append(limits[0])
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=style.TICK_SIZE, frameon=False,
        labelcolor=style.TEXT, handlelength=1.4, columnspacing=1.0,
    )  # fmt: skip
    style.add_title(figure, title)
    return figure
