"""Results of a gallery."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class SearchResult:
    """Nearest items of each query, nearest first.

    Args:
        ids: Array `(n, k)` of int64, or of Python strings.
        labels: Object array `(n, k)` of integers or strings; `None` for items without a label.
        distances: float64 array `(n, k)`. Unsquared L2 distances, or cosine distances from 0 to 2.

    Example:
        >>> result = SearchResult(np.array([[7]]), np.array([["cat"]], object), np.array([[0.5]]))
        >>> len(result), result.labels[0, 0]
        (1, 'cat')
    """

    ids: np.ndarray
    labels: np.ndarray
    distances: np.ndarray

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.ids)


@dataclasses.dataclass(frozen=True, eq=False)
class Classification:
    """Labels of queries, and whether they are accepted.

    Args:
        labels: Object array `(n,)` of integers or strings. The most likely label of the gallery, also of queries that
            are not known.
        scores: float64 array `(n,)`. Distance to the nearest item with that label, or to its prototype.
        is_known: bool array `(n,)`. Whether the score is at most the threshold.

    Example:
        >>> result = Classification(np.array(["cat", "dog"], object), np.array([0.2, 0.9]), np.array([True, False]))
        >>> np.where(result.is_known, result.labels, "unknown").tolist()
        ['cat', 'unknown']
    """

    labels: np.ndarray
    scores: np.ndarray
    is_known: np.ndarray

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.labels)
