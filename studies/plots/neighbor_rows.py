"""Test images and their nearest neighbors under several metrics."""

from __future__ import annotations

from matplotlib.patches import Rectangle

from tfdml.plots import style
from tfdml.plots.pixels import as_pixels, show


def neighbor_rows(images, rows, *, first_title="test image", width=style.TEXT_WIDTH, title=None):
    """Draw test images in the first row, and below each its nearest neighbor under each metric.

    Neighbors of the same class have a solid green frame, others a dashed red one.

    Args:
        images: Sequence of images `(h, w)` or `(h, w, channels)`; uint8, or float in 0–1.
        rows: dict from the name of a metric to the pair (images, correct): one neighbor for each test image, and
            whether it has the same class.
        first_title: str. Name of the first row.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there are no images or no metrics, or a row has another number of images.
    """
    if not len(images) or not rows:
        raise ValueError(f"There is nothing to draw. Received: {len(images)} images and {len(rows)} metrics.")
    for name, (neighbors, correct) in rows.items():
        if not len(neighbors) == len(correct) == len(images):
            raise ValueError(
                f"Rows do not match. Received: {len(neighbors)} neighbors and {len(correct)} marks for {name!r}. "
                f"Expected: {len(images)}, the number of test images."
            )
    pitch, names = 1.15, [first_title, *rows]
    # The names of the rows take the width of this number of images.
    margin = 0.11 * max(map(len, names)) * 10 / (width * 1.4) * len(images) * 0.16 + 0.3
    extent = margin + len(images) * pitch
    unit = width / extent
    figure = style.new_figure(width, unit * len(names) * pitch + 0.1 + (0.25 if title is not None else 0.0))
    axes = figure.subplots()
    axes.set_axis_off()
    lines = [(images, None), *rows.values()]
    for row, (name, (drawn, correct)) in enumerate(zip(names, lines)):
        top = row * pitch
        axes.text(margin - 0.15, top + 0.5, name, ha="right", va="center", fontsize=style.LABEL_SIZE, color=style.TEXT)
        for column, image in enumerate(drawn):
            left = margin + column * pitch
            pixels = as_pixels(image, f"image {column} of {name}")
            show(axes, pixels, extent=(left, left + 1, top + 1, top), interpolation="nearest", zorder=1)
            color, line = style.TEXT, "solid"
            if correct is not None:
                color = style.RIGHT if correct[column] else style.WRONG
                line = "solid" if correct[column] else (0, (2.5, 1.2))
            thickness = 0.8 if correct is None else 2.0
            axes.add_patch(
                Rectangle((left, top), 1, 1, fill=False, edgecolor=color, linewidth=thickness, linestyle=line, zorder=2)
            )
    axes.set_xlim(0, extent)
    axes.set_ylim(len(names) * pitch - 0.1, -0.05)
    axes.set_aspect("equal")
    style.add_title(figure, title)
    return figure
