"""Project embeddings to the plane, and draw classes of points."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from tfdml.plots import style

# Early exaggeration of t-SNE that starts from given points: large enough for points to swap places, and small enough to
# keep their arrangement, which the usual 12 destroys.
_EXAGGERATION = 4.0


def checked(embeddings, labels, class_names=None, **limits):
    """Return embeddings `(n, dim)` in float64 and labels `(n,)` after checking them.

    Raises:
        ValueError: If shapes do not match, a value is not finite, a label has no name, or a limit is below 1.
    """
    embeddings = np.asarray(embeddings, dtype=np.float64)
    labels = np.asarray(labels)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(
            f"Invalid embeddings. Received: embeddings of shape {embeddings.shape}. Expected: (n, d) with n, d >= 1."
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"Labels and embeddings do not match. Received: labels of shape {labels.shape}. "
            f"Expected: ({len(embeddings)},), one for each embedding."
        )
    if not np.isfinite(embeddings).all():
        bad = int((~np.isfinite(embeddings).all(axis=1)).sum())
        raise ValueError(
            f"Embeddings are not finite. Received: {bad} embeddings with NaN or infinity. Expected: finite numbers."
        )
    if class_names is not None:
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"class_names need integer labels. Received: labels of type {labels.dtype}.")
        if labels.min() < 0 or labels.max() >= len(class_names):
            raise ValueError(
                f"A label has no name. Received: labels in {labels.min()}..{labels.max()} and "
                f"{len(class_names)} class_names. Expected: labels in 0..{len(class_names) - 1}."
            )
    for name, value in limits.items():
        if value < 1:
            raise ValueError(f"Invalid {name}. Received: {name}={value}. Expected: {name} >= 1.")
    return embeddings, labels


def to_plane(embeddings, perplexity, seed, start=None):
    """Project embeddings to the plane with t-SNE, started from principal components or given points.

    One dimension becomes a line, and two dimensions are unchanged. Fewer than five embeddings are projected to their
    principal components. Embeddings that are all equal are placed at 0.

    Args:
        embeddings: float array `(n, dim)`.
        perplexity: float. Perplexity of t-SNE, roughly the number of neighbors per point; reduced if there are few
            points.
        seed: int. Seed of t-SNE.
        start: Points `(n, 2)` from which t-SNE starts, for example those of the same samples in another space. Their
            arrangement is kept as far as the embeddings allow. `None` means the principal components. Default `None`.

    Returns:
        Pair (points `(n, 2)`, name of the axes).
    """
    count, dimensions = embeddings.shape
    if dimensions == 1:
        return np.column_stack([embeddings[:, 0], np.zeros(count)]), "dimension"
    if dimensions == 2:
        return embeddings, "dimension"
    if not np.ptp(embeddings, axis=0).any():
        # The embedder has collapsed: t-SNE would divide by a spread of 0.
        return np.zeros((count, 2)), "principal component"
    if count < 5:
        components = PCA(n_components=min(2, count), random_state=seed).fit_transform(embeddings)
        return np.pad(components, ((0, 0), (0, 2 - components.shape[1]))), "principal component"
    perplexity = min(float(perplexity), (count - 1) / 3.0)
    options = {"init": "pca"}
    # Points that are all equal have no arrangement to keep.
    if start is not None and np.ptp(start, axis=0).any():
        options = {"init": start.astype(np.float32), "early_exaggeration": _EXAGGERATION}
    projection = TSNE(n_components=2, learning_rate="auto", perplexity=perplexity, random_state=seed, **options)
    # Threads of t-SNE wait by spinning: on busy processors, many threads are much slower than one.
    with threadpool_limits(limits=1):
        return projection.fit_transform(embeddings), "t-SNE"


def draw_classes(axes, points, labels, names, size, width, above=False, written=True):
    """Draw points with a color and marker per class, and the class names in the middle of their points or above them.

    Args:
        axes: `matplotlib.axes.Axes`.
        points: float array `(n, 2)`.
        labels: array `(n,)`. Classes of the points.
        names: dict {label: text} of the classes to draw; its order determines colors and markers.
        size: float, square points. Size of a marker.
        width: float, inches. Approximate width of the axes.
        above: bool. Write names above their classes, so that they do not cover points. Default `False`.
        written: bool. Write names next to the points; otherwise they are only legend labels. Default `True`.
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
    """Return the medoid of the members. Unlike their mean, it is one of them, even if a class has two parts."""
    distances = np.linalg.norm(members[:, None] - members[None, :], axis=-1) if len(members) <= 500 else None
    if distances is None:
        median = np.median(members, axis=0)
        return members[np.argmin(np.linalg.norm(members - median, axis=1))]
    return members[np.argmin(distances.sum(axis=1))]


def _top(members, middle):
    """Return the upper end of the half of the members that is nearest to the middle."""
    distances = np.linalg.norm(members - middle, axis=1)
    return members[distances <= np.median(distances), 1].max()


def _apart(places, boxes, rounds=50):
    """Separate overlapping names along the axis that requires the smaller shift."""
    places = places.astype(np.float64)
    for _ in range(rounds):
        moved = False
        for first in range(len(places)):
            for second in range(first + 1, len(places)):
                offset = places[second] - places[first]
                overlap = 0.5 * (boxes[first] + boxes[second]) - np.abs(offset)
                # Ignore overlaps below a thousandth of a name's height; separate names at the same place vertically.
                if (overlap > 1e-3 * boxes[first, 1]).all():
                    axis = int(np.argmin(overlap))
                    shift = 0.5 * overlap[axis] * (1.0 if offset[axis] >= 0 else -1.0)
                    places[first, axis] -= shift
                    places[second, axis] += shift
                    moved = True
        if not moved:
            break
    return places
