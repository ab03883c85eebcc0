"""Local features in the cells of their prototypes."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from scipy.spatial import Voronoi, voronoi_plot_2d

from tfdml.plots import style


def prototype_cover(features, prototypes, *, max_points=6000, seed=0, width=style.COLUMN_WIDTH, title=None):
    r"""Draw two-dimensional features in the cells of their nearest prototypes, with the covering radius.

    The disc has the covering radius $\delta = \max_j \min_i \lVert x_j - \nu_i \rVert_2$. It is drawn around the
    prototype of the farthest feature, which lies on its border.

    Args:
        features: float array `(n, 2)`.
        prototypes: float array `(m, 2)`, m >= 4.
        max_points: int. Maximum number of features that are drawn, chosen at random. Default: 6000.
        seed: int. Seed of that choice. Default: 0.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match.
    """
    features, prototypes = np.asarray(features, np.float64), np.asarray(prototypes, np.float64)
    if features.ndim != 2 or features.shape[1] != 2 or not len(features):
        raise ValueError(f"Received: features of shape {features.shape}. Expected: (n, 2).")
    if prototypes.ndim != 2 or prototypes.shape[1] != 2 or len(prototypes) < 4:
        raise ValueError(f"Received: prototypes of shape {prototypes.shape}. Expected: (m, 2) with m >= 4.")
    distances = np.linalg.norm(features[:, None] - prototypes, axis=-1)
    nearest, apart = distances.argmin(axis=1), distances.min(axis=1)
    farthest = apart.argmax()

    figure = style.new_figure(width, width + 0.35)
    axes = figure.subplots()
    style.style_axes(axes, grid=False)
    voronoi_plot_2d(
        Voronoi(prototypes), ax=axes, show_points=False, show_vertices=False, line_colors=style.QUIET, line_width=0.6
    )
    # The farthest feature is always drawn, because the radius of the disc ends there.
    others = np.random.default_rng(seed).permutation(len(features))
    shown = np.append(farthest, others[others != farthest])[:max_points]
    # Adjacent cells of the same color are separated by a line.
    colors = np.array(style.PALETTE)[nearest[shown] % len(style.PALETTE)]
    axes.scatter(*features[shown].T, s=2.0, c=colors, linewidths=0, zorder=1)
    axes.scatter(
        *prototypes.T, s=11.0, marker="D", color=style.TEXT, edgecolors="white", linewidths=0.5, zorder=3
    )  # fmt: skip
    center = prototypes[nearest[farthest]]
    axes.add_patch(Circle(center, apart[farthest], fill=False, edgecolor=style.TEXT, linewidth=1.0, zorder=4))
    axes.plot(*np.stack([center, features[farthest]]).T, color=style.TEXT, linewidth=1.0, zorder=4)
    low, high = style.square_around(np.concatenate([features, prototypes]))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    axes.set_aspect("equal")
    axes.set_xlabel("dimension 1")
    axes.set_ylabel("dimension 2")
    figure.legend(
        handles=[
            Line2D([], [], linestyle="", marker="o", markersize=2, color=style.BLUE, label="local features"),
            Line2D([], [], linestyle="", marker="D", markersize=3, color=style.TEXT, label="prototypes"),
            Line2D([], [], color=style.TEXT, linewidth=1.0, label=f"radius δ = {apart[farthest]:.3f}"),
        ],
        loc="outside lower center",
        ncols=3,
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
        handletextpad=0.4,
        columnspacing=1.0,
    )
    style.add_title(figure, title)
    return figure
