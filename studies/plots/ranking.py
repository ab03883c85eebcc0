"""Ranks of contestants in a tournament."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style


def ranking(names, ranks, *, width=style.COLUMN_WIDTH, title=None):
    """Draw the ranks of contestants over several settings: each rank, and the mean with its standard deviation.

    Args:
        names: list of str. Names of the contestants.
        ranks: float array `(contestants, settings)`, 1 for the best.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`, the best contestant at the top.

    Raises:
        ValueError: If the rows of `ranks` and the names differ in number.
    """
    ranks = np.asarray(ranks, float)
    if ranks.ndim != 2 or len(ranks) != len(names) or not ranks.size:
        raise ValueError(f"Shapes do not match. Received: {len(names)} names and ranks of shape {ranks.shape}.")
    order = np.argsort(ranks.mean(axis=1), kind="stable")
    figure = style.new_figure(width, 0.5 + 0.24 * len(names))
    axes = figure.subplots()
    style.style_axes(axes)
    for place, index in enumerate(order):
        # Equal ranks are shifted so that they do not cover each other.
        values, seen = ranks[index], {}
        shifts = [seen.setdefault(value, []).append(value) or len(seen[value]) - 1 for value in values]
        axes.plot(values, place + 0.09 * np.array(shifts), ".", color=style.SKY, markersize=4)
    means, deviations = ranks.mean(axis=1)[order], ranks.std(axis=1)[order]
    places = np.arange(len(names))
    axes.errorbar(means, places, xerr=deviations, fmt="D", color=style.BLUE, markersize=3.5, linewidth=1.0)
    shown = [style.drawable(names[index]) for index in order]
    axes.set_yticks(places, shown, fontsize=style.TICK_SIZE, family=style.typefaces())
    axes.invert_yaxis()
    axes.set_xlim(0.5, len(names) + 0.5)
    axes.set_xlabel("rank (1 is best)")
    style.add_title(figure, title)
    return figure
