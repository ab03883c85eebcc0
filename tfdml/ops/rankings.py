"""Similarities of queries and items, block by block, and the items that are relevant to queries. NumPy only."""

from __future__ import annotations

import collections.abc
from typing import NamedTuple

import numpy as np

from tfdml._utils.arguments import check_choice

SIMILARITIES = ("cosine", "dot", "l2")
BLOCK_BYTES = 2**26


class Relevant(NamedTuple):
    """Relevant items of queries, as one list of pairs that is ordered by query.

    Attributes:
        query: int64 array `(pairs,)`.
        item: int64 array `(pairs,)`.
        grade: float64 array `(pairs,)`, > 0.
        starts: int64 array `(queries + 1,)`. The pairs of query q are `starts[q]` … `starts[q + 1] - 1`.
    """

    query: np.ndarray
    item: np.ndarray
    grade: np.ndarray
    starts: np.ndarray

    @property
    def counts(self):
        return np.diff(self.starts)

    def of(self, query):
        """Items of a query."""
        return self.item[self.starts[query] : self.starts[query + 1]]


def relevant_items(given, queries, items, name="relevant"):
    """Convert relevant items to `Relevant`, and check them.

    Args:
        given: For each query a sequence or set of item indices, a dict from item index to grade, or a single index.
        queries: int. Number of queries.
        items: int. Number of items; indices are smaller.
        name: str. Name of the argument in messages.

    Returns:
        `Relevant`. Items of grade 0 are left out.

    Raises:
        ValueError: If the number of queries differs, an index is out of range or repeats, or a grade is negative or not
            finite.
        TypeError: If an index is not an integer, or `given` is a dict.
    """
    if isinstance(given, collections.abc.Mapping):
        # Its keys would count as the items.
        raise TypeError(
            f"The entries are in the order of the queries. Received: {name} as a dict. Expected: a list, such as "
            f"[{name}[query] for query in range({queries})]."
        )
    given = list(given)
    if len(given) != queries:
        raise ValueError(
            f"There must be one entry for each query. Received: {name} with {len(given)} entries for {queries} "
            "queries. Expected: the same number."
        )
    found, grades, counts = [], [], np.zeros(queries, np.int64)
    for query, entry in enumerate(given):
        indices, of_query = _entry(entry, query, name)
        bad = indices[(indices < 0) | (indices >= items)]
        if len(bad):
            raise ValueError(
                f"An item does not exist. Received: {name}[{query}] with index {bad[0]}. Expected: 0 <= index < "
                f"{items}, the number of items."
            )
        if len(np.unique(indices)) != len(indices):
            raise ValueError(
                f"An item is named twice. Received: {name}[{query}] = {indices.tolist()}. Expected: different indices."
            )
        if not (np.isfinite(of_query) & (of_query >= 0)).all():
            raise ValueError(
                f"Grades must be finite and not negative. Received: {name}[{query}] with grades {of_query.tolist()}. "
                "Expected: 0 for an item that is not relevant, more for one that is."
            )
        keep = of_query > 0
        found.append(indices[keep])
        grades.append(of_query[keep])
        counts[query] = keep.sum()
    starts = np.concatenate([[0], np.cumsum(counts)])
    return Relevant(
        np.repeat(np.arange(queries), counts), np.concatenate([np.empty(0, np.int64), *found]),
        np.concatenate([np.empty(0), *grades]), starts,
    )  # fmt: skip


def _entry(entry, query, name):
    if isinstance(entry, collections.abc.Mapping):
        indices, grades = np.array(list(entry)), np.array(list(entry.values()), np.float64)
    else:
        indices = np.asarray(sorted(entry) if isinstance(entry, collections.abc.Set) else entry)
        indices = indices[None] if indices.ndim == 0 else indices
        grades = np.ones(len(indices))
    if not len(indices):
        return np.empty(0, np.int64), np.empty(0)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise TypeError(
            f"Items must be indices. Received: {name}[{query}] = {entry!r}. Expected: integers, or a dict from integer "
            "to grade."
        )
    return indices.astype(np.int64), grades


def check_every_query_has_items(relevant, name="relevant", advice=""):
    """Raise a ValueError that names the queries without a relevant item."""
    without = np.flatnonzero(relevant.counts == 0)
    if len(without):
        raise ValueError(
            f"Queries have no items. Received: {name} without an item for {len(without)} of {len(relevant.counts)} "
            f"queries, the first with index {without[0]}. Expected: at least one item for each query.{advice}"
        )


class Similarities:
    r"""Similarities of queries and items: $\cos(x, y)$, $x^\top y$ or $-\lVert x - y \rVert$.

    Blocks are float64 matrix products, rounded differently in different places of a block. `exact` computes single
    values in one way everywhere: equal vectors then have equal similarities.

    Args:
        queries: Array `(n, d)` of numbers.
        items: Array `(m, d)` of numbers.
        similarity: One of `SIMILARITIES`.
        block_bytes: int. Memory of a block.
        names: Names of the two arguments in messages.
    """

    def __init__(self, queries, items, similarity="cosine", block_bytes=BLOCK_BYTES, names=("queries", "items")):
        self.similarity = check_choice("similarity", similarity, SIMILARITIES)
        self.queries, self.items = as_vectors(queries, names[0]), as_vectors(items, names[1])
        if self.queries.shape[1] != self.items.shape[1]:
            raise ValueError(
                f"Embeddings differ in size. Received: {names[0]} of shape {self.queries.shape} and {names[1]} of "
                f"shape {self.items.shape}. Expected: the same second axis."
            )
        self._plain = self.queries, self.items
        if similarity == "cosine":
            self.queries, self.items = (unit_rows(one, name) for one, name in zip(self._plain, names))
        elif similarity == "l2":
            # Products of vectors far from the origin are imprecise.
            center = self.items.mean(axis=0)
            self.queries, self.items = self.queries - center, self.items - center
        self.norms = np.sqrt(np.einsum("ij,ij->i", self.items, self.items))
        self.rows = max(1, int(block_bytes) // (16 * len(self.items)))

    def blocks(self):
        """Yield (index of the first query, similarities `(b, items)`). The array may be changed."""
        for start in range(0, len(self.queries), self.rows):
            block = self.queries[start : start + self.rows]
            scores = block @ self.items.T
            if self.similarity == "l2":
                scores *= 2
                scores -= np.square(self.norms)
                scores -= np.einsum("ij,ij->i", block, block)[:, None]
                scores = -np.sqrt(np.maximum(-scores, 0))
            yield start, scores

    def exact(self, query, items):
        """Similarities of one query and some items, `(len(items),)`, the same in every block."""
        if self.similarity == "l2":
            vectors, others = self._plain
            return -np.sqrt(np.square(others[items] - vectors[query]).sum(axis=1))
        return (self.items[items] * self.queries[query]).sum(axis=1)

    def best(self, query, row, count):
        """Find the items most similar to a query; of equally similar ones, the lower index comes first.

        Args:
            query: int. Index of the query.
            row: float array `(items,)`. Its similarities from `blocks`.
            count: int. All items if there are fewer.

        Returns:
            Pair (indices of the items, their similarities as from `exact`), most similar first.
        """
        candidates = np.arange(len(row))
        if count < len(row):
            threshold = np.partition(row, len(row) - count)[len(row) - count]
            candidates = np.flatnonzero(row >= threshold - 2 * self.error(query, threshold))
        values = self.exact(query, candidates)
        order = np.argsort(-values, kind="stable")[:count]
        return candidates[order], values[order]

    def error(self, query, values):
        """Bound on the difference of a value of `blocks` and of `exact`, for some values of a query."""
        length, largest = np.linalg.norm(self.queries[query]), self.norms.max()
        roundoff = (self.items.shape[1] + 8) * np.finfo(np.float64).eps
        if self.similarity != "l2":
            return np.full(np.shape(values), roundoff * length * largest)
        squared = roundoff * (length + largest) ** 2
        # The root of a rounded square: at 0, its error is the root of the error.
        return squared / np.maximum(-np.asarray(values), np.sqrt(squared)) + roundoff * np.abs(values)


def ranks_of_relevant(similarities, relevant, excluded=None):
    """Rank each relevant item among all items of its query, from 1; of equal items, the lower index comes first.

    Args:
        similarities: `Similarities`.
        relevant: `Relevant`.
        excluded: `Relevant` or `None`. Items that are not in a query's ranking.

    Returns:
        int64 array, one rank for each pair.
    """
    ranks = np.empty(len(relevant.item), np.int64)
    for start, block in similarities.blocks():
        for place, row in enumerate(block):
            query = start + place
            mine = slice(relevant.starts[query], relevant.starts[query + 1])
            if excluded is not None:
                row[excluded.of(query)] = -np.inf
            if mine.start < mine.stop:
                ranks[mine] = _ranks(similarities, query, row, relevant.item[mine])
    return ranks


def _ranks(similarities, query, row, items):
    values = row[items]
    error = 2 * similarities.error(query, values)
    low, high = values - error, values + error
    if len(items) <= 8:
        above = np.count_nonzero(row > high[:, None], axis=1)
        near = np.count_nonzero(row >= low[:, None], axis=1) - above
    else:
        ordered = np.sort(row)
        above = len(row) - np.searchsorted(ordered, high, side="right")
        near = len(row) - np.searchsorted(ordered, low, side="left") - above
    for index in np.flatnonzero(near > 1):
        # Products cannot separate these items from this one.
        candidates = np.flatnonzero((row >= low[index]) & (row <= high[index]))
        exact = similarities.exact(query, candidates)
        own = exact[candidates == items[index]]
        above[index] += np.count_nonzero((exact > own) | ((exact == own) & (candidates < items[index])))
    return above + 1


def as_vectors(vectors, name):
    """Convert vectors to a float64 matrix, and check that it is not empty and finite."""
    array = np.asarray(vectors)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"Embeddings are not numbers. Received: {name} of type {array.dtype}. Expected: real numbers.")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"Embeddings have the wrong shape. Received: {name} of shape {array.shape}. Expected: (n, d) with n >= 1 "
            "and d >= 1."
        )
    array = array.astype(np.float64)
    bad = np.count_nonzero(~np.isfinite(array).all(axis=1))
    if bad:
        raise ValueError(
            f"Embeddings are not finite. Received: {name} with NaN or infinity in {bad} of {len(array)} rows. "
            "Expected: finite values."
        )
    return array


def unit_rows(vectors, name):
    """Scale rows to unit length; raise a ValueError if a row has no direction."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    zero = np.flatnonzero(largest == 0)
    if len(zero):
        raise ValueError(
            f"Vectors without direction have no cosine. Received: {name} with {len(zero)} vectors of norm 0, the first "
            f"with index {zero[0]}. Expected: norms > 0, or similarity='dot' or 'l2'."
        )
    vectors = vectors / largest
    return vectors / np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
