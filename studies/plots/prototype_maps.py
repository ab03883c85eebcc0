"""Maps of the nearest prototype and the transported share of each location."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from studies.plots.attribute_histograms import prototype_color
from tfdml.plots import style
from tfdml.plots.pixels import as_gray, as_pixels, show

_LARGEST_SIDE = 1.0
# Images are pale under the colors: black becomes this gray.
_PALE_BLACK = 0.75


def prototype_maps(images, rows, *, names=None, width=style.TEXT_WIDTH, title=None):
    """Draw images and, in a row per run below them, their locations in the color of the nearest prototype.

    Args:
        images: `b` images, as for `pooling_maps`.
        rows: dict from the name of a row to `(shares, prototypes)`: the transported share of each location, in 0–1, and
            the index of its prototype, each `(b, h, w)`. A share of 0 shows only the image, a share of 1 only the
            color.
        names: list of str `(b,)`. Titles of the images. Default: none.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no image, shapes do not match, or a share is out of range.
    """
    count = len(images)
    rows = {name: (np.asarray(shares, float), np.asarray(indices)) for name, (shares, indices) in rows.items()}
    if not count or not rows or names is not None and len(names) != count:
        raise ValueError(
            f"Received: {count} images, {len(rows)} rows and {'no' if names is None else len(names)} names. "
            "Expected: at least one image and one row, and a name per image."
        )
    for name, (shares, indices) in rows.items():
        if shares.ndim != 3 or len(shares) != count or indices.shape != shares.shape:
            raise ValueError(
                f"Shapes do not match. Received: shares of shape {shares.shape}, prototypes of shape {indices.shape} "
                f"for {name!r}. Expected: ({count}, h, w)."
            )
        if not (shares.min() >= 0 and shares.max() <= 1):
            raise ValueError(f"Received: shares in [{shares.min():g}, {shares.max():g}]. Expected: 0 to 1.")
    all_pixels = [as_pixels(image) for image in images]
    side = min(_LARGEST_SIDE, (width - 0.3) / count)
    figure = style.new_figure(width, (side + 0.03) * (len(rows) + 1) + 0.5 + (0.2 if title is not None else 0.0))
    grid = figure.subplots(len(rows) + 1, count, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color=style.QUIET)
    for column, pixels in enumerate(all_pixels):
        show(grid[0, column], pixels)
        if names is not None:
            grid[0, column].set_title(
                style.drawable(names[column]), fontsize=style.LABEL_SIZE, color=style.TEXT, pad=3,
                family=style.typefaces(),
            )
    for row, (name, (shares, indices)) in enumerate(rows.items(), start=1):
        grid[row, 0].set_ylabel(name, fontsize=style.TICK_SIZE, color=style.TEXT)
        for column, pixels in enumerate(all_pixels):
            axes, gray = grid[row, column], as_gray(pixels)
            height, across = gray.shape
            # The map covers the whole image, whatever its size.
            extent = (-0.5, across - 0.5, height - 0.5, -0.5)
            show(axes, _PALE_BLACK + (1.0 - _PALE_BLACK) * gray, extent=extent)
            colors = np.array([to_rgb(prototype_color(index)) for index in indices[column].ravel()])
            overlay = np.dstack([colors.reshape(*indices[column].shape, 3), shares[column]])
            axes.imshow(overlay, interpolation="nearest", extent=extent)
    present = np.unique(np.concatenate([indices[shares > 0.05] for shares, indices in rows.values()]))
    figure.legend(
        [Patch(color=prototype_color(index)) for index in present],
        [f"{index + 1}" for index in present],
        title="nearest prototype; opaque where the whole location is transported",
        title_fontsize=style.TICK_SIZE,
        loc="outside lower center",
        ncols=8,
        fontsize=style.TICK_SIZE,
        frameon=False,
        labelcolor=style.TEXT,
        handlelength=1.0,
    )
    style.add_title(figure, title)
    return figure
