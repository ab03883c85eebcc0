"""Encode class labels as integers from 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfdml._utils.types import Labels
from tfdml.ops.labels import label_column


def encode_labels(labels: Labels, names: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Encode class labels as integers from 0.

    Use it for labels that are strings or integers with gaps; losses and samplers need integers without gaps.

    Args:
        labels: Array or sequence `(n,)` or `(n, 1)` of strings, integers or other values that can be sorted.
        names: Sequence of names returned by an earlier call, to encode other samples of the same classes consistently.
            `None` uses the distinct labels in sorted order. Default `None`.

    Returns:
        Pair (integers, names): int64 array `(n,)` such that `names[integers[i]]` is the i-th label, and a tuple of
        names.

    Raises:
        ValueError: If a label is missing (`None` or NaN) or not in `names`, or labels are not a column.
        TypeError: If labels have different types that cannot be sorted together.

    Example:
        >>> integers, names = encode_labels(["oak", "ash", "oak", "elm"])
        >>> integers.tolist(), names
        ([2, 0, 2, 1], ('ash', 'elm', 'oak'))
        >>> encode_labels(["elm"], names)[0].tolist()
        [1]
    """
    values = _values(labels)
    distinct, integers = np.unique(values, return_inverse=True) if len(values) else (values, np.zeros(0, int))
    if names is None:
        return integers.reshape(-1).astype(np.int64), tuple(distinct.tolist())
    names = tuple(names)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = [value for value in distinct.tolist() if value not in numbers]
    if unknown:
        raise ValueError(
            f"Labels are not among the names. Received: {', '.join(map(repr, unknown[:5]))}. Expected: one of "
            f"{len(names)} names, {', '.join(map(repr, names[:5]))}{', …' if len(names) > 5 else ''}."
        )
    table = np.array([numbers[value] for value in distinct.tolist()], np.int64)
    return table[integers.reshape(-1)], names


def _values(labels):
    values = label_column(labels)
    if values.dtype.kind == "T":
        values = values.astype(object)
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and any(isinstance(value, bytes) for value in values)):
        # TensorFlow returns strings as bytes.
        values = np.array([value.decode() if isinstance(value, bytes) else value for value in values], object)
    is_missing = values != values if values.dtype.kind in "fcO" else np.zeros(len(values), bool)
    if values.dtype.kind == "O":
        is_missing |= np.array([value is None for value in values], bool)
    if is_missing.any():
        raise ValueError(
            f"Labels are missing. Received: {values[int(np.argmax(is_missing))]} at {int(np.argmax(is_missing))}. "
            "Expected: a label for each sample."
        )
    if values.dtype.kind == "O":
        kinds = sorted({type(value).__name__ for value in values})
        if len(kinds) > 1:
            raise TypeError(f"Labels must have one type. Received: {', '.join(kinds)}. Expected: only strings.")
    return values
