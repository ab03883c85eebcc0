"""Maps of embeddings in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tfdml._utils.types import ArrayLike, Labels
from tfdml.plots import style
from tfdml.plots.plane import checked, draw_classes, to_plane

# Largest number of characters of a name next to points, and in the legend.
_MAX_WRITTEN = 12
_MAX_LEGEND = 28


def embedding_map(
    embeddings: ArrayLike,
    labels: Labels,
    class_names: Sequence[str] | None = None,
    *,
    max_points: int = 1500,
    max_classes: int = 12,
    perplexity: float = 30.0,
    seed: int = 0,
    width: float = style.COLUMN_WIDTH * 1.5,
    title: str | None = None,
) -> Figure:
    """Plot embeddings as points in the plane, with a color and marker per class and a legend.

    Use it to see whether classes form clusters, and which classes are confused. Embeddings of more than two dimensions
    are projected with t-SNE, initialized with their principal components; two dimensions are drawn unchanged. Class
    names are also written next to their points if none is longer than 12 characters. If there are more than
    `max_classes` classes, a random choice is shown in color and the others in gray; if there are more than
    `max_points` points, those of the colored classes are kept first.

    Args:
        embeddings: float array `(n, dim)`.
        labels: Integers or str `(n,)`. Classes of the embeddings.
        class_names: Sequence of str. Names of the classes if labels are integers: `class_names[label]`. `None` shows
            the labels. Default `None`.
        max_points: int. Largest number of points; t-SNE takes some seconds for a thousand. Default 1500.
        max_classes: int. Largest number of classes in color. Default 12.
        perplexity: float. Perplexity of t-SNE, roughly the number of neighbors per point; reduced if there are few
            points. Default 30.
        seed: int. Seed of the choice of classes and points, and of t-SNE. Default 0.
        width: float, inches. Default: one and a half columns of a two-column paper.
        title: str. Title of the figure. Default `None`.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not match, there are no embeddings, a value is not finite, a label has no name, or a
            limit is below 1.

    Example:
        >>> figure = embedding_map(np.eye(4)[:, :2], [0, 0, 1, 1], class_names=["cat", "dog"])
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['cat', 'dog']

    Reference:
        L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    """
    embeddings, labels = checked(
        embeddings, labels, class_names, max_points=max_points, max_classes=max_classes, perplexity=perplexity
    )
    generator = np.random.default_rng(seed)
    classes = np.unique(labels)
    chosen = classes
    if len(classes) > max_classes:
        chosen = np.sort(generator.choice(classes, size=max_classes, replace=False))
    if len(labels) > max_points:
        order = generator.permutation(len(labels))
        order = order[np.argsort(~np.isin(labels[order], chosen), kind="stable")]
        kept = np.sort(order[:max_points])
        embeddings, labels = embeddings[kept], labels[kept]
    points, axis_name = to_plane(embeddings, perplexity, seed)

    figure = style.new_figure(width, 0.75 * width)
    axes = figure.subplots()
    style.style_axes(axes, grid=False)
    axes.set_xlabel(f"{axis_name} 1")
    axes.set_ylabel(f"{axis_name} 2")
    if axis_name == "t-SNE":
        # Coordinates of t-SNE have no meaning.
        axes.set(xticks=[], yticks=[])
    size = float(np.clip(9000.0 / len(points), 6.0, 24.0))
    background = ~np.isin(labels, chosen)
    if background.any():
        axes.scatter(
            *points[background].T,
            s=0.5 * size,
            color=style.BACKGROUND_POINTS,
            linewidths=0,
            zorder=1,
            label=f"{len(np.unique(labels[background]))} other classes",
        )
    named = {label: style.drawable(label if class_names is None else class_names[int(label)]) for label in chosen}
    written = all(len(name) <= _MAX_WRITTEN for name in named.values())
    draw_classes(axes, points, labels, named, size, 0.75 * width, written=written)
    # Gray classes come last in the legend.
    handles, texts = axes.get_legend_handles_labels()
    if background.any():
        handles, texts = [*handles[1:], handles[0]], [*texts[1:], texts[0]]
    legend = axes.legend(
        handles, [style.shortened(text, _MAX_LEGEND) for text in texts], loc="upper left", bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.0, frameon=False, handletextpad=0.3, labelspacing=0.35, markerscale=1.2,
        prop={"family": style.typefaces(), "size": style.NOTE_SIZE},
    )  # fmt: skip
    for text in legend.get_texts():
        text.set(color=style.TEXT, parse_math=False)
    style.add_title(figure, title)
    return figure
