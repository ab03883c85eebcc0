"""Metrics of the geometry of embeddings."""

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
    r"""Covering radius: the largest distance of a point to the nearest center of its class.

    Use it to measure how well a few centers (proxies, a subset) represent the points of a class.

    $$\delta_c = \max_{x \in X_c} \min_{w \in W_c} \lVert x - w \rVert_2$$

    Args:
        points: Array `(n, d)`.
        centers: Array `(m, d)`.
        point_labels: Labels `(n,)`, integers or strings. Classes of the points; `None` if all belong to one class.
            Classes that have only centers are ignored. Default: `None`.
        center_labels: Labels `(m,)`. Classes of the centers; pass it together with `point_labels`. Default: `None`.
        reduction: `"max"` or `"mean"` over classes, or `None` for one value per class. Default: `"max"`.

    Returns:
        float; without reduction a float64 array with the radius of each class of points, in sorted order.

    Raises:
        ValueError: If shapes do not match, values are not finite, only one of the labels is passed, a class of points
            has no center, or the reduction is unknown.

    Reference:
        Sener and Savarese, Active learning for convolutional neural networks: a core-set approach, ICLR 2018.

    Example:
        >>> from tfdml import metrics
        >>> metrics.covering_radius([[0.0], [1.0], [5.0]], [[0.0], [4.0]])
        1.0
    """
    _check_reduction(reduction)
    points, centers = same_space(
        as_embeddings(points, "points"), as_embeddings(centers, "centers"), "points", "centers"
    )
    if (point_labels is None) != (center_labels is None):
        given = "center_labels" if point_labels is None else "point_labels"
        raise ValueError(
            f"Labels are incomplete. Received: {given} alone. Expected: both point_labels and center_labels, or none."
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
            f"Classes without centers. Received: points without a center in {len(names)} classes, such as "
            f"{names[:10].tolist()}. Expected: at least one center for each class of points."
        )
    of_class = _members_of(center_classes)
    radii = [_radius(points[rows], centers[of_class[c]]) for c, rows in _members_of(classes).items()]
    return _reduce(np.array(radii), reduction)


def mean_covering_radius(
    points: ArrayLike, labels: Labels, reduction: Literal["max", "mean"] | None = "mean"
) -> float | np.ndarray:
    r"""Mean covering radius of each class when it is covered by one, two, … and all of its own points.

    Use it to compare embedders: it is small if a few points cover a class well. It scales with the embedding space, so
    compare it with `interclass_distance`. With the first $k$ points $S_k$ of a greedy cover, which starts with the
    point whose farthest point is nearest,

    $$\bar\delta_c = \frac1{n_c} \sum_{k=1}^{n_c} \max_{x \in X_c} \min_{s \in S_k} \lVert x - s \rVert_2$$

    Args:
        points: Array `(n, d)`.
        labels: Labels `(n,)`, integers or strings.
        reduction: `"max"` or `"mean"` over classes, or `None` for one value per class. Default: `"mean"`.

    Returns:
        float; without reduction a float64 array with one value for each class, in sorted order.

    Raises:
        ValueError: If shapes do not match, values are not finite, or the reduction is unknown.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 3.3.1.

    Example:
        >>> from tfdml import metrics
        >>> points = [[0.0], [1.0], [4.0]]  # radius 3 from the middle point, 1 with the last one, 0 with all
        >>> metrics.mean_covering_radius(points, [0, 0, 0])
        1.3333333333333333
    """
    _check_reduction(reduction)
    points, classes = _with_classes(points, labels)
    return _reduce(np.array([_mean_radius(points[rows]) for rows in _members_of(classes).values()]), reduction)


def interclass_distance(points: ArrayLike, labels: Labels) -> float:
    r"""Mean distance $\lVert x - y \rVert_2$ over all pairs of points of different classes.

    The scale to which `mean_covering_radius` and `class_spread` are compared.

    Args:
        points: Array `(n, d)`.
        labels: Labels `(n,)`, integers or strings.

    Returns:
        float; NaN if there is only one class.

    Raises:
        ValueError: If shapes do not match or values are not finite.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, figure 3.3.

    Example:
        >>> from tfdml import metrics
        >>> metrics.interclass_distance([[0.0], [1.0], [5.0]], ["a", "a", "b"])
        4.5
    """
    points, classes = _with_classes(points, labels)
    total, count = 0.0, 0
    for distances, same, _ in _pairs(points, classes):
        total += distances.sum(where=~same, dtype=np.float64)
        count += np.count_nonzero(~same)
    return float(total / count) if count else float("nan")


def distance_range(points: ArrayLike, labels: Labels, distance: DistanceName = "l2") -> tuple[float, float]:
    r"""Largest distance between classes and smallest distance within a class, $(d_{\max}, d_{\min})$.

    Use it to check a margin: a triplet with $d(a, n) \ge d(a, p) + m$ for a negative $n$ and a positive $p$ can exist
    only if $m \le d_{\max} - d_{\min}$. If all embeddings have length 1 or less, the difference is at most 2.

    Args:
        points: Array `(n, d)`.
        labels: Labels `(n,)`, integers or strings.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"` ($1 - \cos$). Default: `"l2"`.

    Returns:
        Two floats. The first is the largest distance between two points of different classes, the second the smallest
        between two points of one class. NaN if there is no such pair.

    Raises:
        ValueError: If shapes do not match, values are not finite, or the distance is unknown.

    Example:
        >>> from tfdml import metrics
        >>> metrics.distance_range([[0.0], [1.0], [5.0]], ["a", "a", "b"])
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
    """Summarize the geometry of labeled embeddings in a few numbers.

    Cheap compared with retrieval metrics; `MetricModel.compile(geometry=True)` adds them to `evaluate`.

    Args:
        embeddings: Array `(n, d)`.
        labels: Labels `(n,)`, integers or strings.
        max_samples: int, >= 1. If there are more samples, whole classes are selected, evenly spaced in sorted order; at
            least two. Default: 4096.

    Returns:
        dict with the floats `mean_covering_radius`, `interclass_distance` and `class_spread`.

    Raises:
        ValueError: If shapes do not match, values are not finite, or `max_samples` is less than 1.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.geometry_metrics([[0.0], [1.0], [5.0]], ["a", "a", "b"])
        >>> {name: round(value, 2) for name, value in found.items()}
        {'mean_covering_radius': 0.25, 'interclass_distance': 4.5, 'class_spread': 0.25}
    """
    embeddings, labels = some_classes(embeddings, labels, max_samples)
    return {
        "mean_covering_radius": float(mean_covering_radius(embeddings, labels)),
        "interclass_distance": interclass_distance(embeddings, labels),
        "class_spread": float(class_spread(embeddings, labels)),
    }


def some_classes(embeddings, labels, max_samples):
    """Select whole classes with about `max_samples` samples, evenly spaced in sorted order, at least two classes.

    Args:
        embeddings: Array `(n, d)`.
        labels: Labels `(n,)`.
        max_samples: int, >= 1.

    Returns:
        Embeddings and labels; unchanged if there are no more than `max_samples`.
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
    r"""Mean distance of the points of a class to their mean.

    $$s_c = \frac1{|X_c|} \sum_{x \in X_c} \lVert x - \bar x_c \rVert_2$$

    Args:
        points: Array `(n, d)`.
        labels: Labels `(n,)`, integers or strings.
        reduction: `"max"` or `"mean"` over classes, or `None` for one value per class. Default: `"mean"`.

    Returns:
        float; without reduction a float64 array with one value for each class, in sorted order.

    Raises:
        ValueError: If shapes do not match, values are not finite, or the reduction is unknown.

    Example:
        >>> from tfdml import metrics
        >>> metrics.class_spread([[0.0], [2.0], [5.0]], ["a", "a", "b"], reduction=None)
        array([1., 0.])
    """
    _check_reduction(reduction)
    points, classes = _with_classes(points, labels)
    members = [points[rows].astype(np.float64) for rows in _members_of(classes).values()]
    spreads = [np.linalg.norm(group - group.mean(axis=0), axis=1).mean() for group in members]
    return _reduce(np.array(spreads), reduction)


def proxy_spread(proxies: ArrayLike) -> np.ndarray:
    r"""Mean distance between the proxies of a class; 0 if they have collapsed to one point.

    Use it to see whether several proxies per class stay apart, as they should under CCP.

    $$s_c = \frac2{k(k-1)} \sum_{i<j} \lVert w_{ci} - w_{cj} \rVert_2$$

    Args:
        proxies: Array `(classes, k, d)`.

    Returns:
        float64 array `(classes,)`; 0 for a single proxy.

    Raises:
        ValueError: If the rank is not 3 or values are not finite.

    Example:
        >>> from tfdml import metrics
        >>> metrics.proxy_spread([[[0.0], [1.0], [2.0]]]).round(3)
        array([1.333])
    """
    proxies = np.asarray(proxies)
    if proxies.ndim != 3 or 0 in proxies.shape:
        raise ValueError(
            f"The proxies have the wrong shape. Received: proxies of shape {proxies.shape}. Expected: (classes, k, d), "
            "none of them 0."
        )
    classes, per_class, dim = proxies.shape
    proxies = as_embeddings(proxies.reshape(-1, dim), "proxies").reshape(proxies.shape).astype(np.float64)
    total = np.zeros(classes)
    for first in range(per_class - 1):
        total += np.linalg.norm(proxies[:, first + 1 :] - proxies[:, first, None], axis=2).sum(axis=1)
    return total / max(1, per_class * (per_class - 1) // 2)


def _with_classes(points, labels):
    """Check the points, and number their classes from 0 in the sorted order of the labels."""
    points = as_embeddings(points, "points")
    return points, np.unique(as_labels(labels, len(points)), return_inverse=True)[1]


def _members_of(classes):
    """Map each class, in sorted order, to the indices of its members."""
    order = np.argsort(classes, kind="stable")
    names, starts = np.unique(classes[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:])))


def _pairs(points, classes):
    """Yield blocks of the distance matrix, of the mask of equal classes, and of the mask of its diagonal."""
    # Matrix products lose half of the digits of small distances, and all digits far from the origin.
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
    """Mean covering radius of the points of one class."""
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
    # Differences are exact if a center equals a point, where matrix products would have an error of about √ε.
    rows = max(1, _BLOCK_BYTES // (24 * centers.size))
    radius = 0.0
    for start in range(0, len(points), rows):
        differences = np.subtract(points[start : start + rows, None], centers, dtype=np.float64)
        radius = max(radius, np.square(differences).sum(axis=2).min(axis=1).max())
    return np.sqrt(radius)


def _check_reduction(reduction):
    if reduction not in _REDUCTIONS:
        raise ValueError(f"Unknown reduction. Received: reduction={reduction!r}. Expected: one of {_REDUCTIONS}.")


def _reduce(values, reduction):
    if reduction is None:
        return values
    return float(values.max() if reduction == "max" else values.mean())
