"""Weights of one feature map for several settings."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style
from tfdml.plots.pixels import as_pixels, show

_BAR_HEIGHT = 0.5


def weight_grid(
    image, maps, row_names, column_names, *, label="weight", limit=None, width=style.TEXT_WIDTH, title=None
):
    """Draw an image next to a grid of its weight maps, all on one scale.

    Args:
        image: The image, as for `pooling_maps`. It is left of the first row.
        maps: float array `(rows, columns, h, w)` of weights >= 0.
        row_names: list of str. Labels of the rows.
        column_names: list of str. Titles of the columns.
        label: str. Label of the color bar, with the unit of the weights.
        limit: float. Upper end of the scale; `None` for the largest weight.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match, or a weight is negative or not finite.
    """
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 4 or not maps.size or maps.shape[:2] != (len(row_names), len(column_names)):
        raise ValueError(
            f"Shapes do not match. Received: maps of shape {maps.shape}, {len(row_names)} row names and "
            f"{len(column_names)} column names. Expected: (rows, columns, h, w)."
        )
    if not np.isfinite(maps).all() or maps.min() < 0:
        raise ValueError(f"Received: weights in [{maps.min():g}, {maps.max():g}]. Expected: finite weights >= 0.")
    rows, columns, height, across = maps.shape
    side = (width - 0.3) / (columns + 1)
    figure = style.new_figure(
        width, rows * side * height / across + _BAR_HEIGHT + 0.2 + (0.25 if title is not None else 0.0)
    )
    grid = figure.subplots(rows, columns + 1, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color=style.QUIET)
    show(grid[0, 0], as_pixels(image))
    grid[0, 0].set_title("features", fontsize=style.LABEL_SIZE, color=style.TEXT, pad=3)
    for axes in grid[1:, 0]:
        axes.set_visible(False)
    drawn = None
    for row in range(rows):
        grid[row, 1].set_ylabel(row_names[row], fontsize=style.LABEL_SIZE, color=style.TEXT)
        for column in range(columns):
            drawn = grid[row, column + 1].imshow(
                maps[row, column], cmap=style.SEQUENTIAL_COLORMAP, vmin=0.0, vmax=limit or maps.max() or 1.0
            )
    for column in range(columns):
        grid[0, column + 1].set_title(column_names[column], fontsize=style.LABEL_SIZE, color=style.TEXT, pad=3)
    bar = figure.colorbar(drawn, ax=grid[:, 1:], location="bottom", fraction=0.05, pad=0.02, aspect=40)
    bar.set_label(label, fontsize=style.LABEL_SIZE, color=style.TEXT)
    bar.ax.tick_params(labelsize=style.TICK_SIZE, length=2.5, width=0.6, color=style.QUIET, labelcolor=style.TEXT)
    bar.outline.set_linewidth(0.5)
    style.add_title(figure, title)
    return figure
