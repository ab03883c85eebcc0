"""Figures of decisions by a threshold: ROC and precision-recall curves, histograms of distances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.operating_points import OperatingPoints
from tfdml._utils.types import ArrayLike
from tfdml.plots import style

_VERTICES = 1000


def roc_curve(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    thresholds: Mapping[str, float] | None = None,
    log: bool = False,
    width: float = style.COLUMN_WIDTH,
    title: str | None = None,
) -> Figure:
    """Plot the true-accept rate against the false-accept rate, for each threshold on a distance or score.

    Use it for pairs of images (`metrics.pair_distances`), and for scores of known and unknown queries.

    Args:
        curves: Mapping from a name to the pair (distances, positive): floats `(n,)`, and booleans `(n,)`, `True` for
            pairs of one class or for known queries. Both values must occur.
        thresholds: Mapping from names of curves to a threshold that is marked on the curve. Default: none.
        log: bool. Logarithmic false-accept rates, for applications that need small ones. Default `False`.
        width: float, inches. Default: one column of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no curve, shapes do not match, values are not finite, one kind is missing, or a
            threshold has no curve.

    Example:
        >>> figure = roc_curve({"test": ([0.1, 0.2, 0.3, 0.9], [True, True, False, False])}, thresholds={"test": 0.2})
        >>> figure.axes[0].get_xlabel()
        'false-accept rate'
    """
    points, thresholds = _operating_points(curves), _check_thresholds(thresholds, curves)
    figure, axes = _square(width)
    for index, (name, each) in enumerate(points.items()):
        x, y = each.curve()
        smallest = 1 / each.negatives
        if log:
            # The first vertices have the false-accept rate 0, which is at the left edge.
            x = np.maximum(x, smallest / 2)
        kept = _some_vertices(x)
        _draw(axes, index, name, x[kept], y[kept])
        if name in thresholds:
            false, true = _rates_at(*curves[name], thresholds[name])
            _mark(axes, index, max(false, smallest / 2) if log else false, true)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(min(0.5 / each.negatives for each in points.values()), 1)
    else:
        axes.plot([0, 1], [0, 1], color=style.QUIET, linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
        axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("false-accept rate")
    axes.set_ylabel("true-accept rate")
    _finish(figure, title)
    return figure


def precision_recall_curve(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    thresholds: Mapping[str, float] | None = None,
    width: float = style.COLUMN_WIDTH,
    title: str | None = None,
) -> Figure:
    """Plot precision against recall, for each threshold on a distance or score.

    Precision depends on the ratio of positives and negatives, so use data with the ratio of the application.

    Args:
        curves: Mapping from a name to the pair (distances, positive), as for `roc_curve`.
        thresholds: Mapping from names of curves to a threshold that is marked on the curve. Default: none.
        width: float, inches. Default: one column of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: As for `roc_curve`.

    Example:
        >>> figure = precision_recall_curve({"test": ([0.1, 0.2, 0.3, 0.9], [True, True, False, False])})
        >>> figure.axes[0].get_ylabel()
        'precision'
    """
    points, thresholds = _operating_points(curves), _check_thresholds(thresholds, curves)
    figure, axes = _square(width)
    for index, (name, each) in enumerate(points.items()):
        recall, precision = each.true_rates, each.true / (each.true + each.false)
        kept = _some_vertices(recall)
        _draw(axes, index, name, recall[kept], precision[kept])
        if name in thresholds:
            false, true = _rates_at(*curves[name], thresholds[name])
            accepted = true * each.positives + false * each.negatives
            _mark(axes, index, true, true * each.positives / accepted if accepted else 1.0)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _finish(figure, title)
    return figure


def distance_histogram(
    distances: ArrayLike,
    positive: ArrayLike,
    *,
    threshold: float | None = None,
    names: tuple[str, str] = ("same class", "different classes"),
    x_label: str = "distance",
    bins: int = 50,
    width: float = style.COLUMN_WIDTH,
    title: str | None = None,
) -> Figure:
    """Plot histograms of the distances of pairs of one class and of different classes, with the threshold.

    Each kind is drawn as shares of its own number, because pairs of different classes are far more frequent.

    Args:
        distances: Floats `(n,)`, such as those of `metrics.pair_distances`.
        positive: Booleans `(n,)`. `True` for pairs of one class, or for known queries.
        threshold: float that is drawn, with the rates that it has. Default `None`.
        names: Names of the two kinds. Default: `("same class", "different classes")`.
        x_label: str. Name of the distance, with its unit. Default `"distance"`.
        bins: int. Number of bars over the range of the distances. Default 50.
        width: float, inches. Default: one column of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match, values are not finite, one kind is missing, or `bins` is not a positive
            integer.

    Example:
        >>> figure = distance_histogram([0.1, 0.2, 0.3, 0.9], [True, True, False, False], threshold=0.25)
        >>> figure.axes[0].get_ylabel()
        'share of pairs'
    """
    values, positive = _check_curve("distances", distances, positive)
    figure = style.new_figure(width, 0.7 * width)
    axes = figure.subplots()
    style.style_axes(axes)
    axes.grid(False, axis="x")
    low, high = values.min(), values.max()
    edges = np.linspace(low, high if high > low else low + 1, check_whole_number("bins", bins, 1) + 1)
    for kind, name, color in zip((positive, ~positive), names, (style.BLUE, style.ORANGE)):
        shares = np.histogram(values[kind], edges)[0] / np.count_nonzero(kind)
        axes.stairs(shares, edges, fill=True, color=color, alpha=0.45, label=style.drawable(name))
        axes.stairs(shares, edges, color=color, linewidth=1.0)
    if threshold is not None:
        false, true = _rates_at(values, positive, threshold)
        axes.axvline(threshold, color=style.TEXT, linewidth=1.0, linestyle="--", zorder=3)
        # The legend shows a horizontal line rather than a vertical one.
        label = f"threshold {threshold:.3g}: accepts {_percent(true)} and {_percent(false)}"
        axes.plot([], [], color=style.TEXT, linewidth=1.0, linestyle="--", label=label)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel(style.drawable(x_label))
    axes.set_ylabel("share of pairs" if names == ("same class", "different classes") else "share")
    _finish(figure, title, columns=1)
    return figure


def operating_curve(
    curve: Any,
    *,
    threshold: float | None = None,
    x_label: str = "threshold",
    width: float = style.COLUMN_WIDTH,
    title: str | None = None,
) -> Figure:
    """Plot false-accept rate, true-accept rate and precision against the threshold.

    Use it to see what a calibrated gallery would do with another threshold (`gallery.calibration.curve`).

    Args:
        curve: `tfdml.gallery.OperatingCurve`, or another object with its arrays.
        threshold: float that is drawn. Default `None`.
        x_label: str. Name of the score, with its unit. Default `"threshold"`.
        width: float, inches. Default: one column of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the arrays are empty or differ in length.

    Example:
        >>> from tfdml.gallery import OperatingCurve
        >>> curve = OperatingCurve(*np.array([[0.5, 0.7], [0.0, 0.1], [0.8, 0.9], [1.0, 0.9]]))
        >>> operating_curve(curve, threshold=0.6).axes[0].get_xlabel()
        'threshold'
    """
    lines = {
        "false-accept rate": curve.false_accept_rates,
        "true-accept rate": curve.true_accept_rates,
        "precision": curve.precisions,
    }
    thresholds = np.asarray(curve.thresholds, np.float64)
    shapes = {name: np.shape(values) for name, values in lines.items()}
    if not thresholds.size or {thresholds.shape} != set(shapes.values()):
        raise ValueError(
            f"Rates and thresholds do not match. Received: thresholds of shape {thresholds.shape} and {shapes}. "
            "Expected: the same shape (t,), t >= 1."
        )
    figure = style.new_figure(width, 0.8 * width)
    axes = figure.subplots()
    style.style_axes(axes)
    for (name, rates), color in zip(lines.items(), (style.VERMILLION, style.BLUE, style.GREEN)):
        rates = np.asarray(rates, np.float64)
        if np.isfinite(rates).any():
            # A rate holds from its threshold up to the next one.
            axes.plot(thresholds, rates, color=color, linewidth=1.2, label=name, drawstyle="steps-post")
    if threshold is not None:
        axes.axvline(threshold, color=style.TEXT, linewidth=1.0, linestyle="--", zorder=3)
        axes.plot([], [], color=style.TEXT, linewidth=1.0, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(style.drawable(x_label))
    _finish(figure, title)
    return figure


def _percent(share):
    return f"{share:.1%}" if share == 0 or share >= 1e-3 else f"{share:.1e}"


def _operating_points(curves):
    if not curves:
        raise ValueError("There is nothing to plot. Received: no curves. Expected: a mapping with at least one.")
    points = {}
    for name, curve in curves.items():
        values, positive = _check_curve(name, *curve)
        points[name] = OperatingPoints(values[positive], values[~positive])
    return points


def _check_curve(name, values, positive):
    values, positive = np.asarray(values, np.float64), np.asarray(positive)
    if values.ndim != 1 or values.shape != positive.shape or not np.isfinite(values).all():
        raise ValueError(
            f"Values cannot be plotted. Received: {name!r} with values of shape {values.shape}, of which "
            f"{np.count_nonzero(~np.isfinite(values))} are not finite, and flags of shape {positive.shape}. Expected: "
            "finite values (n,) and booleans (n,)."
        )
    positive = positive.astype(bool)
    if positive.all() or not positive.any():
        raise ValueError(
            f"One kind is missing. Received: {name!r} with {np.count_nonzero(positive)} positives of {len(positive)}. "
            "Expected: positives and negatives."
        )
    return values, positive


def _check_thresholds(thresholds, curves):
    unknown = [name for name in thresholds or {} if name not in curves]
    if unknown:
        raise ValueError(f"A threshold has no curve. Received: {unknown[0]!r}. Expected: one of {list(curves)}.")
    return dict(thresholds or {})


def _rates_at(values, positive, threshold):
    """Return the (false, true) accept rates of a threshold."""
    values, positive = np.asarray(values, np.float64), np.asarray(positive, bool)
    return float(np.mean(values[~positive] <= threshold)), float(np.mean(values[positive] <= threshold))


def _some_vertices(x):
    """Indices of vertices: all of few ones, otherwise evenly spaced and closer at the start, for logarithmic axes."""
    if len(x) <= 2 * _VERTICES:
        return np.arange(len(x))
    spaced = [np.linspace(0, len(x) - 1, _VERTICES), np.geomspace(1, len(x) - 1, _VERTICES)]
    return np.unique(np.concatenate(spaced).astype(int))


def _square(width):
    figure = style.new_figure(width, width)
    axes: Any = figure.subplots()
    style.style_axes(axes)
    return figure, axes


def _draw(axes, index, name, x, y):
    axes.plot(
        x,
        y,
        color=style.PALETTE[index % len(style.PALETTE)],
        linestyle="-" if index < len(style.PALETTE) else "--",
        linewidth=1.2,
        label=style.drawable(name),
    )


def _mark(axes, index, x, y):
    axes.plot(
        [x],
        [y],
        marker=style.MARKERS[index % len(style.MARKERS)],
        color=style.PALETTE[index % len(style.PALETTE)],
        markeredgecolor=style.TEXT,
        markeredgewidth=0.5,
        markersize=5,
        linestyle="none",
        zorder=4,
    )


def _finish(figure, title, columns=2):
    legend = figure.legend(loc="outside lower center", fontsize=style.TICK_SIZE, frameon=False, ncols=columns)
    for text in legend.get_texts():
        text.set(color=style.TEXT, family=style.typefaces(), parse_math=False)
    style.add_title(figure, title)
