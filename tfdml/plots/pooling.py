"""Maps of pooling weights over images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tfdml._utils.types import ArrayLike, TensorLike
from tfdml.plots import style
from tfdml.plots.pixels import as_gray, as_pixels, show

_OPACITY = 0.7
# Inches: largest side of an image, and width of the color bar and its labels.
_LARGEST_SIDE = 1.5
_BAR_WIDTH = 0.95


def pooling_maps(
    images: TensorLike,
    maps: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    interpolation: str = "nearest",
    width: float = style.TEXT_WIDTH,
    title: str | None = None,
) -> Figure:
    r"""Plot images and, below each, its pooling weights as an overlay.

    Use it to see which parts of an image a pooling uses; `tfdml.models.pooling_maps` computes the weights.

    The weights $p_j$ of the $n$ locations of a feature map sum to 1. The figure shows $n p_j$ on one color scale for
    all images: 1 is the weight of every location in average pooling, and 0 means that a location is ignored.

    Args:
        images: Array `(batch, height, width, channels)` or a sequence of images; uint8, or float in 0–1, with 1, 3 or 4
            channels.
        maps: float array `(batch, h, w)`. Weights; each map sums to 1. Or a dict from names of methods to such arrays,
            each drawn in its own row below the images.
        names: Sequence of str, `(batch,)`. Text above the images. Default `None`.
        interpolation: `"nearest"` shows each location of the feature map as a block, `"bilinear"` a smooth map. Default
            `"nearest"`.
        width: float, inches. Largest width. Default: the text width of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match, there are no images, a weight is negative or not finite, or a map does not
            sum to 1.

    Example:
        >>> images, weights = np.zeros((2, 8, 8, 3)), np.full((2, 4, 4), 1 / 16)
        >>> figure = pooling_maps(images, {"average": weights}, names=["cat", "dog"])
    """
    methods = dict(maps) if isinstance(maps, dict) else {"weights": maps}
    if not methods:
        raise ValueError("There are no maps. Received: maps={}. Expected: the maps of at least one method.")
    methods = {name: _checked_maps(of_method, len(images)) for name, of_method in methods.items()}
    count = len(images)
    if names is not None and len(names) != count:
        raise ValueError(
            f"The numbers of names and images differ. Received: {len(names)} names and {count} images. Expected: one "
            "name per image."
        )
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(
            f"Invalid interpolation. Received: interpolation={interpolation!r}. Expected: 'nearest' or 'bilinear'."
        )
    all_pixels = [as_pixels(image, f"images[{index}]") for index, image in enumerate(images)]

    relative = {name: maps * (maps.shape[1] * maps.shape[2]) for name, maps in methods.items()}
    # The weight of average pooling is the middle of the scale, or below it if there are larger weights.
    scale = Normalize(0.0, max(2.0, *(float(maps.max()) for maps in relative.values())))
    per_row = min(count, 8)
    rows = -(-count // per_row)
    side = min((width - _BAR_WIDTH) / per_row, _LARGEST_SIDE)
    tallest = max(pixels.shape[0] / pixels.shape[1] for pixels in all_pixels)
    block = 1 + len(methods)
    figure = style.new_figure(
        per_row * side + _BAR_WIDTH,
        rows * (block * side * tallest + (0.2 if names is not None else 0.06)) + (0.25 if title is not None else 0.05),
    )
    grid = figure.subplots(block * rows, per_row, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.03, wspace=0.02, hspace=0.02)
    overlay = None
    for index in range(rows * per_row):
        row, column = divmod(index, per_row)
        above, *below = grid[block * row : block * (row + 1), column]
        for axes in (above, *below):
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(linewidth=0.5, color=style.QUIET)
            axes.set_visible(index < count)
        if index >= count:
            continue
        pixels = all_pixels[index]
        extent = (0, pixels.shape[1], pixels.shape[0], 0)
        show(above, pixels, extent=extent)
        for axes, (name, of_method) in zip(below, relative.items()):
            # Draw the image pale, so that dark and bright parts come from the weights.
            show(axes, 0.4 + 0.6 * as_gray(pixels), extent=extent)
            overlay = axes.imshow(
                of_method[index],
                extent=extent,
                cmap=style.SEQUENTIAL_COLORMAP,
                norm=scale,
                alpha=_OPACITY,
                interpolation=interpolation,
            )
            if column == 0:
                axes.set_ylabel(name, fontsize=style.LABEL_SIZE, color=style.TEXT)
        if names is not None:
            above.set_title(
                style.fitting(style.drawable(names[index]), side, style.NOTE_SIZE),
                fontsize=style.NOTE_SIZE,
                color=style.TEXT,
                family=style.typefaces(),
                pad=2,
                parse_math=False,
            )
        if column == 0:
            above.set_ylabel("image", fontsize=style.LABEL_SIZE, color=style.TEXT)
    bar = figure.colorbar(overlay, ax=grid, fraction=0.05, pad=0.01, aspect=12 * block * rows)
    bar.set_label("weight × n\n(1: average pooling)", fontsize=style.LABEL_SIZE, color=style.TEXT)
    bar.ax.tick_params(labelsize=style.TICK_SIZE, length=2.5, width=0.6, color=style.QUIET, labelcolor=style.TEXT)
    bar.ax.axhline(1.0, color="white", linewidth=1.2)
    bar.outline.set_linewidth(0.5)
    style.add_title(figure, title)
    return figure


def _checked_maps(maps, count):
    maps = np.asarray(maps)
    maps = maps.astype(np.float64)
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(f"Maps have the wrong shape. Received: maps of shape {maps.shape}. Expected: (images, h, w).")
    if len(maps) != count:
        raise ValueError(
            f"The numbers of images and maps differ. Received: {count} images and {len(maps)} maps. Expected: one map "
            "per image."
        )
    if not np.isfinite(maps).all() or maps.min() < 0:
        raise ValueError(
            f"Invalid weights. Received: weights in [{maps.min():g}, {maps.max():g}]. Expected: finite weights >= 0."
        )
    sums = maps.sum(axis=(1, 2))
    if np.abs(sums - 1.0).max() > 0.02:
        raise ValueError(
            f"Invalid weights. Received: a map that sums to {sums[np.abs(sums - 1.0).argmax()]:g}. Expected: 1."
        )
    return maps
