"""Embeddings and labels as the metrics take them in."""

import numbers

import numpy as np

from tfdml.ops.labels import label_column

_HELD_BY_FLOAT32 = ("float16", "bfloat16", "bool", "int8", "uint8", "int16", "uint16")


def as_embeddings(embeddings, name="embeddings"):
    """Embeddings as a NumPy matrix in float32, or in float64 where float32 does not hold their values.

    Args:
        embeddings: `(n, d)`: NumPy, a tensor or nested lists; any real type.
        name: How messages call them.

    Returns:
        `(n, d)` array.

    Raises:
        ValueError: If the rank is not 2, there is no vector or no dimension, or values are not finite.
        TypeError: If they are no real numbers.
    """
    array = np.asarray(embeddings)
    if array.dtype.name in _HELD_BY_FLOAT32:
        array = array.astype(np.float32)
    elif array.dtype.kind in "iuf" and array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"Received: {name} of type {array.dtype}; expected real numbers.")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"Received: {name} of shape {array.shape}; expected (n, d) with n >= 1 and d >= 1.")
    # In parts: the answer for every number at once would be a quarter of a copy.
    step = max(1, 2**22 // array.shape[1])
    finite = (np.isfinite(array[start : start + step]).all(axis=1) for start in range(0, len(array), step))
    bad = len(array) - sum(np.count_nonzero(rows) for rows in finite)
    if bad:
        raise ValueError(
            f"Received: {name} with NaN or infinity in {bad} of {len(array)} rows; expected finite values."
        )
    return array


def same_space(embeddings, others, name="embeddings", other_name="reference_embeddings"):
    """Checks that two sets have one dimension and gives both in one type."""
    if embeddings.shape[1] != others.shape[1]:
        raise ValueError(
            f"Received: {name} of shape {embeddings.shape} and {other_name} of shape {others.shape}; "
            "expected the same second axis."
        )
    common = np.result_type(embeddings, others)
    return embeddings.astype(common, copy=False), others.astype(common, copy=False)


def as_labels(labels, count, name="labels"):
    """Labels as a NumPy vector of integers or of strings; integers keep all their digits.

    Args:
        labels: `(count,)` or `(count, 1)` integers, booleans or strings: NumPy, a tensor or a list.
        count: Their number.
        name: How messages call them.

    Returns:
        `(count,)` array of int64, of strings, or, for integers beyond int64, of Python's integers.

    Raises:
        ValueError: If they have another shape.
        TypeError: If they are neither integers nor strings.
    """
    array = label_column(labels, name, count)
    kind = array.dtype.kind
    if kind in "bi":
        return array.astype(np.int64)
    if kind == "u":
        return array.astype(np.int64 if array.max() <= np.iinfo(np.int64).max else object)
    if kind == "T":
        # NumPy 2's StringDType.
        return np.array(array.tolist(), str)
    if kind == "U":
        return array
    if kind == "S":
        return np.char.decode(array, "utf-8")
    if kind == "O":
        # Such are string tensors (bytes), NumPy's object arrays of strings, and integers beyond int64.
        if all(isinstance(label, (str, bytes)) for label in array):
            return np.array([label.decode("utf-8") if isinstance(label, bytes) else label for label in array])
        if all(isinstance(label, numbers.Integral) for label in array):
            return array
    raise TypeError(
        f"Received: {name} of type {array.dtype}; expected integers or strings "
        "(large class ids would collide as floats)."
    )


def class_numbers(labels, others):
    """Numbers the classes of two label vectors from 0, the same class by the same number.

    Args:
        labels: As `as_labels` gives.
        others: The same; may be the very same vector.

    Returns:
        Two int64 vectors.

    Raises:
        TypeError: If one holds strings and the other integers.
    """
    if others is labels:
        numbered = np.unique(labels, return_inverse=True)[1]
        return numbered, numbered
    if (labels.dtype.kind == "U") != (others.dtype.kind == "U"):
        raise TypeError(
            f"Received: labels of type {labels.dtype} and reference_labels of type {others.dtype}; "
            "expected integers in both or strings in both."
        )
    numbered = np.unique(np.concatenate([labels, others]), return_inverse=True)[1]
    return numbered[: len(labels)], numbered[len(labels) :]
