"""Dot plot of scores, one row per contestant."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style

_ROW_HEIGHT = 0.2
_MARKERS = ("o", "D", "s", "^", "v", "P")


def dot_plot(
    names,
    series,
    x_label,
    *,
    baseline=None,
    emphasized=(),
    marks=None,
    sort=True,
    width=style.COLUMN_WIDTH,
    title=None,
):
    """Draw the scores of contestants under one or more conditions: each score, and the mean with its deviation.

    Args:
        names: list of str. Names of the contestants.
        series: dict from the name of a condition, such as a loss, to scores `(contestants, repetitions)`.
        x_label: str. Label of the scores, with their unit.
        baseline: str. Contestant whose mean is drawn as a dashed line through all rows, in the color of each condition.
            Its row is shaded. Default: none.
        emphasized: Contestants in bold. Default: none.
        marks: dict from a text to a reference score, drawn as a dotted line. Default: none.
        sort: bool. Whether the rows are sorted by the mean over all conditions, the largest at the top. Otherwise they
            have the order of the names. Default: True.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no scores, their shape does not match the names, or `baseline` or an emphasized name is
            unknown.
    """
    series = {name: np.asarray(scores, float) for name, scores in series.items()}
    for name, scores in series.items():
        if scores.ndim != 2 or len(scores) != len(names) or not scores.size:
            raise ValueError(
                f"Shapes do not match. Received: {len(names)} names and scores of shape {scores.shape} for {name!r}."
            )
    if not series:
        raise ValueError("There is nothing to draw. Received: no series.")
    for name in [*emphasized, *([] if baseline is None else [baseline])]:
        if name not in names:
            raise ValueError(f"Received: {name!r}. Expected: one of {list(names)}.")
    means = np.array([scores.mean(axis=1) for scores in series.values()])
    order = np.argsort(-means.mean(axis=0), kind="stable") if sort else np.arange(len(names))
    figure = style.new_figure(width, 0.75 + _ROW_HEIGHT * max(1.0, 0.6 * len(series)) * len(names))
    axes = figure.subplots()
    style.style_axes(axes)
    axes.grid(False, axis="y")
    places = np.arange(len(names))
    shifts = 0.5 * (np.arange(len(series)) - (len(series) - 1) / 2) / len(series)
    if baseline is not None:
        row = int(np.flatnonzero(order == list(names).index(baseline))[0])
        axes.axhspan(row - 0.5, row + 0.5, color=style.GRID, alpha=0.6, linewidth=0, zorder=0)
    for index, (name, scores) in enumerate(series.items()):
        color, at = style.PALETTE[index % len(style.PALETTE)], places + shifts[index]
        if baseline is not None:
            of_baseline = means[index, list(names).index(baseline)]
            axes.axvline(of_baseline, color=color, linewidth=0.8, linestyle="--", zorder=1)
        if scores.shape[1] > 1:
            axes.plot(scores[order], at, ".", color=color, alpha=0.45, markersize=3, markeredgewidth=0)
        axes.errorbar(
            means[index, order],
            at,
            xerr=scores.std(axis=1)[order] if scores.shape[1] > 1 else None,
            fmt=_MARKERS[index % len(_MARKERS)],
            color=color,
            markersize=3.5,
            linewidth=0.9,
            label=name,
        )
    for text, score in (marks or {}).items():
        axes.axvline(score, color=style.QUIET, linewidth=0.9, linestyle=":", label=text, zorder=1)
    shown = [style.drawable(names[index]) for index in order]
    axes.set_yticks(places, shown, fontsize=style.TICK_SIZE, family=style.typefaces())
    for label, index in zip(axes.get_yticklabels(), order):
        label.set_fontweight("bold" if names[index] in emphasized else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(x_label)
    figure.legend(
        loc="outside upper center", ncols=3, fontsize=style.TICK_SIZE, frameon=False, labelcolor=style.TEXT,
        handletextpad=0.3, columnspacing=1.0,
    )  # fmt: skip
    style.add_title(figure, title)
    return figure
