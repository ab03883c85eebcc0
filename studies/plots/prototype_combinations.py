"""Pooled features beside the prototypes that make them up."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from tfdml.plots import style
from tfdml.plots.pixels import as_pixels, show

# The height of an image, as a share of its column's width.
_IMAGE_HEIGHT = 0.45
# In inches, at most.
_PANEL_SIDE = 2.6


def prototype_combinations(
    images, features, prototypes, weights, radius, *, names=None, width=style.TEXT_WIDTH, title=None
):  # fmt: skip
    """Draws, for each image, the average of its local features and the convex combination of prototypes near it.

    Below the image stands the whole plane, and below that the neighbourhood of the average, at a larger scale.

    Args:
        images: `b` images, as for `pooling_maps`.
        features: Their local features, `(b, n, 2)`.
        prototypes: `(m, 2)`.
        weights: Of the prototypes in each image, `(b, m)`, >= 0, each row's sum 1. A prototype's area in the
            image goes with its weight.
        radius: Of the disc around the average, within which the combination is claimed to lie, > 0.
        names: Text above the images, `(b,)`.
        width: In inches.
        title: Above the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit, weights do not sum to 1, or the radius is not positive.
    """
    features, prototypes, weights = (np.asarray(values, np.float64) for values in (features, prototypes, weights))
    _check(len(images), features, prototypes, weights, radius, names)
    count = len(images)
    side = min(width / count, _PANEL_SIDE)
    figure = style.new_figure(width, (2.0 + _IMAGE_HEIGHT) * side + 0.6)
    grid = figure.subplots(3, count, squeeze=False, height_ratios=[_IMAGE_HEIGHT, 1.0, 1.0])
    low, high = style.square_around(np.concatenate([features.reshape(-1, 2), prototypes]))
    for index, (image_axes, plane, neighbourhood) in enumerate(grid.T):
        show(image_axes, as_pixels(images[index], f"images[{index}]"))
        image_axes.set(xticks=[], yticks=[])
        if names is not None:
            image_axes.set_title(
                style.drawable(names[index]), fontsize=style.LABEL_SIZE, color=style.TEXT, family=style.typefaces(),
                parse_math=False,
            )
        average, combination = features[index].mean(axis=0), weights[index] @ prototypes
        for axes, scale in ((plane, 1.0), (neighbourhood, 2.0)):
            style.style_axes(axes, grid=False)
            _points(axes, features[index], prototypes, weights[index], scale)
            axes.add_patch(Circle(average, radius, fill=False, edgecolor=style.TEXT, linewidth=0.8, zorder=4))
            axes.set_aspect("equal")
            axes.set_xlabel("dimension 1")
        plane.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        neighbourhood.plot(*np.stack([average, combination]).T, color=style.TEXT, linewidth=1.0, zorder=5)
        neighbourhood.scatter(*average, s=18.0, color=style.BLUE, edgecolors="white", linewidths=0.6, zorder=6)
        neighbourhood.scatter(
            *combination, s=20.0, marker="^", color=style.VERMILLION, edgecolors="white", linewidths=0.6, zorder=7
        )
        reach = 1.12 * np.array([-radius, radius])
        neighbourhood.set(xlim=average[0] + reach, ylim=average[1] + reach)
        neighbourhood.set_title(
            f"‖GAP − PCC‖ = {np.linalg.norm(average - combination):.3f}", fontsize=style.NOTE_SIZE, color=style.TEXT
        )
        neighbourhood.locator_params(nbins=4)
    for axes in grid[1:, 0]:
        axes.set_ylabel("dimension 2")
    figure.legend(
        handles=_entries(radius),
        loc="outside lower center",
        ncols=6,
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
        handletextpad=0.3,
        columnspacing=1.0,
    )
    style.add_title(figure, title)
    return figure


def _check(count, features, prototypes, weights, radius, names):
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
    if not 0.0 < radius < np.inf:
        raise ValueError(f"Received: radius={radius}; expected a positive number.")


def _points(axes, features, prototypes, weights, scale):
    axes.scatter(*prototypes.T, s=4.0 * scale, marker="D", color=style.BACKGROUND_POINTS, linewidths=0, zorder=1)
    active = weights > 0.0
    axes.scatter(
        *prototypes[active].T,
        s=scale * (6.0 + 150.0 * weights[active]),
        marker="D",
        color=style.ORANGE,
        edgecolors="white",
        linewidths=0.4,
        zorder=2,
    )
    axes.scatter(*features.T, s=5.0 * scale, color=style.SKY, linewidths=0, zorder=3)


def _entries(radius):
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
    return [*entries, Line2D([], [], color=style.TEXT, linewidth=0.8, label=f"radius δ = {radius:.3f}")]
