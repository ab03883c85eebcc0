"""Embeddings in the plane: where their points are, and how classes are drawn there."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tfdml.plots import style

# Of t-SNE from given points: enough for points to pass one another, and not so much that the arrangement is lost, as it
# is with the usual 12.
_EXAGGERATION = 4.0


def checked(embeddings, labels, class_names=None, **limits):
    """Embeddings `(n, d)` in float64 and labels `(n,)`, if they fit, all labels have names and no limit is below 1.

    Raises:
        ValueError: If not.
    """
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
    for name, value in limits.items():
        if value < 1:
            raise ValueError(f"Received: {name}={value}; expected {name} >= 1.")
    return embeddings, labels


def to_plane(embeddings, perplexity, seed, start=None):
    """Brings embeddings to the plane: by t-SNE, started from the principal components or from given points.

    One dimension becomes a line and two stay as they are. Fewer than five embeddings are brought to the plane by their
    principal components, and embeddings that are all equal lie at 0.

    Args:
        embeddings: `(n, d)`.
        perplexity: Of t-SNE, about how many neighbours a point has; lowered where there are few points.
        seed: For t-SNE.
        start: Points `(n, 2)`, for instance t-SNE's of the same samples in another space, from which it starts. It
            keeps their arrangement where the embeddings allow it.

    Returns:
        Points `(n, 2)` and the axes' name.
    """
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
    options = {"init": "pca"}
    # There is no arrangement in points that are all in one place.
    if start is not None and np.ptp(start, axis=0).any():
        options = {"init": start.astype(np.float32), "early_exaggeration": _EXAGGERATION}
    projection = TSNE(n_components=2, learning_rate="auto", perplexity=perplexity, random_state=seed, **options)
    # Its threads wait for each other by spinning: on processors that have other work, many are much slower than one.
    with threadpool_limits(limits=1):
        return projection.fit_transform(embeddings), "t-SNE"


def draw_classes(axes, points, labels, names, size, width, above=False, written=True):
    """Draws points, each class in a colour and shape of its own, with its name in its midst or above it.

    Args:
        axes: Of matplotlib.
        points: `(n, 2)`.
        labels: The points' classes, `(n,)`.
        names: Text for each class that is drawn, as `{label: text}`; its place decides colour and shape.
        size: Of a mark, in square points.
        width: Of the axes in inches, about.
        above: Whether a name stands above its class, so that it hides none of its points.
        written: Whether names are written; without, they are labels for a legend alone.
    """
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.05)
    # About the height and width of a letter, as a share of the image's side.
    side = np.ptp(points, axis=0).max() * 1.1 or 1.0
    height, letter = (np.array([1.2, 0.7]) * style.LABEL_SIZE / 72 / width) * side
    shown, places, colors = [], [], []
    for index, (label, name) in enumerate(names.items()):
        members = points[labels == label]
        if not len(members):
            continue
        color = style.PALETTE[index % len(style.PALETTE)]
        marker = style.MARKERS[(index // len(style.PALETTE)) % len(style.MARKERS)]
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
        shown.append(name)
        colors.append(color)
        place = _middle(members)
        places.append([place[0], _top(members, place) + 0.8 * height] if above else place)
    if not written:
        return
    boxes = np.array([[letter * max(len(name), 1.3), height] for name in shown])
    for name, place, color in zip(shown, _apart(np.array(places), boxes), colors):
        style.write_class(axes, place, name, color)


def _middle(members):
    """The member nearest to the others: unlike the mean it lies in the class, even in one of two parts."""
    distances = np.linalg.norm(members[:, None] - members[None, :], axis=-1) if len(members) <= 500 else None
    if distances is None:
        median = np.median(members, axis=0)
        return members[np.argmin(np.linalg.norm(members - median, axis=1))]
    return members[np.argmin(distances.sum(axis=1))]


def _top(members, middle):
    """The upper end of the members around the middle, the nearer half of all."""
    distances = np.linalg.norm(members - middle, axis=1)
    return members[distances <= np.median(distances), 1].max()


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
