"""Class proxies and samples in the plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from tfdml.plots import style

_TITLE_LINE = 0.15
# Marker, size in square points and z-order. The next proxies are on top because they are samples themselves.
_KINDS = {"proxies": ("s", 26.0, 3), "next_proxies": ("o", 12.0, 4)}


class ProxyPanel(NamedTuple):
    """One panel of `proxy_plane`.

    Attributes:
        points: float array `(n, 2)`. Embeddings of samples.
        labels: int array `(n,)`. Their classes, from 0.
        proxies: float array `(classes, k, 2)`. Proxies of the classes.
        next_proxies: float array `(classes, k, 2)`. Proxies of the next problem, or `None`.
    """

    points: np.ndarray
    labels: np.ndarray
    proxies: np.ndarray
    next_proxies: np.ndarray | None = None


def proxy_plane(
    panels,
    class_names=None,
    *,
    columns=3,
    max_points=600,
    seed=0,
    proxies_name="converged proxies",
    next_name="next proxies",
    width=style.TEXT_WIDTH,
    title=None,
):
    """Draw samples in the colors of their classes, with proxies as squares and the next proxies as circles.

    If there are more classes than colors, classes of the same color differ in its darkness and in the marker of the
    samples. A class name is next to its samples, away from the middle of the plane. All panels have one scale.

    Args:
        panels: dict from the heading of a panel to its `ProxyPanel`.
        class_names: Names of the classes: `class_names[label]`. `None` shows the labels.
        columns: int. Maximum number of panels side by side. Default: 3.
        max_points: int. Maximum number of samples drawn per panel, chosen at random. Names are placed by all samples.
            Default: 600.
        seed: int. Seed of that choice. Panels with the same number of samples show the same ones. Default: 0.
        proxies_name: str. Label of the squares in the legend.
        next_name: str. Label of the circles in the legend.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no panel, shapes do not match, a number is not finite, or a limit is below 1.
    """
    if not panels or columns < 1 or max_points < 1:
        raise ValueError(
            f"Received: {len(panels)} panels, columns={columns}, max_points={max_points}. Expected: at least 1 each."
        )
    panels = {heading: _checked(panel) for heading, panel in panels.items()}
    columns = min(int(columns), len(panels))
    rows = -(-len(panels) // columns)
    lines = max(heading.count("\n") + 1 for heading in panels)
    height = rows * (width / columns + _TITLE_LINE * lines) + 0.35 + (0.25 if title is not None else 0.0)
    figure = style.new_figure(width, height)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    low, high = style.square_around(np.concatenate([_everything(panel) for panel in panels.values()]))
    for place, (axes, (heading, panel)) in enumerate(zip(grid.flat, panels.items())):
        style.style_axes(axes, grid=False)
        axes.set_title(heading, fontsize=style.LABEL_SIZE, color=style.TEXT, pad=4, parse_math=False)
        shown = np.zeros(len(panel.points), bool)
        shown[np.random.default_rng(seed).permutation(len(shown))[:max_points]] = True
        _draw(axes, panel, shown, class_names, 0.05 * (high - low)[0])
        axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        # Below the last panel of a column, which may be above an empty cell.
        if place + columns >= len(panels):
            axes.set_xlabel("dimension 1")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("dimension 2")
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    _legend(figure, proxies_name, next_name if any(p.next_proxies is not None for p in panels.values()) else None)
    style.add_title(figure, title)
    return figure


def _checked(panel):
    points, labels = np.asarray(panel.points, np.float64), np.asarray(panel.labels)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points) or labels.shape != points.shape[:1]:
        raise ValueError(
            f"Received: points of shape {points.shape} and labels of shape {labels.shape}. Expected: (n, 2) and (n,)."
        )
    proxies = [None if of is None else np.asarray(of, np.float64) for of in (panel.proxies, panel.next_proxies)]
    for of in proxies:
        if of is not None and (of.ndim != 3 or of.shape[2] != 2 or len(of) <= labels.max()):
            raise ValueError(
                f"Received: proxies of shape {of.shape} and labels up to {labels.max()}. Expected: (classes, k, 2)."
            )
    panel = ProxyPanel(points, labels, *proxies)
    if not np.isfinite(_everything(panel)).all():
        raise ValueError("Received: points or proxies with NaN or infinity. Expected: finite numbers.")
    return panel


def _everything(panel):
    proxies = [of.reshape(-1, 2) for of in (panel.proxies, panel.next_proxies) if of is not None]
    return np.concatenate([panel.points, *proxies])


def _draw(axes, panel, shown, class_names, distance):
    """Draw one panel with the `shown` samples; `distance` separates class names from their samples."""
    middle = panel.points.mean(axis=0)
    for label in np.unique(panel.labels):
        is_member, color = panel.labels == label, _color(label)
        members = panel.points[is_member]
        marker = style.MARKERS[label // len(style.PALETTE) % len(style.MARKERS)]
        axes.scatter(
            *panel.points[is_member & shown].T, s=3.0, color=color, marker=marker, linewidths=0, alpha=0.45, zorder=1
        )
        for kind, (mark, size, order) in _KINDS.items():
            proxies = getattr(panel, kind)
            if proxies is not None:
                axes.scatter(
                    *proxies[label].T, s=size, color=color, marker=mark, linewidths=0.7,
                    edgecolors=style.TEXT if kind == "proxies" else "white", zorder=order,
                )  # fmt: skip
        name = style.drawable(label if class_names is None else class_names[label])
        style.write_class(axes, _next_to(members, middle, distance), name, color, order=5)


def _next_to(members, middle, distance):
    """Place next to most members of a class, on the side away from the middle."""
    center = np.median(members, axis=0)
    outwards = center - middle
    length = np.linalg.norm(outwards)
    outwards = outwards / length if length else np.array([0.0, 1.0])
    return center + (np.quantile((members - center) @ outwards, 0.9) + distance) * outwards


def _color(label):
    round_, place = divmod(int(label), len(style.PALETTE))
    return (0.55 if round_ % 2 else 1.0) * np.array(to_rgb(style.PALETTE[place]))


def _legend(figure, proxies_name, next_name):
    entries = [_entry("o", 1.5, "samples", style.QUIET, style.QUIET)]
    entries.append(_entry("s", 5.0, proxies_name, style.QUIET, style.TEXT))
    if next_name is not None:
        entries.append(_entry("o", 4.5, next_name, style.QUIET, "white"))
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=len(entries),
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
    )


def _entry(marker, size, name, color, edge):
    return Line2D(
        [], [], linestyle="", marker=marker, markersize=size, color=color, markeredgecolor=edge, label=name
    )
