"""Results of a gallery."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfdml._utils.types import ArrayLike


@dataclasses.dataclass(frozen=True, eq=False)
class SearchResult:
    """Nearest items of each query, nearest first unless they were re-ranked.

    Items are missing at the end of a row if fewer remain after others are left out; then their distance is infinite,
    their id and label are `None`, and the ids are an object array.

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

    @property
    def found(self) -> np.ndarray:
        """bool array `(n, k)`: whether there is an item."""
        return np.isfinite(self.distances)

    def take(self, positions: ArrayLike) -> SearchResult:
        """Return the items at positions of each row, such as those of `limit_per_label`.

        Args:
            positions: int array `(n, j)`. -1 for a missing item.

        Raises:
            ValueError: If the shape is wrong, or a position is out of range.
        """
        places = np.asarray(positions)
        count, width = self.distances.shape
        if places.ndim != 2 or len(places) != count or places.dtype.kind not in "iu":
            raise ValueError(
                f"Positions have the wrong shape or type. Received: {places.dtype} of shape {places.shape}. Expected: "
                f"integers of shape ({count}, items)."
            )
        if places.size and (places.min() < -1 or places.max() >= width):
            raise ValueError(
                f"Positions are out of range. Received: {places.min()} to {places.max()}. Expected: -1 to {width - 1}."
            )
        taken = (np.take_along_axis(column, np.maximum(places, 0), 1) for column in (self.ids, self.labels))
        ids, labels = (without(column, places < 0) for column in taken)
        distances = np.take_along_axis(self.distances, np.maximum(places, 0), 1)
        return SearchResult(ids, labels, np.where(places < 0, np.inf, distances))


def without(column, missing):
    """Return an array with `None` where items are missing; the array itself if none is."""
    if missing.any():
        column = column.astype(object)
        column[missing] = None
    return column


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
