"""The same samples in several embedding spaces, side by side."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style
from tfdml.plots.plane import checked, draw_classes, to_plane

_TITLE_LINE = 0.15


def embedding_panels(
    panels, labels, class_names=None, *, columns=3, perplexity=30.0, seed=0, width=style.TEXT_WIDTH, title=None
):
    """Draw the same samples in several embedding spaces, each class with its own color and marker, and its name.

    More than two dimensions are reduced by t-SNE. The first panel starts from the principal components, each other one
    from the panel before, so that stable groups keep their place and panels can be compared.

    Args:
        panels: dict from a title to the embeddings in a space, `(n, d)`; d may differ.
        labels: array `(n,)` of int or str. Classes of the samples.
        class_names: Names of the classes for integer labels: `class_names[label]`. `None` shows the labels.
        columns: int. Maximum number of panels side by side. Default: 3.
        perplexity: float. Perplexity of t-SNE, about the number of neighbors of a point. It is lowered if there are few
            points. Default: 30.
        seed: int. Seed of t-SNE. Default: 0.
        width: float. Width in inches.
        title: str. Title of the figure. Default: none.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no panel, shapes do not match, a number is not finite, a label has no name, or a limit
            is below 1.

    Reference:
        L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    """
    if not panels:
        raise ValueError("Received: no panels. Expected: embeddings by title.")
    limits = {"columns": columns, "perplexity": perplexity}
    spaces = [checked(space, labels, class_names, **limits)[0] for space in panels.values()]
    labels = np.asarray(labels)
    names = {
        label: style.drawable(label if class_names is None else class_names[int(label)]) for label in np.unique(labels)
    }
    columns = min(int(columns), len(panels))
    rows = -(-len(panels) // columns)
    side = width / columns
    lines = max(heading.count("\n") + 1 for heading in panels)
    figure = style.new_figure(width, rows * (side + _TITLE_LINE * lines) + (0.25 if title is not None else 0.0))
    grid = figure.subplots(rows, columns, squeeze=False)
    size = float(np.clip(3000.0 / len(labels), 4.0, 14.0))
    points = None
    for axes, heading, space in zip(grid.flat, panels, spaces):
        points, axis_name = to_plane(space, perplexity, seed, start=points)
        axes.set_title(heading, fontsize=style.LABEL_SIZE, color=style.TEXT, pad=4, parse_math=False)
        _frame(axes, axis_name)
        draw_classes(axes, points, labels, names, size, side, above=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    style.add_title(figure, title)
    return figure


def _frame(axes, axis_name):
    axes.set_box_aspect(1)
    if axis_name == "t-SNE":
        # Coordinates of t-SNE have no meaning.
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color=style.QUIET)
        return
    style.style_axes(axes, grid=False)
    axes.set_xlabel(f"{axis_name} 1")
    axes.set_ylabel(f"{axis_name} 2")
