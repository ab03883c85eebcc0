"""Out-of-distribution detection: scores of queries that belong to none of the known classes, and how well they work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfdml._utils.arguments import check_between, check_not_negative, check_positive, check_whole_number
from tfdml._utils.operating_points import OperatingPoints
from tfdml._utils.types import ArrayLike, Labels
from tfdml.metrics.inputs import as_embeddings, as_labels, same_space
from tfdml.metrics.neighbors import nearest_neighbors
from tfdml.metrics.search import parts, squared_distances

SCORES = ("prototype", "prototype_radius", "neighbors", "mahalanobis")


class PrototypeScore:
    r"""Distance of a query to the nearest class prototype, or to the surface of the nearest ball around one.

    The prototype of a class is its mean embedding $\mu_c$, its radius $r_c$ the distance of its farthest embedding:

    $$\mu_c = \frac1{n_c} \sum_{i: y_i = c} x_i, \qquad r_c = \max_{i: y_i = c} \lVert x_i - \mu_c \rVert$$

    $$s(x) = \min_c \lVert x - \mu_c \rVert \qquad \text{or} \qquad s(x) = \min_c \left(\lVert x - \mu_c \rVert - r_c
    \right)$$

    The second form is at most 0 exactly inside the balls. If the classes were disjoint balls and everything else lay
    outside of them, it would separate both without error; the first form would only if, in addition, all radii were
    equal.

    Args:
        embeddings: `(n, d)`. Embeddings of the known classes.
        labels: `(n,)`. Their classes, integers or strings.
        subtract_radius: bool. Use the second form. Default: `False`.

    Attributes:
        classes: Array `(c,)`. The classes, sorted.
        prototypes: float64 array `(c, d)`.
        radii: float64 array `(c,)`.

    Raises:
        ValueError: If shapes do not match or values are not finite.
        TypeError: If embeddings are not numbers, or labels are neither integers nor strings.

    Example:
        >>> from tfdml import metrics
        >>> score = metrics.PrototypeScore([[0.0], [2.0], [10.0]], ["a", "a", "b"])
        >>> score([[1.0], [4.0]]).tolist(), score.radii.tolist(), score.threshold()
        ([0.0, 3.0], [1.0, 0.0], 1.0)
    """

    def __init__(self, embeddings: ArrayLike, labels: Labels, subtract_radius: bool = False) -> None:
        points = as_embeddings(embeddings)
        self.classes, numbers = np.unique(as_labels(labels, len(points)), return_inverse=True)
        numbers = numbers.reshape(-1)
        self.prototypes = class_means(points, numbers, len(self.classes))
        distances = np.empty(len(points))
        for part in parts(len(points), 24 * points.shape[1]):
            distances[part] = np.sqrt(squared_distances(points[part], self.prototypes[numbers[part]]))
        self.radii = np.zeros(len(self.classes))
        np.maximum.at(self.radii, numbers, distances)
        self.subtract_radius = bool(subtract_radius)

    def __call__(self, queries: ArrayLike) -> np.ndarray:
        """Return the scores of queries `(n, d)`, float64 `(n,)`; larger ones are less like the known classes."""
        return self.nearest(queries)[1]

    def nearest(self, queries: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Return the nearest class of each query and its score.

        Args:
            queries: `(n, d)`.

        Returns:
            The pair (classes, scores), arrays `(n,)`.
        """
        points = _in_space(queries, self.prototypes)
        offset = self.radii if self.subtract_radius else 0.0
        nearest, scores = np.empty(len(points), np.int64), np.empty(len(points))
        for part in parts(len(points), 24 * self.prototypes.size):
            squared = squared_distances(points[part, None], self.prototypes)
            values = np.sqrt(squared) - offset
            nearest[part], scores[part] = values.argmin(axis=1), values.min(axis=1)
        return self.classes[nearest], scores

    def threshold(self, epsilon: float = 0.0) -> float:
        r"""Return a threshold from the radii alone, which accepts all embeddings that the prototypes were made of.

        $\tau = \max_c r_c + \epsilon$, or $\epsilon$ if radii are subtracted.

        Args:
            epsilon: float, >= 0. Room for queries that are farther from the prototypes than the embeddings. Default: 0.
        """
        epsilon = check_not_negative("epsilon", epsilon)
        return epsilon if self.subtract_radius else float(self.radii.max()) + epsilon


class NeighborScore:
    """Distance of a query to its k-th nearest embedding of the known classes. It needs no labels.

    Args:
        embeddings: `(n, d)`. Embeddings of the known classes.
        k: int, at most `n`. Default: 1.

    Raises:
        ValueError: If there are fewer than `k` embeddings, or values are not finite.
        TypeError: If embeddings are not numbers.

    Reference:
        Sun et al., Out-of-distribution detection with deep nearest neighbors, ICML 2022.

    Example:
        >>> from tfdml import metrics
        >>> metrics.NeighborScore([[0.0], [2.0], [10.0]], k=2)([[1.0], [4.0]]).tolist()
        [1.0, 4.0]
    """

    def __init__(self, embeddings: ArrayLike, k: int = 1) -> None:
        self.embeddings, self.k = as_embeddings(embeddings), check_whole_number("k", k, 1)
        if self.k > len(self.embeddings):
            available = len(self.embeddings)
            raise ValueError(f"There are too few embeddings. Received: k={k}. Expected: at most {available}.")

    def __call__(self, queries: ArrayLike) -> np.ndarray:
        """Return the scores of queries `(n, d)`, float64 `(n,)`; larger ones are less like the known classes."""
        points = _in_space(queries, self.embeddings)
        return nearest_neighbors(points, self.k, self.embeddings)[1][:, -1].astype(np.float64)


class MahalanobisScore:
    r"""Squared Mahalanobis distance of a query to the nearest class prototype, with one covariance for all classes.

    $$s(x) = \min_c\, (x - \mu_c)^\top \Sigma^{-1} (x - \mu_c), \qquad
    \Sigma = \frac1n \sum_i (x_i - \mu_{y_i})(x_i - \mu_{y_i})^\top + \lambda \frac{\operatorname{tr}}{d} I$$

    with the trace of the first term, so that directions in which the classes do not vary do not count infinitely.

    Args:
        embeddings: `(n, d)`. Embeddings of the known classes.
        labels: `(n,)`. Their classes, integers or strings.
        shrinkage: float, > 0. λ. Default: 1e-3.

    Attributes:
        classes: Array `(c,)`. The classes, sorted.
        prototypes: float64 array `(c, d)`.

    Raises:
        ValueError: If shapes do not match, values are not finite, or no class has two different embeddings.
        TypeError: If embeddings are not numbers, or labels are neither integers nor strings.

    Reference:
        Lee et al., A simple unified framework for detecting out-of-distribution samples and adversarial attacks,
        NeurIPS 2018.

    Example:
        >>> from tfdml import metrics
        >>> score = metrics.MahalanobisScore([[0.0], [2.0], [10.0], [12.0]], ["a", "a", "b", "b"])
        >>> score([[1.0], [4.0]]).round(2).tolist()
        [0.0, 8.99]
    """

    def __init__(self, embeddings: ArrayLike, labels: Labels, shrinkage: float = 1e-3) -> None:
        points = as_embeddings(embeddings)
        self.classes, numbers = np.unique(as_labels(labels, len(points)), return_inverse=True)
        numbers, dim = numbers.reshape(-1), points.shape[1]
        self.shrinkage = check_positive("shrinkage", shrinkage)
        self.prototypes = class_means(points, numbers, len(self.classes))
        covariance = np.zeros((dim, dim))
        for part in parts(len(points), 24 * dim):
            centered = points[part] - self.prototypes[numbers[part]]
            covariance += centered.T @ centered / len(points)
        variance = np.trace(covariance) / dim
        if not variance > 0:
            raise ValueError(
                "The covariance is 0. Received: classes in which all embeddings are equal. Expected: a class with two "
                "different embeddings."
            )
        factor = np.linalg.cholesky(covariance + self.shrinkage * variance * np.eye(dim))
        # Distances of whitened vectors are Mahalanobis distances.
        self._whitening = np.linalg.inv(factor).T

    def __call__(self, queries: ArrayLike) -> np.ndarray:
        """Return the scores of queries `(n, d)`, float64 `(n,)`; larger ones are less like the known classes."""
        points, centers = _in_space(queries, self.prototypes), self.prototypes @ self._whitening
        scores = np.empty(len(points))
        for part in parts(len(points), 24 * centers.size):
            scores[part] = squared_distances((points[part] @ self._whitening)[:, None], centers).min(axis=1)
        return scores


def out_of_distribution_metrics(
    embeddings: ArrayLike,
    labels: Labels,
    known: ArrayLike,
    unknown: ArrayLike,
    scores: Sequence[str] = SCORES,
    k: int = 1,
    epsilon: float = 0.0,
) -> dict[str, float]:
    r"""Compute how well queries of unknown classes are distinguished from queries of the known classes.

    Use it to evaluate whether a service can say "unknown", and by which score. Scores are computed from embeddings of
    the known classes: `prototype` and `prototype_radius` by `PrototypeScore` without and with the radii, `neighbors` by
    `NeighborScore` and `mahalanobis` by `MahalanobisScore`. A query is accepted as known if its score is at most a
    threshold. For each score:

    - `<score>_auroc`: the probability that an unknown query has a larger score than a known one.
    - `<score>_fpr_at_95_tpr`: the share of the unknown queries that is accepted by the smallest threshold that accepts
      95 % of the known ones.
    - `<score>_aupr_known` and `<score>_aupr_unknown`: average precision with the known or the unknown queries as
      positives. They depend on the ratio of both.
    - `<score>_known_accepted` and `<score>_unknown_accepted`: shares accepted by the threshold of the radii,
      `PrototypeScore.threshold`, for the first two scores.

    Args:
        embeddings: `(n, d)`. Embeddings of the known classes, such as those of a gallery.
        labels: `(n,)`. Their classes, integers or strings.
        known: `(p, d)`. Other embeddings of the same classes.
        unknown: `(q, d)`. Embeddings of other classes or of something else.
        scores: Sequence of names of scores. Default: all four.
        k: int. The k of `NeighborScore`. Default: 1.
        epsilon: float, >= 0. The ε of `PrototypeScore.threshold`. Default: 0.

    Returns:
        dict from the names above to floats.

    Raises:
        ValueError: If shapes do not match, values are not finite, a score is unknown, or an option is out of range.
        TypeError: If embeddings are not numbers, or labels are neither integers nor strings.

    Reference:
        Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples in neural
        networks, ICLR 2017, for the metrics.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.out_of_distribution_metrics(
        ...     [[0.0], [2.0], [10.0]], ["a", "a", "b"], [[0.5], [9.9]], [[4.0], [10.5]], scores=["prototype"]
        ... )
        >>> found["prototype_auroc"], found["prototype_unknown_accepted"]
        (0.875, 0.5)
    """
    references = as_embeddings(embeddings)
    known, unknown = as_embeddings(known, "known"), as_embeddings(unknown, "unknown")
    epsilon = check_not_negative("epsilon", epsilon)
    functions: dict[str, Any] = {
        "prototype": lambda: PrototypeScore(references, labels),
        "prototype_radius": lambda: PrototypeScore(references, labels, subtract_radius=True),
        "neighbors": lambda: NeighborScore(references, k),
        "mahalanobis": lambda: MahalanobisScore(references, labels),
    }
    result: dict[str, float] = {}
    for name in scores:
        if name not in functions:
            raise ValueError(f"Unknown score. Received: {name!r} in scores. Expected: names of {SCORES}.")
        function = functions[name]()
        of_known, of_unknown = function(known), function(unknown)
        points = OperatingPoints(of_known, of_unknown)
        result[f"{name}_auroc"] = points.area()
        result[f"{name}_fpr_at_95_tpr"] = points.at_true_rate(0.95)[0]
        result[f"{name}_aupr_known"] = points.average_precision()
        result[f"{name}_aupr_unknown"] = OperatingPoints(-of_unknown, -of_known).average_precision()
        if isinstance(function, PrototypeScore):
            threshold = function.threshold(epsilon)
            result[f"{name}_known_accepted"] = float(np.mean(of_known <= threshold))
            result[f"{name}_unknown_accepted"] = float(np.mean(of_unknown <= threshold))
    return result


def validation_threshold(known: ArrayLike, unknown: ArrayLike | None = None, true_rate: float = 0.95) -> float:
    r"""Choose the threshold of an out-of-distribution score on validation queries.

    Args:
        known: `(p,)`. Scores of validation queries of the known classes.
        unknown: `(q,)`. Scores of validation queries of unknown classes. With them the threshold maximizes the mean of
            the shares of known queries accepted and unknown queries rejected. `None` chooses the smallest threshold
            that accepts the share `true_rate` of the known queries. Default: `None`.
        true_rate: float, 0 < true_rate <= 1. Default: 0.95.

    Returns:
        float. Queries with a score up to it are accepted as known.

    Raises:
        ValueError: If there are no scores, one is not finite, or `true_rate` is out of range.

    Example:
        >>> from tfdml import metrics
        >>> metrics.validation_threshold([0.1, 0.2, 0.9], [0.5, 1.0]), metrics.validation_threshold([0.1, 0.2, 0.9])
        (0.2, 0.9)
    """
    of_known = _as_scores("known", known)
    true_rate = check_between("true_rate", true_rate, 0, 1)
    if unknown is None:
        return OperatingPoints(of_known, np.empty(0)).at_true_rate(true_rate)[1]
    return OperatingPoints(of_known, _as_scores("unknown", unknown)).best_accuracy()[1]


def class_means(points, numbers, count):
    """Mean embeddings of the classes numbered from 0, float64 `(count, d)`."""
    sums = np.zeros((count, points.shape[1]))
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(count + 1))
    for number in range(count):
        sums[number] = points[order[starts[number] : starts[number + 1]]].mean(axis=0, dtype=np.float64)
    return sums


def _in_space(queries, references):
    return same_space(as_embeddings(queries, "queries"), references, "queries")[0]


def _as_scores(name, scores):
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(
            f"Scores are not usable. Received: {name} of shape {scores.shape} with "
            f"{np.count_nonzero(~np.isfinite(scores))} values that are not finite. Expected: finite values (n,)."
        )
    return scores
