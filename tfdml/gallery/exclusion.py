"""Searches in a gallery that leave out items, per query."""

from __future__ import annotations

import numpy as np

from tfdml.gallery.items import as_ids
from tfdml.metrics.exclusion import first_kept
from tfdml.metrics.search import parts

LABEL = "label"
# Further items that the first search finds, at least.
_FURTHER = 64
_GROWTH = 4


def excluded_items(exclude, items, count):
    """Return what `exclude` of `Gallery.search` means: an object that says which rows a query leaves out.

    Args:
        exclude: As for `Gallery.search`.
        items: `Items`.
        count: int. Number of queries.

    Raises:
        ValueError: If there is not one entry per query, or no item has the field.
        KeyError: If an id is not in the gallery.
        TypeError: If an entry has the wrong type.
    """
    if isinstance(exclude, dict):
        if not exclude:
            raise ValueError(f"exclude has no fields. Received: {exclude!r}. Expected: {_EXPECTED}.")
        values = [_values_of(field, entries, count) for field, entries in exclude.items()]
        return _ExcludedFields(list(exclude), list(zip(*values)), items)
    entries = _entries("exclude", exclude, count)
    # A single id is not a list.
    ids = [[] if entry is None else as_ids(entry) for entry in entries]
    return _ExcludedRows([items.rows(dict.fromkeys(some)) for some in ids])


_EXPECTED = "a list with an id, a list of ids or None for each query, or a dict of fields"


def _entries(name, entries, count):
    if isinstance(entries, (str, bytes)) or not np.iterable(entries):
        raise TypeError(f"{name} is not a list. Received: {entries!r}. Expected: {_EXPECTED}.")
    entries = list(entries)
    if len(entries) != count:
        raise ValueError(
            f"{name} does not fit the queries. Received: {len(entries)} entries for {count} queries. Expected: "
            f"{_EXPECTED}."
        )
    return entries


def _values_of(field, entries, count):
    values = [
        entry.item() if isinstance(entry, np.generic) else entry
        for entry in _entries(f"exclude[{field!r}]", entries, count)
    ]
    wrong = [value for value in values if not isinstance(value, (str, int, float, type(None)))]
    if wrong:
        raise TypeError(
            f"Values to exclude have the wrong type. Received: {wrong[0]!r} for {field!r}. Expected: strings, numbers "
            "or None."
        )
    return values


class _ExcludedRows:
    """Rows that each query leaves out."""

    def __init__(self, rows):
        self.rows = rows

    def mask(self, queries, rows):
        """Return whether each of `rows` `(b, c)` is left out by the query of the same position."""
        return np.array([np.isin(row, self.rows[query]) for query, row in zip(queries, rows)])

    def counts(self, queries):
        """Return how many items these queries leave out."""
        return np.array([len(self.rows[query]) for query in queries])


class _ExcludedFields:
    """Items that have the values of the query in all fields."""

    def __init__(self, fields, values, items):
        self.fields, self.values, self.items = fields, values, items
        # Rows of all items with some values, once they are counted. Different values have different rows.
        self.known = {}
        for field in fields:
            if all(value is None for value in self._column(field, range(len(items)))):
                raise ValueError(
                    f"No item has the field. Received: exclude with {field!r}. Expected: a key of the items' "
                    f"metadata, or {LABEL!r} for their labels."
                )

    def _column(self, field, rows):
        """Yield the values of items."""
        labels, metadata = self.items.labels, self.items.metadata
        for row in rows:
            if field == LABEL:
                yield labels[row]
            else:
                yield metadata[row].get(field) if isinstance(metadata[row], dict) else None

    def _equal(self, query, rows):
        values = self.values[query]
        if any(value is None for value in values):
            return np.zeros(len(rows), bool)
        columns = (
            np.fromiter((found == value for found in self._column(field, rows)), bool, len(rows))
            for field, value in zip(self.fields, values)
        )
        return np.logical_and.reduce(list(columns))

    def mask(self, queries, rows):
        return np.array([self._left_out(query, row) for query, row in zip(queries, rows)])

    def _left_out(self, query, rows):
        known = self.known.get(self.values[query])
        return self._equal(query, rows.tolist()) if known is None else np.isin(rows, known)

    def counts(self, queries):
        everything = range(len(self.items))
        for query in queries:
            if self.values[query] not in self.known:
                self.known[self.values[query]] = np.flatnonzero(self._equal(query, everything))
        return np.array([len(self.known[self.values[query]]) for query in queries])


def search_without(search, vectors, k, excluded, size):
    """Find the nearest items that the queries do not leave out.

    Args:
        search: Function of queries and k, which returns rows and squared distances, `(n, k)`.
        vectors: float32 array `(n, d)`. Queries.
        k: int. Number of items per query.
        excluded: From `excluded_items`.
        size: int. Number of items of the gallery.

    Returns:
        Rows, int64 `(n, k)`, and squared distances, float64 `(n, k)`; -1 and infinity where fewer items remain.
    """
    rows, squared = np.full((len(vectors), k), -1), np.full((len(vectors), k), np.inf)
    waiting, most = np.arange(len(vectors)), np.full(len(vectors), -1)
    width = min(size, k + max(k, _FURTHER))
    while len(waiting):
        short = []
        for part in parts(len(waiting), 64 * width):
            some = waiting[part]
            found, distances = search(vectors[some], width)
            keep = (found >= 0) & ~excluded.mask(some, found)
            # Counting what is left out takes longer than a search, so only queries that need it pay for it.
            is_short = keep.sum(axis=1) < k
            uncounted = some[is_short & (most[some] < 0)]
            if len(uncounted):
                most[uncounted] = np.minimum(size, k + excluded.counts(uncounted))
            is_short &= width < most[some]
            done = some[~is_short]
            places = first_kept(np.broadcast_to(np.arange(found.shape[1]), found.shape), keep, k)[~is_short]
            there = places >= 0
            columns = slice(0, places.shape[1])
            rows[done, columns] = np.where(there, np.take_along_axis(found[~is_short], places, 1), -1)
            squared[done, columns] = np.where(there, np.take_along_axis(distances[~is_short], places, 1), np.inf)
            short.append(some[is_short])
        waiting = np.concatenate(short)
        if len(waiting):
            width = min(_GROWTH * width, most[waiting].max())
    return rows, squared
