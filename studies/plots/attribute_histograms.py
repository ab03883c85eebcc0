"""Histograms of the attributes of each class."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style

# Colors of eight prototypes; they repeat for further ones.
PROTOTYPE_COLORS = (*style.PALETTE, "#F0E442", "#882255")

_ROW_HEIGHT = 0.95


def prototype_color(index):
    """Color of a prototype in all panels of a figure."""
    return PROTOTYPE_COLORS[index % len(PROTOTYPE_COLORS)]


def attribute_histograms(rows, class_names=None, *, label="attribute $z_i$", width=style.TEXT_WIDTH, title=None):
    """Draw a histogram per class: the mean of every attribute, with the deviation within the class.

    Args:
        rows: dict from the name of a row, such as a run, to `(means, deviations)`, each `(classes, prototypes)`.
        class_names: list of str. Titles of the columns; `None` for numbers.
        label: str. Label of the bar height.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure` with a row of panels per entry of `rows` and a column per class, all on one scale.

    Raises:
        ValueError: If there is no row, shapes do not match, or a number is not finite.
    """
    if not rows:
        raise ValueError("There is nothing to draw. Received: no rows.")
    rows = {name: tuple(np.asarray(values, float) for values in pair) for name, pair in rows.items()}
    shape = next(iter(rows.values()))[0].shape
    classes = shape[0] if len(shape) == 2 else 0
    names = [str(index) for index in range(classes)] if class_names is None else list(class_names)
    for name, (means, deviations) in rows.items():
        if len(shape) != 2 or not means.size or means.shape != shape or deviations.shape != shape:
            raise ValueError(
                f"Shapes do not match. Received: means of shape {means.shape} and deviations of shape "
                f"{deviations.shape} for {name!r}. Expected: (classes, prototypes), the same for all rows."
            )
        if not (np.isfinite(means).all() and np.isfinite(deviations).all()):
            raise ValueError(f"Received: attributes that are not finite for {name!r}. Expected: finite numbers.")
    if len(names) != classes:
        raise ValueError(f"Received: {len(names)} class names and {classes} classes. Expected: a name per class.")

    figure = style.new_figure(width, _ROW_HEIGHT * len(rows) + 0.55 + (0.2 if title is not None else 0.0))
    grid = figure.subplots(len(rows), classes, sharex=True, sharey=True, squeeze=False)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.03, wspace=0.02, hspace=0.04)
    places = np.arange(shape[1])
    colors = [prototype_color(place) for place in places]
    for row, (name, (means, deviations)) in enumerate(rows.items()):
        for column in range(classes):
            axes = grid[row, column]
            style.style_axes(axes, grid=False)
            axes.bar(
                places,
                means[column],
                width=0.85,
                color=colors,
                yerr=deviations[column],
                error_kw={"elinewidth": 0.6, "ecolor": style.TEXT},
            )
            axes.set_xticks([])
            if column:
                axes.tick_params(axis="y", length=0)
        grid[row, 0].set_ylabel(f"{name}\n{label}", fontsize=style.TICK_SIZE)
    # Attributes are shares, so the axis starts at 0 even if a deviation exceeds its mean.
    grid[0, 0].set_ylim(0.0, 1.03 * max((means + deviations).max() for means, deviations in rows.values()))
    for column, name in enumerate(names):
        grid[0, column].set_title(
            style.drawable(name), fontsize=style.LABEL_SIZE, color=style.TEXT, pad=3, family=style.typefaces()
        )
    figure.supxlabel(f"prototype $i$ = 1 to {shape[1]} (one color each)", fontsize=style.LABEL_SIZE, color=style.TEXT)
    style.add_title(figure, title)
    return figure
