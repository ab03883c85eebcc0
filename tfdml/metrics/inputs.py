"""Validation and conversion of the embeddings and labels that metrics receive."""

import numbers

import numpy as np

from tfdml.ops.labels import label_column

_HELD_BY_FLOAT32 = ("float16", "bfloat16", "bool", "int8", "uint8", "int16", "uint16")


def as_embeddings(embeddings, name="embeddings"):
    """Convert embeddings to a float32 matrix, or to float64 if float32 cannot represent the values.

    Args:
        embeddings: `(n, d)`, a NumPy array, a tensor or nested lists of any real type.
        name: str. Name of the argument in error messages.

    Returns:
        Array `(n, d)`.

    Raises:
        ValueError: If the rank is not 2, an axis is empty, or values are not finite.
        TypeError: If the values are not real numbers.
    """
    array = np.asarray(embeddings)
    if array.dtype.name in _HELD_BY_FLOAT32:
        array = array.astype(np.float32)
    elif array.dtype.kind in "iuf" and array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.dtype not in (np.float32, np.float64):
        raise TypeError(f"Embeddings are not numbers. Received: {name} of type {array.dtype}. Expected: real numbers.")
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"Embeddings have the wrong shape. Received: {name} of shape {array.shape}. Expected: (n, d) with n >= 1 "
            "and d >= 1."
        )
    # In parts: a mask of all values at once would need a quarter of the memory of the embeddings.
    step = max(1, 2**22 // array.shape[1])
    finite = (np.isfinite(array[start : start + step]).all(axis=1) for start in range(0, len(array), step))
    bad = len(array) - sum(np.count_nonzero(rows) for rows in finite)
    if bad:
        raise ValueError(
            f"Embeddings are not finite. Received: {name} with NaN or infinity in {bad} of {len(array)} rows. "
            "Expected: finite values."
        )
    return array


def same_space(embeddings, others, name="embeddings", other_name="reference_embeddings"):
    """Check that two sets of vectors have the same dimension, and convert them to a common type."""
    if embeddings.shape[1] != others.shape[1]:
        raise ValueError(
            f"Embeddings differ in size. Received: {name} of shape {embeddings.shape} and {other_name} of shape "
            f"{others.shape}. Expected: the same second axis."
        )
    common = np.result_type(embeddings, others)
    return embeddings.astype(common, copy=False), others.astype(common, copy=False)


def as_labels(labels, count, name="labels"):
    """Convert labels to a NumPy vector of integers or strings, without loss of digits.

    Args:
        labels: `(count,)` or `(count, 1)` integers, booleans or strings; a NumPy array, a tensor or a list.
        count: int. The expected number of labels.
        name: str. Name of the argument in error messages.

    Returns:
        Array `(count,)` of int64, of strings, or of Python integers for values beyond int64.

    Raises:
        ValueError: If the shape is different.
        TypeError: If the labels are neither integers nor strings.
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
        # String tensors (bytes), object arrays of strings, and integers beyond int64.
        if all(isinstance(label, (str, bytes)) for label in array):
            return np.array([label.decode("utf-8") if isinstance(label, bytes) else label for label in array])
        if all(isinstance(label, numbers.Integral) for label in array):
            return array
    raise TypeError(
        f"Labels have the wrong type. Received: {name} of type {array.dtype}. Expected: integers or strings. Large "
        "class ids collide as floats."
    )


def class_numbers(labels, others, names=("labels", "reference_labels")):
    """Number the classes of two label vectors from 0, with the same number for the same class.

    Args:
        labels: Vector from `as_labels`.
        others: The same; may be the same object.
        names: Pair of str. Names of both in error messages. Default: ("labels", "reference_labels").

    Returns:
        Two int64 vectors.

    Raises:
        TypeError: If one vector contains strings and the other integers.
    """
    if others is labels:
        numbered = np.unique(labels, return_inverse=True)[1]
        return numbered, numbered
    if (labels.dtype.kind == "U") != (others.dtype.kind == "U"):
        raise TypeError(
            f"Labels differ in type. Received: {names[0]} of type {labels.dtype} and {names[1]} of type "
            f"{others.dtype}. Expected: integers in both or strings in both."
        )
    numbered = np.unique(np.concatenate([labels, others]), return_inverse=True)[1]
    return numbered[: len(labels)], numbered[len(labels) :]
