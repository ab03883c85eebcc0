"""The same samples in several embedding spaces, side by side."""

from __future__ import annotations

import numpy as np

from tfdml.plots import style
from tfdml.plots.plane import checked, draw_classes, to_plane

_TITLE_LINE = 0.15


def embedding_panels(
    panels, labels, class_names=None, *, columns=3, perplexity=30.0, seed=0, width=style.TEXT_WIDTH, title=None
):
    """Draws the same samples in several embedding spaces, each class in a colour and shape of its own, with its name.

    More than two dimensions are brought to the plane by t-SNE. The first panel starts from the principal components,
    each other from the panel before: what stays together stays in its place, so that panels can be compared.

    Args:
        panels: Embeddings of the samples in each space, as `{title: (n, d)}`; d may differ.
        labels: The samples' classes, `(n,)`: integers or text.
        class_names: The names of the classes, if labels are integers: `class_names[label]`. `None` shows the labels.
        columns: At most so many panels stand side by side.
        perplexity: Of t-SNE, about how many neighbours a point has; lowered where there are few points.
        seed: For t-SNE.
        width: In inches.
        title: Above the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If there is no panel, shapes do not fit, a number is not finite, a label has no name, or a limit is
            below 1.

    Reference:
        L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    """
    if not panels:
        raise ValueError("Received: no panels; expected embeddings by title.")
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
        # The numbers of t-SNE mean nothing.
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(linewidth=0.5, color=style.QUIET)
        return
    style.style_axes(axes, grid=False)
    axes.set_xlabel(f"{axis_name} 1")
    axes.set_ylabel(f"{axis_name} 2")
