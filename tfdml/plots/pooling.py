"""What the pooling looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from tfdml._utils.types import ArrayLike, TensorLike
from tfdml.plots import style
from tfdml.plots.pixels import as_gray, as_pixels, show

_OPACITY = 0.7
# In inches: an image's side at most, and the room for the colour bar and the labels.
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
    r"""Draws images and, below each, its pooling weights over it.

    The weights $p_j$ of the $n$ places of a feature map sum to 1. Drawn is $n p_j$: 1 is the weight that
    average pooling gives to every place, 0 is left out, and the colours of all images are on one scale.

    Args:
        images: `b` images, `(b, h, w, c)` or a sequence of images; uint8, or float in 0..1, with 1, 3 or 4
            channels.
        maps: `(b, h', w')` weights, each map's sum 1; or a dict of such from the names of methods, each drawn in a row
            of its own below the images.
        names: Text above the images, `(b,)`.
        interpolation: `"nearest"` shows each place of the feature map as a block, `"bilinear"` a smooth map.
        width: In inches.
        title: Above the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit, there is no image, a weight is negative or not finite, or a map does
            not sum to 1.
    """
    methods = dict(maps) if isinstance(maps, dict) else {"weights": maps}
    if not methods:
        raise ValueError("Received: maps={}; expected those of a method at least.")
    methods = {name: _checked_maps(of_method, len(images)) for name, of_method in methods.items()}
    count = len(images)
    if names is not None and len(names) != count:
        raise ValueError(f"Received: {len(names)} names and {count} images; expected as many names as images.")
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"Received: interpolation={interpolation!r}; expected 'nearest' or 'bilinear'.")
    all_pixels = [as_pixels(image, f"images[{index}]") for index, image in enumerate(images)]

    relative = {name: maps * (maps.shape[1] * maps.shape[2]) for name, maps in methods.items()}
    # Average pooling is in the middle of the scale, or below where there are stronger weights.
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
            # Light and pale, so that what is dark or bright below comes from the weights.
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
                style.drawable(names[index]),
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
        raise ValueError(f"Received: maps of shape {maps.shape}; expected (images, h, w).")
    if len(maps) != count:
        raise ValueError(f"Received: {count} images and {len(maps)} maps; expected as many maps as images.")
    if not np.isfinite(maps).all() or maps.min() < 0:
        raise ValueError(f"Received: weights in [{maps.min():g}, {maps.max():g}]; expected finite weights >= 0.")
    sums = maps.sum(axis=(1, 2))
    if np.abs(sums - 1.0).max() > 0.02:
        raise ValueError(f"Received: a map that sums to {sums[np.abs(sums - 1.0).argmax()]:g}; expected 1.")
    return maps
