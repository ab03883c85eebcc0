"""Where the embeddings lie."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import to_rgb
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tfdml.plots import style


def embedding_map(
    embeddings,
    labels,
    class_names=None,
    *,
    max_points=1500,
    max_classes=20,
    perplexity=30.0,
    seed=0,
    width=style.COLUMN_WIDTH * 1.5,
    title=None,
):
    """Draws embeddings as points of the plane, each class in a colour and shape of its own, with its name.

    More than two dimensions are brought to the plane by t-SNE, started from the principal components; two are
    drawn as they are. Of many classes `max_classes` are drawn at random and shown in colour, the others stay
    grey; of many points those of the coloured classes are kept first.

    Args:
        embeddings: `(n, d)` numbers.
        labels: The points' classes, `(n,)`: integers or text.
        class_names: The names of the classes, if labels are integers: `class_names[label]`. A character is
            shown as it is. `None` shows the labels.
        max_points: At most so many points are drawn (t-SNE takes some seconds for a thousand).
        max_classes: At most so many classes have a colour.
        perplexity: Of t-SNE, about how many neighbours a point has; lowered where there are few points.
        seed: For the choice of classes and points, and for t-SNE.
        width: In inches.
        title: Above the figure.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If shapes do not fit, there is no point, a number is not finite, a label has no name, or a
            limit is below 1.

    Reference:
        L. van der Maaten and G. Hinton, "Visualizing Data using t-SNE", JMLR 9, 2008.
    """
    embeddings, labels = _checked(embeddings, labels, class_names, max_points, max_classes, perplexity)
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
    points, axis_name = _plane(embeddings, perplexity, seed)

    figure = style.new_figure(width, width)
    axes = figure.subplots()
    style.style_axes(axes, grid=False)
    axes.set_xlabel(f"{axis_name} 1")
    axes.set_ylabel(f"{axis_name} 2")
    if axis_name == "t-SNE":
        # The numbers of t-SNE mean nothing.
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
    colors = len(style.PALETTE)
    names, places, inks = [], [], []
    for index, label in enumerate(chosen):
        members = points[labels == label]
        if not len(members):
            continue
        name = style.drawable(label if class_names is None else class_names[int(label)])
        color = style.PALETTE[index % colors]
        marker = style.MARKERS[(index // colors) % len(style.MARKERS)]
        # An underscore at the start would hide the class from a legend.
        axes.scatter(
            *members.T,
            s=size,
            color=color,
            marker=marker,
            linewidths=0.3,
            edgecolors="white",
            alpha=0.9,
            zorder=2,
            label=name if not name.startswith("_") else f"\u200b{name}",
        )
        names.append(name)
        inks.append(0.6 * np.array(to_rgb(color)))
        places.append(_middle(members))
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.05)
    # About the height and width of a letter, as a share of the picture's side.
    side = np.ptp(points, axis=0).max() * 1.1 or 1.0
    height, letter = (np.array([1.2, 0.7]) * style.LABEL_SIZE / 72 / width) * side
    boxes = np.array([[letter * max(len(name), 1.3), height] for name in names])
    for name, place, ink in zip(names, _apart(np.array(places), boxes), inks):
        axes.text(
            *place,
            name,
            ha="center",
            va="center",
            fontsize=style.LABEL_SIZE,
            fontweight="bold",
            family=style.TYPEFACE,
            color=ink,
            path_effects=style.halo(2.0),
            zorder=3,
            parse_math=False,
        )
    if background.any():
        axes.text(
            1.0,
            -0.015,
            f"gray: {len(np.unique(labels[background]))} other classes",
            ha="right",
            va="top",
            transform=axes.transAxes,
            fontsize=style.NOTE_SIZE,
            color=style.QUIET,
        )
    style.add_title(figure, title)
    return figure


def _checked(embeddings, labels, class_names, max_points, max_classes, perplexity):
    embeddings = np.asarray(embeddings, dtype=np.float64)
    labels = np.asarray(labels)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"Received: embeddings of shape {embeddings.shape}; expected (n, d) with n, d >= 1.")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"Received: labels of shape {labels.shape}; expected ({len(embeddings)},), one for each embedding."
        )
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise ValueError(f"Received: {bad} embeddings with NaN or infinity; expected finite numbers.")
    if class_names is not None:
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"class_names need integer labels. Received: labels of type {labels.dtype}.")
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise ValueError(
                f"A label has no name. Received: labels in {labels.min()}..{labels.max()} and "
                f"{len(class_names)} class_names; expected labels in 0..{len(class_names) - 1}."
            )
    for name, value in (("max_points", max_points), ("max_classes", max_classes), ("perplexity", perplexity)):
        if value < 1:
            raise ValueError(f"Received: {name}={value}; expected {name} >= 1.")
    return embeddings, labels


def _plane(embeddings, perplexity, seed):
    count, dimensions = embeddings.shape
    if dimensions == 1:
        return np.column_stack([embeddings[:, 0], np.zeros(count)]), "dimension"
    if dimensions == 2:
        return embeddings, "dimension"
    if not np.ptp(embeddings, axis=0).any():
        # A collapsed embedder: there is nothing to project, and t-SNE would divide by the spread.
        return np.zeros((count, 2)), "principal component"
    if count < 5:
        components = PCA(n_components=min(2, count), random_state=seed).fit_transform(embeddings)
        return np.pad(components, ((0, 0), (0, 2 - components.shape[1]))), "principal component"
    perplexity = min(float(perplexity), (count - 1) / 3.0)
    projection = TSNE(n_components=2, init="pca", learning_rate="auto", perplexity=perplexity, random_state=seed)
    # Its threads wait for each other by spinning: on processors that have other work, many are much slower than one.
    with threadpool_limits(limits=1):
        return projection.fit_transform(embeddings), "t-SNE"


def _middle(members):
    """The member nearest to the others: unlike the mean it lies in the class, even in one of two parts."""
    distances = np.linalg.norm(members[:, None] - members[None, :], axis=-1) if len(members) <= 500 else None
    if distances is None:
        median = np.median(members, axis=0)
        return members[np.argmin(np.linalg.norm(members - median, axis=1))]
    return members[np.argmin(distances.sum(axis=1))]


def _apart(places, boxes, rounds=50):
    """Moves names that cover each other away from each other, along the axis where that takes less."""
    places = places.astype(np.float64)
    for _ in range(rounds):
        moved = False
        for first in range(len(places)):
            for second in range(first + 1, len(places)):
                offset = places[second] - places[first]
                overlap = 0.5 * (boxes[first] + boxes[second]) - np.abs(offset)
                # A thousandth of a name's height is no overlap, and two names at one place part upwards.
                if (overlap > 1e-3 * boxes[first, 1]).all():
                    axis = int(np.argmin(overlap))
                    shift = 0.5 * overlap[axis] * (1.0 if offset[axis] >= 0 else -1.0)
                    places[first, axis] -= shift
                    places[second, axis] += shift
                    moved = True
        if not moved:
            break
    return places
