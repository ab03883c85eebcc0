"""Pooled features beside the prototypes that make them up."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from tfdml.plots import style
from tfdml.plots.pictures import as_picture, show


def prototype_combinations(
    images, features, prototypes, weights, radius, *, names=None, width=style.TEXT_WIDTH, title=None
):  # fmt: skip
    """Draws, for each image, the average of its local features and the convex combination of prototypes near it.

    Args:
        images: `b` images, as for `pooling_maps`.
        features: Their local features, `(b, n, 2)`.
        prototypes: `(m, 2)`.
        weights: Of the prototypes in each image, `(b, m)`, >= 0, each row's sum 1. A prototype's area in the
            picture goes with its weight.
        radius: Of the disc around the average, within which the combination is claimed to lie.
        names: Text above the images, `(b,)`.
        width: In inches.
        title: Above the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit or weights do not sum to 1.
    """
    features, prototypes, weights = (np.asarray(values, np.float64) for values in (features, prototypes, weights))
    count = len(images)
    if (
        not count
        or features.ndim != 3
        or features.shape[::2] != (count, 2)
        or prototypes.shape[1:] != (2,)
        or weights.shape != (count, len(prototypes))
        or (names is not None and len(names) != count)
    ):
        raise ValueError(
            f"Arrays do not fit. Received: {count} images, features {features.shape}, prototypes {prototypes.shape}, "
            f"weights {weights.shape}; expected (b, n, 2), (m, 2) and (b, m)."
        )
    if weights.min() < 0 or np.abs(weights.sum(axis=1) - 1.0).max() > 1e-3:
        raise ValueError("Weights must be >= 0 and sum to 1 for each image.")

    side = width / count
    figure = style.new_figure(width, 1.75 * side + 0.5)
    above, below = figure.subplots(2, count, squeeze=False, height_ratios=[0.55, 1.0])
    for axes in below[1:]:
        axes.sharex(below[0])
        axes.sharey(below[0])
    for index in range(count):
        show(above[index], as_picture(images[index], f"images[{index}]"))
        above[index].set(xticks=[], yticks=[])
        if names is not None:
            above[index].set_title(
                style.drawable(names[index]), fontsize=style.LABEL_SIZE, color=style.TEXT, parse_math=False
            )
        axes = below[index]
        style.style_axes(axes, grid=False)
        axes.scatter(*prototypes.T, s=4.0, marker="D", color=style.BACKGROUND_POINTS, linewidths=0, zorder=1)
        active = weights[index] > 0.0
        axes.scatter(
            *prototypes[active].T,
            s=6.0 + 150.0 * weights[index, active],
            marker="D",
            color=style.ORANGE,
            edgecolors="white",
            linewidths=0.4,
            zorder=2,
        )
        axes.scatter(*features[index].T, s=5.0, color=style.SKY, linewidths=0, zorder=3)
        average, combination = features[index].mean(axis=0), weights[index] @ prototypes
        axes.add_patch(Circle(average, radius, fill=False, edgecolor=style.TEXT, linewidth=0.8, zorder=4))
        axes.scatter(*average, s=26.0, color=style.BLUE, edgecolors="white", linewidths=0.6, zorder=5)
        axes.scatter(
            *combination, s=34.0, marker="^", color=style.VERMILLION, edgecolors="white", linewidths=0.6, zorder=6
        )
        axes.set_aspect("equal")
        axes.set_xlabel("dimension 1")
    everything = np.concatenate([features.reshape(-1, 2), prototypes])
    low, high = everything.min(axis=0), everything.max(axis=0)
    half = max(0.55 * (high - low).max(), radius)
    below[0].set(
        xlim=0.5 * (low + high)[0] + np.array([-half, half]), ylim=0.5 * (low + high)[1] + np.array([-half, half])
    )
    below[0].set_ylabel("dimension 2")
    shapes = [
        ("o", 2.5, style.SKY, "local features"),
        ("D", 2.5, style.BACKGROUND_POINTS, "prototypes"),
        ("D", 4.5, style.ORANGE, "active, area by weight"),
        ("o", 5.0, style.BLUE, "average (GAP)"),
        ("^", 5.0, style.VERMILLION, "combination (PCC)"),
    ]
    entries = [
        Line2D([], [], linestyle="", marker=marker, markersize=size, color=color, label=name)
        for marker, size, color, name in shapes
    ]
    entries.append(Line2D([], [], color=style.TEXT, linewidth=0.8, label=f"radius δ = {radius:.3f}"))
    figure.legend(
        handles=entries,
        loc="outside lower center",
        ncols=len(entries),
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
        handletextpad=0.3,
        columnspacing=1.0,
    )
    style.add_title(figure, title)
    return figure
