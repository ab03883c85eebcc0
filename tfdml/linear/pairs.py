"""Similar and dissimilar pairs: their scatter, and sums of distances. Given as a list, or all pairs of classes."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse

from tfdml._utils.arguments import check_whole_number
from tfdml.linear.blocks import other_class_blocks, squared_distance_factors

_CHUNK = 2**15


class ClassPairs:
    """All unordered pairs of samples: similar within a class, dissimilar between classes.

    Args:
        X: float64 array `(n, d)`.
        numbers: int array `(n,)`. Numbers of the classes.
    """

    def __init__(self, X, numbers):
        order = np.argsort(numbers, kind="stable")
        self.X, self.numbers = X[order] - X.mean(axis=0), numbers[order]
        counts = np.bincount(numbers).astype(np.float64)
        self.similar_count = float(np.sum(counts * (counts - 1)) / 2)
        self.dissimilar_count = float((len(X) ** 2 - np.sum(counts**2)) / 2)
        self._counts = counts

    def scatters(self):
        """Sums of the outer products of the differences of similar and of dissimilar pairs, each `(d, d)`.

        They follow from the scatter of each class and of the class means, without a loop over pairs.
        """
        similar = np.zeros((self.X.shape[1],) * 2)
        dissimilar = np.zeros_like(similar)
        total = self._counts.sum()
        for number, count in enumerate(self._counts):
            members = self.X[self.numbers == number]
            mean = members.mean(axis=0)
            within = (members - mean).T @ (members - mean)
            similar += count * within
            # The samples are centered, so the scatter of the means is that about zero.
            dissimilar += (total - count) * within + total * count * np.outer(mean, mean)
        return similar, dissimilar

    def sum_of_distances(self, W):
        """Sum of the distances of dissimilar pairs after the transformation `W`, and its gradient."""
        Z = self.X @ W.T
        left, right = squared_distance_factors(Z)
        value, gradient = 0.0, np.zeros_like(Z)
        for rows, columns in other_class_blocks(self.numbers):
            squared = left[rows] @ right[columns].T
            # Below this, the product is rounding error: such pairs are equal, and their gradient is 0.
            floor = 1e-14 * (right[rows, -1:] + right[columns, -1])
            inverse = np.where(squared > floor, squared, np.inf) ** -0.5
            value += float(np.vdot(squared, inverse))
            gradient[rows] += inverse.sum(axis=1)[:, None] * Z[rows] - inverse @ Z[columns]
            gradient[columns] += inverse.sum(axis=0)[:, None] * Z[columns] - inverse.T @ Z[rows]
        return value, gradient.T @ self.X


class ListedPairs:
    """Pairs given by indices.

    Args:
        X: float64 array `(n, d)`.
        pairs: int array `(m, 2)` of rows of `X`.
        same: bool array `(m,)`, True for similar pairs.
    """

    def __init__(self, X, pairs, same):
        self.X = X - X.mean(axis=0)
        self.similar, self.dissimilar = pairs[same], pairs[~same]
        self.similar_count, self.dissimilar_count = float(same.sum()), float((~same).sum())

    def scatters(self):
        """As for `ClassPairs`."""
        return self._scatter(self.similar), self._scatter(self.dissimilar)

    def sum_of_distances(self, W):
        """As for `ClassPairs`."""
        Z = self.X @ W.T
        value, gradient = 0.0, np.zeros_like(Z)
        for start in range(0, len(self.dissimilar), _CHUNK):
            chosen = self.dissimilar[start : start + _CHUNK]
            differences = Z[chosen[:, 0]] - Z[chosen[:, 1]]
            distances = np.linalg.norm(differences, axis=1)
            value += float(distances.sum())
            inverse = np.divide(1.0, distances, out=np.zeros_like(distances), where=distances > 0)
            gradient += incidence(chosen, len(Z)).T @ (inverse[:, None] * differences)
        return value, gradient.T @ self.X

    def _scatter(self, pairs):
        total = np.zeros((self.X.shape[1],) * 2)
        for start in range(0, len(pairs), _CHUNK):
            chosen = pairs[start : start + _CHUNK]
            differences = self.X[chosen[:, 0]] - self.X[chosen[:, 1]]
            total += differences.T @ differences
        return total


def incidence(pairs, count):
    """Sparse matrix `(m, count)` whose product with the samples gives the differences of the pairs."""
    rows = np.repeat(np.arange(len(pairs)), 2)
    signs = np.tile([1.0, -1.0], len(pairs))
    return scipy.sparse.csr_matrix((signs, (rows, pairs.ravel())), shape=(len(pairs), count))


def draw_pairs(numbers, n_pairs, generator):
    """Draw distinct similar and distinct dissimilar pairs, each uniformly.

    Args:
        numbers: int array `(n,)`. Numbers of the classes.
        n_pairs: int. Number of similar and of dissimilar pairs. If there are fewer, all are returned, with a warning.
        generator: `numpy.random.RandomState`.

    Returns:
        The pair (pairs, same): int64 `(m, 2)` and bool `(m,)`.
    """
    n_pairs = check_whole_number("n_pairs", n_pairs, minimum=1)
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers)
    count_of = np.repeat(counts, counts)
    start_of = np.repeat(np.cumsum(counts) - counts, counts)
    found = []
    for similar in (True, False):
        # The number of partners of each sample, in the order of the classes.
        partners = count_of - 1 if similar else len(numbers) - count_of
        available = int(partners.sum()) // 2
        if n_pairs > available:
            warnings.warn(
                f"There are fewer {'similar' if similar else 'dissimilar'} pairs. Received: n_pairs={n_pairs}. All "
                f"{available} are used.",
                stacklevel=4,
            )
        wanted = min(n_pairs, available)
        if 2 * wanted > available:
            places = np.arange(int(partners.sum()))
        else:
            # Ordered pairs are numbered one sample after the other. Of each 2 one is redundant.
            places = generator.randint(0, int(partners.sum()), 4 * wanted + 16, dtype=np.int64)
        offsets = np.cumsum(partners)
        while True:
            first = np.searchsorted(offsets, places, side="right")
            partner = places - (offsets - partners)[first]
            if similar:
                second = start_of[first] + partner
                second += second >= first
            else:
                second = partner + np.where(partner >= start_of[first], count_of[first], 0)
            keys = np.unique(np.minimum(first, second) * len(numbers) + np.maximum(first, second))
            if len(keys) >= wanted:
                break
            places = np.concatenate([places, generator.randint(0, int(partners.sum()), len(places), dtype=np.int64)])
        keys = generator.permutation(keys)[:wanted]
        found.append(order[np.stack(np.divmod(keys, len(numbers)), axis=1)])
    return np.concatenate(found), np.repeat([True, False], [len(found[0]), len(found[1])])
