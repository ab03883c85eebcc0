"""Ids, labels and metadata of the items of a gallery."""

from __future__ import annotations

import collections
import json

import numpy as np

from tfdml._utils.arguments import is_integer
from tfdml.metrics.inputs import as_labels


class Items:
    """Ids, labels and metadata in the order of the vectors.

    Args:
        ids: List of int or of str. Default: empty.
        labels: List of int, str or `None`. Default: empty.
        metadata: List of what JSON holds, or `None`. Default: empty.
    """

    def __init__(self, ids=(), labels=(), metadata=()):
        self.ids, self.labels, self.metadata = list(ids), list(labels), list(metadata)
        self.row_of = {item: row for row, item in enumerate(self.ids)}
        self.next_id = 1 + max((item for item in self.ids if is_integer(item)), default=-1)

    def __len__(self):
        return len(self.ids)

    def checked_ids(self, ids, count):
        """Return a list of new ids of the type of the present ones; `None` numbers them from the next unused integer.

        Raises:
            TypeError: If ids are neither integers nor strings, or of another type than the present ones.
            ValueError: If there are not `count` of them, or one is given twice.
        """
        ids = list(range(self.next_id, self.next_id + count)) if ids is None else as_ids(ids)
        if len(ids) != count:
            raise ValueError(
                f"The numbers of ids and items differ. Received: {len(ids)} ids for {count} items. Expected: {count} "
                "ids."
            )
        if len(set(ids)) != len(ids):
            raise ValueError(f"Ids are given twice. Received: {_shown(_twice(ids))}. Expected: different ids.")
        kind = type(self.ids[0]) if self.ids else type(ids[0])
        other = [item for item in ids if type(item) is not kind]
        if other:
            raise TypeError(
                f"Ids of one gallery are all integers or all strings. Received: {_shown(other)}. Expected: ids of type "
                f"{kind.__name__}. Pass ids=."
            )
        return ids

    def rows(self, ids):
        """Return the rows of present ids, or raise a KeyError."""
        ids = as_ids(ids)
        missing = [item for item in ids if item not in self.row_of]
        if missing:
            raise KeyError(f"Ids are not in the gallery. Received: {_shown(missing)}. Expected: ids that were added.")
        if len(set(ids)) != len(ids):
            raise ValueError(f"Ids are given twice. Received: {_shown(_twice(ids))}. Expected: different ids.")
        return np.array([self.row_of[item] for item in ids], np.int64)

    def append(self, ids, labels, metadata):
        """Add checked items at the end."""
        self.row_of.update(zip(ids, range(len(self.ids), len(self.ids) + len(ids))))
        self.ids += ids
        self.labels += labels
        self.metadata += metadata
        self.next_id = max(self.next_id, 1 + max((item for item in ids if is_integer(item)), default=-1))

    def columns(self, rows):
        """Return ids, and labels as objects, in the shape of an int array of rows."""
        flat = rows.ravel().tolist()
        ids, given = np.array([*map(self.ids.__getitem__, flat)]), [*map(self.labels.__getitem__, flat)]
        # Object arrays, so that labels of different types stay what they are.
        labels = np.empty(rows.size, object)
        labels[:] = given
        return ids.reshape(rows.shape), labels.reshape(rows.shape)

    def keep(self, kept):
        """Keep only the rows of a boolean mask `(n,)`, in order. Ids are not given again."""
        columns = (self.ids, self.labels, self.metadata)
        self.ids, self.labels, self.metadata = ([value for value, keep in zip(c, kept) if keep] for c in columns)
        self.row_of = {item: row for row, item in enumerate(self.ids)}


def as_ids(ids):
    """Return ids as a list of int or str, or raise a TypeError."""
    if isinstance(ids, str) or not np.iterable(ids):
        ids = [ids]
    ids = [str(item) if isinstance(item, str) else item for item in ids]
    wrong = [item for item in ids if not isinstance(item, str) and not is_integer(item)]
    if wrong:
        raise TypeError(f"Ids have the wrong type. Received: {_shown(wrong)}. Expected: integers or strings.")
    ids = [item if isinstance(item, str) else int(item) for item in ids]
    # Results hold ids as int64.
    large = [item for item in ids if not isinstance(item, str) and not -(2**63) <= item < 2**63]
    if large:
        raise ValueError(f"Ids are out of range. Received: {_shown(large)}. Expected: integers of 64 bits, or strings.")
    return ids


def checked_labels(labels, count):
    """Return `count` labels as a list of int or str; `None` means that the items have none."""
    return [None] * count if labels is None else as_labels(labels, count).tolist()


def checked_metadata(metadata, count):
    """Return `count` copies of metadata as JSON holds them, or raise a TypeError or ValueError."""
    if metadata is None:
        return [None] * count
    if isinstance(metadata, (str, dict)) or len(metadata) != count:
        raise ValueError(
            f"Each item has one entry of metadata. Received: {type(metadata).__name__} of length {len(metadata)} for "
            f"{count} items. Expected: a list."
        )
    copies = []
    for number, entry in enumerate(metadata):
        try:
            copy = json.loads(json.dumps(entry, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"JSON cannot hold metadata. Received: {entry!r} as number {number} ({error}). Expected: dicts with "
                "str keys, lists, str, finite numbers, booleans and None."
            ) from error
        copies.append(copy)
    return copies


def _twice(ids):
    return [item for item, count in collections.Counter(ids).items() if count > 1]


def _shown(ids, limit=5):
    more = f", and {len(ids) - limit} more" if len(ids) > limit else ""
    return ", ".join(map(repr, ids[:limit])) + more
