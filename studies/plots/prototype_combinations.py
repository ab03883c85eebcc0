"""Pooled features and the combinations of prototypes that approximate them."""

from __future__ import annotations

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from tfdml.plots import style
from tfdml.plots.pixels import as_pixels, show

# Height of an image relative to the width of its column.
_IMAGE_HEIGHT = 0.45
# Maximum, in inches.
_PANEL_SIDE = 2.6


def prototype_combinations(
    images, features, prototypes, weights, radius, *, names=None, width=style.TEXT_WIDTH, title=None
):  # fmt: skip
    """Draw the average of the local features of each image and the convex combination of prototypes near it.

    Below each image are the whole plane and the neighborhood of the average at a larger scale.

    Args:
        images: `b` images, as for `pooling_maps`.
        features: float array `(b, n, 2)`. Their local features.
        prototypes: float array `(m, 2)`.
        weights: float array `(b, m)`, >= 0. Weights of the prototypes in each image; each row sums to 1. The drawn area
            of a prototype depends on its weight.
        radius: float > 0. Radius of the disc around the average that should contain the combination.
        names: list of str `(b,)`. Titles of the images. Default: none.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match, weights do not sum to 1, or the radius is not positive.
    """
    features, prototypes, weights = (np.asarray(values, np.float64) for values in (features, prototypes, weights))
    _check(len(images), features, prototypes, weights, radius, names)
    count = len(images)
    side = min(width / count, _PANEL_SIDE)
    figure = style.new_figure(width, (2.0 + _IMAGE_HEIGHT) * side + 0.6)
    grid = figure.subplots(3, count, squeeze=False, height_ratios=[_IMAGE_HEIGHT, 1.0, 1.0])
    low, high = style.square_around(np.concatenate([features.reshape(-1, 2), prototypes]))
    for index, (image_axes, plane, neighborhood) in enumerate(grid.T):
        show(image_axes, as_pixels(images[index], f"images[{index}]"))
        image_axes.set(xticks=[], yticks=[])
        if names is not None:
            image_axes.set_title(
                style.drawable(names[index]), fontsize=style.LABEL_SIZE, color=style.TEXT, family=style.typefaces(),
                parse_math=False,
            )
        average, combination = features[index].mean(axis=0), weights[index] @ prototypes
        for axes, scale in ((plane, 1.0), (neighborhood, 2.0)):
            style.style_axes(axes, grid=False)
            _points(axes, features[index], prototypes, weights[index], scale)
            axes.add_patch(Circle(average, radius, fill=False, edgecolor=style.TEXT, linewidth=0.8, zorder=4))
            axes.set_aspect("equal")
            axes.set_xlabel("dimension 1")
        plane.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
        neighborhood.plot(*np.stack([average, combination]).T, color=style.TEXT, linewidth=1.0, zorder=5)
        neighborhood.scatter(*average, s=18.0, color=style.BLUE, edgecolors="white", linewidths=0.6, zorder=6)
        neighborhood.scatter(
            *combination, s=20.0, marker="^", color=style.VERMILLION, edgecolors="white", linewidths=0.6, zorder=7
        )
        reach = 1.12 * np.array([-radius, radius])
        neighborhood.set(xlim=average[0] + reach, ylim=average[1] + reach)
        neighborhood.set_title(
            f"‖GAP − PCC‖ = {np.linalg.norm(average - combination):.3f}", fontsize=style.NOTE_SIZE, color=style.TEXT
        )
        neighborhood.locator_params(nbins=4)
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
            f"Shapes do not match. Received: {count} images, features {features.shape}, prototypes {prototypes.shape}, "
            f"weights {weights.shape}. Expected: (b, n, 2), (m, 2) and (b, m)."
        )
    if weights.min() < 0 or np.abs(weights.sum(axis=1) - 1.0).max() > 1e-3:
        raise ValueError("Received: weights that are negative or do not sum to 1. Expected: >= 0, sum 1 per image.")
    if not 0.0 < radius < np.inf:
        raise ValueError(f"Received: radius={radius}. Expected: a positive number.")


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
