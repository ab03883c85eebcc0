"""Labels of queries by the items of a gallery."""

from __future__ import annotations

import collections

import numpy as np

from tfdml.metrics.out_of_distribution import class_means
from tfdml.metrics.search import parts, squared_distances

METHODS = ("neighbors", "prototypes")
_BLOCK_ROWS = 2**14
_is_label = np.vectorize(lambda label: label is not None, otypes=[bool])


class Prototypes:
    """Mean vectors of the labeled items of a gallery.

    Args:
        gallery: `Gallery` with vectors of length 1 for the cosine distance.

    Attributes:
        labels: Object array `(c,)`.
        vectors: float64 array `(c, d)`; normalized for the cosine distance.
    """

    def __init__(self, gallery):
        ids = gallery.ids
        of_items = gallery.labels(ids)
        number_of = {label: number for number, label in enumerate(dict.fromkeys(of_items)) if label is not None}
        number_of = {label: number for number, label in enumerate(number_of)}
        self.labels = object_array(list(number_of))
        sums, counts = np.zeros((len(number_of), gallery.dim or 0)), np.zeros(len(number_of))
        for start in range(0, len(ids), _BLOCK_ROWS):
            block = [row for row in range(start, min(start + _BLOCK_ROWS, len(ids))) if of_items[row] is not None]
            if not block:
                continue
            numbers = np.array([number_of[of_items[row]] for row in block])
            present, numbers = np.unique(numbers, return_inverse=True)
            sizes = np.bincount(numbers.reshape(-1))
            means = class_means(gallery.vectors([ids[row] for row in block]), numbers.reshape(-1), len(present))
            sums[present] += means * sizes[:, None]
            counts[present] += sizes
        self.vectors = sums / np.maximum(counts, 1)[:, None]
        if gallery.distance == "cosine":
            self.vectors /= np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), np.finfo(float).tiny)
        self.distance = gallery.distance

    def nearest(self, vectors, excluded=None):
        """Return the label of the nearest prototype of each vector, and its distance; `None` and inf if there is none.

        Args:
            vectors: float array `(n, d)`.
            excluded: Object array `(n,)` of labels that do not count. Default: none.
        """
        labels, scores = np.full(len(vectors), None, object), np.full(len(vectors), np.inf)
        if not len(self.labels):
            return labels, scores
        for part in parts(len(vectors), 24 * self.vectors.size):
            squared = squared_distances(vectors[part, None], self.vectors)
            if excluded is not None:
                squared[self.labels == excluded[part, None]] = np.inf
            best = squared.argmin(axis=1)
            scores[part] = np.take_along_axis(squared, best[:, None], 1)[:, 0]
            labels[part] = self.labels[best]
        labels[np.isinf(scores)] = None
        return labels, scores / 2 if self.distance == "cosine" else np.sqrt(scores)


def nearest_by_vote(gallery, vectors, k, excluded=None):
    """Return the most frequent label of the k nearest labeled items, and the distance of the nearest item with it.

    Of equally frequent labels, that of the nearest item wins. `None` and inf if there is no item.

    Args:
        gallery: `Gallery` with at least `k` items.
        vectors: float array `(n, d)`.
        k: int. Number of items that vote; fewer if there are fewer.
        excluded: Object array `(n,)` of labels whose items do not count. Default: none.
    """
    labels, scores = np.full(len(vectors), None, object), np.full(len(vectors), np.inf)
    remaining, width = np.arange(len(vectors)), k if excluded is None else 2 * k + 8
    while len(remaining):
        width = min(width, len(gallery))
        size, unfinished = max(1, 2**20 // width), []
        for start in range(0, len(remaining), size):
            rows = remaining[start : start + size]
            found = gallery.search(vectors[rows], width)
            usable = _is_label(found.labels)
            if excluded is not None:
                usable &= (found.labels != excluded[rows, None]).astype(bool)
            done = (usable.sum(axis=1) >= k) | (width == len(gallery))
            settled = done & usable.any(axis=1)
            if k == 1:
                nearest = usable.argmax(axis=1)[settled]
                labels[rows[settled]] = found.labels[settled, nearest]
                scores[rows[settled]] = found.distances[settled, nearest]
                settled[:] = False
            for place in np.flatnonzero(settled):
                voters = np.flatnonzero(usable[place])[:k]
                votes = collections.Counter(found.labels[place, voters])
                # The labels of a counter are in the order of their first, nearest voters.
                winner = max(votes, key=votes.__getitem__)
                labels[rows[place]] = winner
                nearest = next(voter for voter in voters if found.labels[place, voter] == winner)
                scores[rows[place]] = found.distances[place, nearest]
            unfinished.append(rows[~done])
        # Items without a label, or with the excluded one, may be the nearest ones.
        remaining, width = np.concatenate(unfinished), 4 * width
    return labels, scores


def object_array(values):
    """Return a list as an object array `(n,)`."""
    array = np.empty(len(values), object)
    array[:] = values
    return array
