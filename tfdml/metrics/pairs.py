"""Distances of pairs of labeled embeddings, block by block."""

from __future__ import annotations

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import ArrayLike, Labels
from tfdml.metrics.inputs import as_embeddings, as_labels
from tfdml.metrics.search import parts, squared_distances

DISTANCES = ("l2", "cosine")
MAX_PAIRS = 2**22
_BLOCK_PAIRS = 2**20


def pair_distances(
    embeddings: ArrayLike, labels: Labels, distance: str = "l2", max_pairs: int = MAX_PAIRS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Compute the distances of pairs of labeled embeddings, of all or of a sample.

    Use it for histograms and curves of pairs (`plots.distance_histogram`, `plots.roc_curve`).

    Args:
        embeddings: `(n, d)`; NumPy array, tensor or nested lists.
        labels: `(n,)`. Classes, integers or strings.
        distance: `"l2"`, or `"cosine"`, which is $1 - \cos$. Default: `"l2"`.
        max_pairs: int. If there are more pairs of one class, or more of different classes, about this number of them
            is drawn at random, without repetition. Default: 2**22.
        seed: int. Seed of the draw. Default: 0.

    Returns:
        The pair (distances, same): float64 `(pairs,)`, and whether the pair is of one class, bool `(pairs,)`. Each pair
        occurs once.

    Raises:
        ValueError: If shapes do not match, values are not finite, or an option is invalid.

    Example:
        >>> from tfdml import metrics
        >>> distances, same = metrics.pair_distances([[0.0], [1.0], [5.0]], ["a", "a", "b"])
        >>> distances.tolist(), same.tolist()
        ([1.0, 5.0, 4.0], [True, False, False])
    """
    pairs = Pairs(embeddings, labels, distance, check_whole_number("max_pairs", max_pairs, 1), seed)
    of_same, of_different = pairs.same()[0], [distances for distances, _, _ in pairs.different_blocks()]
    distances = np.concatenate([of_same, *of_different])
    return distances, np.arange(len(distances)) < len(of_same)


class Pairs:
    """Pairs of labeled embeddings: those of one class, and those of different classes.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        distance: `"l2"` or `"cosine"`.
        max_pairs: int, the largest number of either kind, or `None` for all pairs.
        seed: int. Seed of samples.

    Attributes:
        classes: int array `(n,)`. Numbers of the classes, in sorted order.
    """

    def __init__(self, embeddings, labels, distance, max_pairs, seed):
        points = as_embeddings(embeddings)
        check_choice("distance", distance, DISTANCES)
        classes = np.unique(as_labels(labels, len(points)), return_inverse=True)[1].reshape(-1)
        order = np.argsort(classes, kind="stable")
        self.points, self.classes = points[order].astype(np.float64), classes[order]
        if distance == "cosine":
            self.points = normalized(self.points)
        self.distance, self.max_pairs, self.seed = distance, max_pairs, seed
        count = len(points)
        # The row after the last one of each row's class: partners of one class come before it, others behind.
        ends = np.cumsum(np.bincount(self.classes))[self.classes]
        self._same_starts, self._same_sizes = np.arange(count) + 1, ends - np.arange(count) - 1
        self._different_starts, self._different_sizes = ends, count - ends
        self.same_count, self.different_count = int(self._same_sizes.sum()), int(self._different_sizes.sum())

    def same(self):
        """Return (distances, first rows, second rows) of pairs of one class."""
        rows = self._drawn(self._same_starts, self._same_sizes, self.max_pairs, self.seed)
        return (self._distances(*rows), *rows)

    def different_blocks(self):
        """Yield (distances, first rows, second rows) of pairs of different classes."""
        if self.max_pairs is not None and self.different_count > self.max_pairs:
            first, second = self._drawn(self._different_starts, self._different_sizes, self.max_pairs, self.seed + 1)
            for part in parts(len(first), 16):
                yield self._distances(first[part], second[part]), first[part], second[part]
            return
        yield from self._all_different()

    def sample_different(self, count, seed):
        """Return the distances of a sample of pairs of different classes."""
        return self._distances(*self._drawn(self._different_starts, self._different_sizes, count, seed))

    def _all_different(self):
        # Relative to one of the points rather than their mean, which would round vectors of integers.
        centered = self.points - self.points[0]
        squares = np.square(centered).sum(axis=1)
        start, count = 0, len(centered)
        while start < count:
            stop = min(count, start + max(1, _BLOCK_PAIRS // (count - start)))
            squared = squares[start:stop, None] + squares[start:] - 2 * centered[start:stop] @ centered[start:].T
            apart = np.arange(start, count) >= self._different_starts[start:stop, None]
            first, second = np.nonzero(apart)
            yield self._from_squares(np.maximum(squared[apart], 0)), first + start, second + start
            start = stop

    @staticmethod
    def _drawn(starts, sizes, limit, seed):
        """Rows of pairs: row i has partners from starts[i] on, sizes[i] of them. All pairs, or a sample of them."""
        before = np.cumsum(sizes) - sizes
        total = int(sizes.sum())
        if limit is None or total <= limit:
            first = np.repeat(np.arange(len(sizes)), sizes)
            return first, np.arange(total) - before[first] + starts[first]
        # One number from each of `limit` equal intervals: unlike a draw without replacement, no list of all numbers is
        # needed. An integer on a bound may come from both sides.
        drawn = (np.arange(limit) + np.random.default_rng(seed).random(limit)) * (total / limit)
        numbers = np.unique(np.minimum(drawn.astype(np.int64), total - 1))
        first = np.searchsorted(before + sizes, numbers, side="right")
        return first, numbers - before[first] + starts[first]

    def _distances(self, first, second):
        squared = np.empty(len(first))
        for part in parts(len(first), 24 * self.points.shape[1]):
            squared[part] = squared_distances(self.points[first[part]], self.points[second[part]])
        return self._from_squares(squared)

    def _from_squares(self, squared):
        return squared / 2 if self.distance == "cosine" else np.sqrt(squared)


def normalized(points):
    """Return float64 vectors of length 1, or raise a ValueError if one has no direction."""
    largest = np.abs(points).max(axis=1, keepdims=True).astype(np.float64)
    if not largest.all():
        raise ValueError(
            f"Vectors without direction have no cosine. Received: {np.count_nonzero(largest == 0)} vectors of norm 0. "
            "Expected: norms > 0. Remove them, or pass distance='l2'."
        )
    scaled = points / largest
    return scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
