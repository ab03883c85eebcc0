"""How points lie in the embedding space."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import ArrayLike, DistanceName, Labels
from tfdml.metrics.inputs import as_embeddings, as_labels, class_numbers, same_space

_BLOCK_BYTES = 2**25
_REDUCTIONS = ("max", "mean", None)


def covering_radius(
    points: ArrayLike,
    centers: ArrayLike,
    point_labels: Labels | None = None,
    center_labels: Labels | None = None,
    reduction: Literal["max", "mean"] | None = "max",
) -> float | np.ndarray:
    r"""The covering radius: how far the farthest point of a class is from the nearest center of its class.

    $$\delta_c = \max_{x \in X_c} \min_{w \in W_c} \lVert x - w \rVert_2$$

    Args:
        points: `(n, d)`.
        centers: `(m, d)`.
        point_labels: Classes of the points, `(n,)`; `None` for one class. A class of centers without points
            is left out.
        center_labels: Classes of the centers, `(m,)`.
        reduction: `"max"` or `"mean"` over the classes, or `None` for each of them.

    Returns:
        A float; without reduction a float64 array, one radius for each class of points in their sorted order.

    Raises:
        ValueError: If shapes do not fit, values are not finite, labels are given for one side alone, a class
            has points but no center, or the reduction is unknown.

    Reference:
        Sener and Savarese, Active learning for convolutional neural networks: a core-set approach, ICLR 2018.

    Example:
        >>> covering_radius([[0.0], [1.0], [5.0]], [[0.0], [4.0]])
        1.0
    """
    _check_reduction(reduction)
    points, centers = same_space(
        as_embeddings(points, "points"), as_embeddings(centers, "centers"), "points", "centers"
    )
    if (point_labels is None) != (center_labels is None):
        given = "center_labels" if point_labels is None else "point_labels"
        raise ValueError(
            f"Received: {given} alone; expected both point_labels and center_labels, or neither."
        )
    if point_labels is None:
        return _reduce(np.array([_radius(points, centers)]), reduction)
    point_labels = as_labels(point_labels, len(points), "point_labels")
    center_labels = as_labels(center_labels, len(centers), "center_labels")
    classes, center_classes = class_numbers(point_labels, center_labels)
    uncovered = ~np.isin(classes, center_classes)
    if uncovered.any():
        names = np.unique(point_labels[uncovered])
        raise ValueError(
            f"Received: points without a center in {len(names)} classes, such as {names[:10].tolist()}."
        )
    of_class = _members_of(center_classes)
    radii = [_radius(points[rows], centers[of_class[c]]) for c, rows in _members_of(classes).items()]
    return _reduce(np.array(radii), reduction)


def mean_covering_radius(
    points: ArrayLike, labels: Labels, reduction: Literal["max", "mean"] | None = "mean"
) -> float | np.ndarray:
    r"""The mean covering radius of a class by one, two, … and all of its own points.

    With $S_k$ the first $k$ points of a greedy cover, which begins with the point whose farthest point is nearest,

    $$\bar\delta_c = \frac1{n_c} \sum_{k=1}^{n_c} \max_{x \in X_c} \min_{s \in S_k} \lVert x - s \rVert_2$$

    It is small where few points cover a class well. It scales with the space: compare it with `interclass_distance`.

    Args:
        points: `(n, d)`.
        labels: Their classes, `(n,)`.
        reduction: `"max"` or `"mean"` over the classes, or `None` for each of them.

    Returns:
        A float; without reduction a float64 array, one value for each class in their sorted order.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or the reduction is unknown.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 3.3.1.

    Example:
        >>> mean_covering_radius([[0.0], [1.0], [4.0]], [0, 0, 0])  # 3 by the middle one, 1 with the last, 0 by all
        1.3333333333333333
    """
    _check_reduction(reduction)
    points, classes = _with_classes(points, labels)
    return _reduce(np.array([_mean_radius(points[rows]) for rows in _members_of(classes).values()]), reduction)


def interclass_distance(points: ArrayLike, labels: Labels) -> float:
    r"""The mean distance $\lVert x - y \rVert_2$ over all pairs of points of different classes.

    Args:
        points: `(n, d)`.
        labels: Their classes, `(n,)`.

    Returns:
        A float; NaN if there is one class alone.

    Raises:
        ValueError: If shapes do not fit or values are not finite.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, figure 3.3.

    Example:
        >>> interclass_distance([[0.0], [1.0], [5.0]], ["a", "a", "b"])
        4.5
    """
    points, classes = _with_classes(points, labels)
    total, count = 0.0, 0
    for distances, same, _ in _pairs(points, classes):
        total += distances.sum(where=~same, dtype=np.float64)
        count += np.count_nonzero(~same)
    return float(total / count) if count else float("nan")


def distance_range(points: ArrayLike, labels: Labels, distance: DistanceName = "l2") -> tuple[float, float]:
    r"""The largest distance between classes and the smallest within one, $(d_{\max}, d_{\min})$.

    A margin $m$ that wants $d(a, n) \ge d(a, p) + m$ of negatives $n$ and positives $p$ can be met by some triplet only
    if $m \le d_{\max} - d_{\min}$. Where all embeddings have length 1 or less the difference is at most 2.

    Args:
        points: `(n, d)`.
        labels: Their classes, `(n,)`.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"` ($1 - \cos$).

    Returns:
        Two floats: the largest distance of two points of different classes, the smallest of two points of one class.
        NaN for the one without such a pair.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or the distance is unknown.

    Example:
        >>> distance_range([[0.0], [1.0], [5.0]], ["a", "a", "b"])
        (5.0, 1.0)
    """
    check_choice("distance", distance, ("l2", "squared_l2", "cosine"))
    points, classes = _with_classes(points, labels)
    if distance == "cosine":
        points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), np.finfo(points.dtype).tiny)
    largest, smallest = -np.inf, np.inf
    for distances, same, itself in _pairs(points, classes):
        largest = distances.max(initial=largest, where=~same)
        smallest = distances.min(initial=smallest, where=same & ~itself)
    limits = np.array([largest, smallest], np.float64)
    limits = np.where(np.isfinite(limits), limits, np.nan)
    limits = {"l2": limits, "squared_l2": limits**2, "cosine": limits**2 / 2}[distance]
    return float(limits[0]), float(limits[1])


def geometry_metrics(embeddings: ArrayLike, labels: Labels, max_samples: int = 4096) -> dict[str, float]:
    """How embeddings of labelled samples lie, in a few numbers that cost little beside retrieval metrics.

    Args:
        embeddings: `(n, d)`.
        labels: Their classes, `(n,)`.
        max_samples: Of more than that whole classes are taken, evenly from the sorted ones; at least two.

    Returns:
        A dict: `mean_covering_radius`, `interclass_distance` and `class_spread`.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or `max_samples` is below 1.

    Example:
        >>> sorted(geometry_metrics([[0.0], [1.0], [5.0]], ["a", "a", "b"]))
        ['class_spread', 'interclass_distance', 'mean_covering_radius']
    """
    embeddings, labels = some_classes(embeddings, labels, max_samples)
    return {
        "mean_covering_radius": mean_covering_radius(embeddings, labels),
        "interclass_distance": interclass_distance(embeddings, labels),
        "class_spread": class_spread(embeddings, labels),
    }


def some_classes(embeddings, labels, max_samples):
    """The samples of so many whole classes as `max_samples` holds, evenly from the sorted ones, at least two classes.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        max_samples: At least 1.

    Returns:
        Embeddings and labels; those given if there are no more.
    """
    max_samples = check_whole_number("max_samples", max_samples, minimum=1)
    embeddings = as_embeddings(embeddings)
    labels = as_labels(labels, len(embeddings))
    if len(labels) <= max_samples:
        return embeddings, labels
    classes = np.unique(labels, return_inverse=True)[1]
    count = classes.max() + 1
    kept = max(2, int(count * max_samples / len(labels)))
    chosen = np.isin(classes, np.unique(np.linspace(0, count - 1, kept).astype(int)))
    return embeddings[chosen], labels[chosen]


def class_spread(
    points: ArrayLike, labels: Labels, reduction: Literal["max", "mean"] | None = "mean"
) -> float | np.ndarray:
    r"""How far the points of a class are from their mean, on average.

    $$s_c = \frac1{|X_c|} \sum_{x \in X_c} \lVert x - \bar x_c \rVert_2$$

    Args:
        points: `(n, d)`.
        labels: Their classes, `(n,)`.
        reduction: `"max"` or `"mean"` over the classes, or `None` for each of them.

    Returns:
        A float; without reduction a float64 array, one value for each class in their sorted order.

    Raises:
        ValueError: If shapes do not fit, values are not finite, or the reduction is unknown.

    Example:
        >>> class_spread([[0.0], [2.0], [5.0]], ["a", "a", "b"], reduction=None)
        array([1., 0.])
    """
    _check_reduction(reduction)
    points, classes = _with_classes(points, labels)
    members = [points[rows].astype(np.float64) for rows in _members_of(classes).values()]
    spreads = [np.linalg.norm(group - group.mean(axis=0), axis=1).mean() for group in members]
    return _reduce(np.array(spreads), reduction)


def proxy_spread(proxies: ArrayLike) -> np.ndarray:
    r"""How far the proxies of a class are from one another, on average; 0 when they have collapsed.

    $$s_c = \frac2{k(k-1)} \sum_{i<j} \lVert w_{ci} - w_{cj} \rVert_2$$

    Args:
        proxies: `(classes, k, d)`.

    Returns:
        float64 `(classes,)`; 0 for a single proxy.

    Raises:
        ValueError: If the rank is not 3 or values are not finite.

    Example:
        >>> proxy_spread([[[0.0], [1.0], [2.0]]]).round(3)
        array([1.333])
    """
    proxies = np.asarray(proxies)
    if proxies.ndim != 3 or 0 in proxies.shape:
        raise ValueError(
            f"Received: proxies of shape {proxies.shape}; expected (classes, k, d), none of them 0."
        )
    classes, per_class, dim = proxies.shape
    proxies = as_embeddings(proxies.reshape(-1, dim), "proxies").reshape(proxies.shape).astype(np.float64)
    total = np.zeros(classes)
    for first in range(per_class - 1):
        total += np.linalg.norm(proxies[:, first + 1 :] - proxies[:, first, None], axis=2).sum(axis=1)
    return total / max(1, per_class * (per_class - 1) // 2)


def _with_classes(points, labels):
    """Checked points, and the numbers of their classes, from 0 in the sorted order of the labels."""
    points = as_embeddings(points, "points")
    return points, np.unique(as_labels(labels, len(points)), return_inverse=True)[1]


def _members_of(classes):
    """From each class, in their sorted order, to the places where it stands."""
    order = np.argsort(classes, kind="stable")
    names, starts = np.unique(classes[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:])))


def _pairs(points, classes):
    """Blocks of the matrix of distances, of where the classes are equal, and of its diagonal."""
    # Products lose half of the digits of small distances, and all of those far from the origin.
    points = points.astype(np.float64)
    points = points - points.mean(axis=0)
    squares = np.square(points).sum(axis=1)
    rows = max(1, _BLOCK_BYTES // (points.itemsize * len(points)))
    for start in range(0, len(points), rows):
        block = slice(start, start + rows)
        squared = squares[block, None] + squares - 2 * points[block] @ points.T
        same = classes[block, None] == classes
        itself = np.arange(len(points))[block, None] == np.arange(len(points))
        yield np.sqrt(np.maximum(squared, 0)), same, itself


def _mean_radius(points):
    """The mean covering radius of the points of one class."""
    farthest = [_distances_to(points, point).max() for point in points]
    nearest = _distances_to(points, points[np.argmin(farthest)])
    radii = [nearest.max()]
    for _ in range(len(points) - 1):
        nearest = np.minimum(nearest, _distances_to(points, points[np.argmax(nearest)]))
        radii.append(nearest.max())
    return np.mean(radii)


def _distances_to(points, point):
    return np.sqrt(np.square(np.subtract(points, point, dtype=np.float64)).sum(axis=1))


def _radius(points, centers):
    # By differences: where a center lies on a point, products would leave a rest of the size of √ε.
    rows = max(1, _BLOCK_BYTES // (24 * centers.size))
    radius = 0.0
    for start in range(0, len(points), rows):
        differences = np.subtract(points[start : start + rows, None], centers, dtype=np.float64)
        radius = max(radius, np.square(differences).sum(axis=2).min(axis=1).max())
    return np.sqrt(radius)


def _check_reduction(reduction):
    if reduction not in _REDUCTIONS:
        raise ValueError(f"Received: reduction={reduction!r}; expected one of {_REDUCTIONS}.")


def _reduce(values, reduction):
    if reduction is None:
        return values
    return float(values.max() if reduction == "max" else values.mean())
