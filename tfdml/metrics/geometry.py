"""How points lie in the embedding space."""

import numpy as np

from tfdml.metrics.inputs import as_embeddings, as_labels, class_numbers, same_space

_BLOCK_BYTES = 2**25
_REDUCTIONS = ("max", "mean", None)


def covering_radius(points, centers, point_labels=None, center_labels=None, reduction="max"):
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
    radii = [_radius(points[classes == c], centers[center_classes == c]) for c in np.unique(classes)]
    return _reduce(np.array(radii), reduction)


def class_spread(points, labels, reduction="mean"):
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
    points = as_embeddings(points, "points")
    classes = np.unique(as_labels(labels, len(points)), return_inverse=True)[1]
    members = [points[classes == c].astype(np.float64) for c in range(classes.max() + 1)]
    spreads = [np.linalg.norm(group - group.mean(axis=0), axis=1).mean() for group in members]
    return _reduce(np.array(spreads), reduction)


def proxy_spread(proxies):
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
