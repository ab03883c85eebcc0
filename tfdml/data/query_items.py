"""Batches of queries, their items and explicit negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Labels
from tfdml.data.hard_negatives import HardNegatives
from tfdml.ops.labels import label_column
from tfdml.ops.rankings import check_every_query_has_items, relevant_items


def query_item_batches(
    queries: Any,
    items: Any,
    positives: Sequence[Any],
    negatives: HardNegatives | Any = None,
    batch_size: int = 256,
    query_ids: Labels | None = None,
    item_ids: Labels | None = None,
    shared_ids: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Make batches for `DualEncoder` from queries, items and the pairs of the two that belong together.

    An epoch has each pair of a query and one of its items once, in a new order each time. Batches are tuples (query,
    item, extras) with the ids by which `DualEncoder` knows that an item is not a negative. Ids are indices unless
    others are given.

    Args:
        queries: Array or list `(n, …)`, such as texts, or a dict or tuple of these, as the query encoder accepts.
        items: Array or list `(m, …)`, or a dict or tuple of these, as the item encoder accepts.
        positives: For each query its relevant items: a sequence or set of indices of items, a dict from index to grade,
            or one index.
        negatives: Explicit negatives, from `mine_hard_negatives`, an int array `(n, k)` of indices of items with -1 for
            none, or a list of any number of indices for each query; `None` for none. Default: `None`.
        batch_size: int, >= 1. Pairs per batch. Default: 256.
        query_ids: int array `(n,)` of ids >= 0. Queries with equal ids are the same query, whose items are not
            negatives of each other. `None` uses indices. Default: `None`.
        item_ids: int array `(m,)` of ids >= 0. Items with equal ids must be equal. `None` uses indices. Default:
            `None`.
        shared_ids: bool. Whether equal ids of a query and of an item name the same thing, as for `DualEncoder`; they
            must then be equal. Default: `False`.
        shuffle: bool. Draw the pairs in random order. Default: `True`.
        seed: int. Seed of the order. Default: 0.
        drop_remainder: bool. Leave out the last batch if it is smaller. Default: `False`.

    Returns:
        `tf.data.Dataset` of one epoch, of (query, item, {"item_ids", "query_ids"}), and with negatives also "negatives"
        and "negative_ids".

    Raises:
        ValueError: If there are no queries or no items, lengths differ, a query has no item, an index is out of range
            or repeats, an item is both positive and negative for a query, or ids are negative or repeat for different
            things.
        TypeError: If indices or ids are not integers.

    Example:
        >>> import numpy as np
        >>> from tfdml import data
        >>> queries, items = np.eye(2, dtype="float32"), np.eye(3, dtype="float32")
        >>> batches = data.query_item_batches(queries, items, positives=[[0, 2], [1]], batch_size=3)
        >>> query, item, extras = next(iter(batches))
        >>> query.shape.as_list(), item.shape.as_list(), sorted(extras["item_ids"].numpy().tolist())
        ([3, 2], [3, 3], [0, 1, 2])
    """
    queries, items = _arrays(queries, "queries"), _arrays(items, "items")
    number, size = (len(tf.nest.flatten(one)[0]) for one in (queries, items))
    relevant = relevant_items(positives, number, size, "positives")
    check_every_query_has_items(relevant, "positives")
    query_ids, item_ids = _ids(query_ids, number, "query_ids"), _ids(item_ids, size, "item_ids")
    _check_equal_ids(items, item_ids, "item_ids")
    _check_equal_ids(queries, query_ids, "query_ids")
    if shared_ids:
        _check_shared_ids(queries, query_ids, items, item_ids)
    chosen = None if negatives is None else _negatives(negatives, number, size, relevant)
    batch_size, seed = check_whole_number("batch_size", batch_size, 1), check_whole_number("seed", seed, 0)

    tensors = tf.nest.map_structure(tf.convert_to_tensor, (queries, items))
    of_query, of_item = tf.constant(relevant.query), tf.constant(relevant.item)
    all_query_ids, all_item_ids = tf.constant(query_ids), tf.constant(item_ids)
    chosen = None if chosen is None else tf.constant(chosen)

    def gather(pairs):
        rows, columns = tf.gather(of_query, pairs), tf.gather(of_item, pairs)
        query = tf.nest.map_structure(lambda one: tf.gather(one, rows), tensors[0])
        item = tf.nest.map_structure(lambda one: tf.gather(one, columns), tensors[1])
        extras = {"item_ids": tf.gather(all_item_ids, columns), "query_ids": tf.gather(all_query_ids, rows)}
        if chosen is not None:
            wanted = tf.gather(chosen, rows)
            there = tf.maximum(wanted, 0)
            extras["negatives"] = tf.nest.map_structure(lambda one: tf.gather(one, there), tensors[1])
            extras["negative_ids"] = tf.where(wanted < 0, wanted, tf.gather(all_item_ids, there))
        return query, item, extras

    pairs = tf.data.Dataset.range(len(relevant.item))
    if shuffle:
        pairs = pairs.shuffle(len(relevant.item), seed=seed, reshuffle_each_iteration=True)
    return pairs.batch(batch_size, drop_remainder=drop_remainder).map(gather).prefetch(2)


def _arrays(given, name):
    """Convert a nest to arrays of equal, positive length. A list is an array, such as one of texts."""
    arrays = _as_arrays(given)
    leaves = tf.nest.flatten(arrays)
    lengths = sorted({len(leaf) if leaf.ndim else 0 for leaf in leaves})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(
            f"Arrays must have one entry for each of the {name}. Received: {name} of lengths {lengths}. Expected: one "
            "length > 0."
        )
    return arrays


def _as_arrays(given):
    if isinstance(given, Mapping):
        return {key: _as_arrays(part) for key, part in given.items()}
    if isinstance(given, tuple):
        parts = [_as_arrays(part) for part in given]
        return given._make(parts) if hasattr(given, "_make") else tuple(parts)
    return np.asarray(given)


def _ids(given, count, name):
    if given is None:
        return np.arange(count)
    ids = label_column(given, name, count)
    if ids.dtype.kind not in "iu":
        raise TypeError(
            f"Ids must be integers. Received: {name} of type {ids.dtype}. Expected: integers, such as those of "
            "tfdml.data.encode_labels."
        )
    if ids.min() < 0:
        raise ValueError(f"Ids must not be negative. Received: {name} with {ids.min()}. Expected: ids >= 0.")
    return ids.astype(np.int64)


def _check_equal_ids(arrays, ids, name):
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    rows = first[group.reshape(-1)]
    repeated = np.flatnonzero(rows != np.arange(len(ids)))
    wrong = repeated[~_equal_rows(arrays, repeated, arrays, rows[repeated])]
    if len(wrong):
        raise ValueError(
            f"An id names different things. Received: {name} with {ids[wrong[0]]} at the indices {rows[wrong[0]]} and "
            f"{wrong[0]}. Expected: equal content for equal ids."
        )


def _check_shared_ids(queries, query_ids, items, item_ids):
    try:
        tf.nest.assert_same_structure(queries, items)
    except (ValueError, TypeError) as error:
        raise ValueError(
            "Queries and items with shared ids must have the same form. Received: different structures. Expected: the "
            "same keys, or shared_ids=False."
        ) from error
    order = np.argsort(item_ids, kind="stable")
    places = np.minimum(np.searchsorted(item_ids, query_ids, sorter=order), len(item_ids) - 1)
    rows = np.flatnonzero(item_ids[order[places]] == query_ids)
    columns = order[places[rows]]
    wrong = np.flatnonzero(~_equal_rows(queries, rows, items, columns))
    if len(wrong):
        raise ValueError(
            f"An id names different things. Received: shared_ids=True, and {query_ids[rows[wrong[0]]]} for query "
            f"{rows[wrong[0]]} and the different item {columns[wrong[0]]}. Expected: equal content for equal ids, or "
            "shared_ids=False."
        )


def _equal_rows(arrays, rows, others, other_rows):
    """Whether rows of two nests are equal, `(len(rows),)`."""
    equal = np.ones(len(rows), bool)
    for one, other in zip(tf.nest.flatten(arrays), tf.nest.flatten(others)):
        if one.shape[1:] != other.shape[1:]:
            return np.zeros(len(rows), bool)
        equal &= (one[rows] == other[other_rows]).all(axis=tuple(range(1, one.ndim)))
    return equal


def _filled_up(given):
    """Return lists of different lengths as lists of the same length, with -1 for no item."""
    is_of_lists = isinstance(given, (list, tuple)) and all(np.ndim(entry) == 1 for entry in given)
    if not is_of_lists or len({len(entry) for entry in given}) < 2:
        return given
    width = max(len(entry) for entry in given)
    return [[*entry, *[-1] * (width - len(entry))] for entry in given]


def _negatives(given, queries, items, relevant):
    chosen = np.asarray(given.items if isinstance(given, HardNegatives) else _filled_up(given))
    if chosen.ndim != 2 or len(chosen) != queries or chosen.dtype.kind not in "iu":
        raise ValueError(
            f"Negatives must be indices of items, a row for each query. Received: negatives of shape {chosen.shape} "
            f"and type {chosen.dtype}. Expected: integers ({queries}, k)."
        )
    chosen = chosen.astype(np.int64)
    if chosen.size and (chosen.max() >= items or chosen.min() < -1):
        raise ValueError(
            f"An item does not exist. Received: negatives from {chosen.min()} to {chosen.max()}. Expected: indices "
            f"below {items}, or -1 for none."
        )
    keys = np.arange(queries)[:, None] * items + chosen
    both = np.isin(keys, relevant.query * items + relevant.item) & (chosen >= 0)
    if both.any():
        query, place = np.argwhere(both)[0]
        raise ValueError(
            f"An item is both positive and negative. Received: item {chosen[query, place]} for query {query}. "
            "Expected: negatives that are not relevant."
        )
    return chosen
