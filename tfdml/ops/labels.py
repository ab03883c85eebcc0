"""Class labels: integers, and nothing that only looks like them."""

from __future__ import annotations

import numbers

import numpy as np
import tensorflow as tf

from tfdml._utils.types import Labels

_EXPECTED = "Expected: integer class labels. Encode names, codes and other values with `tfdml.data.encode_labels`."
_SHOWN = 5


def integer_labels(labels: Labels) -> tf.Tensor:
    """Class labels as int64, in the shape they have.

    Integers of any width and booleans (0 and 1) are taken. Floats are taken where they hold whole numbers exactly, as
    Keras casts labels to float32 before it calls a loss: finite, not rounded, and below 2²⁴ in size in float32 (2⁵³ in
    float64), since larger integers collide when they are cast. Values are checked eagerly and in graphs. XLA drops
    assertions: `known_labels` tells which labels are sound there.

    Args:
        labels: Tensor or array of any shape.

    Returns:
        An int64 tensor of the same shape.

    Raises:
        ValueError: If the labels are strings or another type that is not a number; outside of a graph also if a value
            is not a whole number.
        tf.errors.InvalidArgumentError: In a graph, if a value is not a whole number.

    Example:
        >>> integer_labels([3.0, 0.0]).numpy().tolist()
        [3, 0]
        >>> integer_labels([0.5, 1.0])
        Traceback (most recent call last):
            ...
        ValueError: Labels must be whole numbers. Received: 0.5 among labels of dtype float32. Expected: integer \
class labels. Encode names, codes and other values with `tfdml.data.encode_labels`.
    """
    labels = as_label_tensor(labels)
    if not labels.dtype.is_floating:
        return tf.cast(labels, tf.int64)
    sound = known_labels(labels)
    message = "Labels must be whole numbers{limit}. Received: {value} among labels of dtype {dtype}. " + _EXPECTED
    if not tf.is_symbolic_tensor(labels):
        wrong = labels.numpy()[~sound.numpy()].reshape(-1).astype("float64")
        if wrong.size:
            limit = f" below {_limit(labels.dtype):g} in size" if np.all(wrong == np.round(wrong)) else ""
            value = ", ".join(f"{value:g}" for value in wrong[:_SHOWN])
            raise ValueError(message.format(limit=limit, value=value, dtype=labels.dtype.name))
        return tf.cast(labels, tf.int64)
    message = message.format(limit=f" below {_limit(labels.dtype):g} in size", value="others", dtype=labels.dtype.name)
    check = tf.debugging.Assert(tf.reduce_all(sound), [message, labels], summarize=_SHOWN)
    return _after(check, tf.cast(tf.where(sound, labels, tf.zeros_like(labels)), tf.int64))


def known_labels(labels: Labels, classes: int | None = None) -> tf.Tensor:
    """Which labels are whole numbers, and name one of the classes.

    Args:
        labels: Tensor of integers or floats, of any shape.
        classes: If given, labels must lie in `0 … classes - 1`.

    Returns:
        A boolean tensor of the same shape.
    """
    labels = as_label_tensor(labels)
    sound = tf.ones_like(labels, tf.bool)
    if labels.dtype.is_floating:
        limit = tf.constant(_limit(labels.dtype), labels.dtype)
        # NaN compares as false, and infinities exceed the limit.
        sound = (tf.round(labels) == labels) & (tf.abs(labels) < limit)
    if classes is not None:
        sound &= (labels >= tf.cast(0, labels.dtype)) & (labels < tf.cast(classes, labels.dtype))
    return sound


def check_label_range(labels: Labels, classes: int, of: str) -> tf.Tensor:
    """Returns the labels if each lies in `0 … classes - 1`.

    Values are checked eagerly and in graphs; XLA drops the assertion.

    Args:
        labels: Integer labels, any shape.
        classes: Number of classes, a Python integer.
        of: What has one entry per class, for the message, such as `"MarginLoss(learn_beta=True, num_classes=8)"`.

    Returns:
        The labels, as a tensor.

    Raises:
        ValueError: Outside of a graph, if a label is out of range.
        tf.errors.InvalidArgumentError: In a graph, if a label is out of range.

    Example:
        >>> check_label_range([1, 2], 2, "ClassProxies(2)")
        Traceback (most recent call last):
            ...
        ValueError: Labels are out of range for ClassProxies(2). Received: 2. Expected: 0 <= label < 2. Renumber \
labels with `tfdml.data.encode_labels`.
    """
    labels = as_label_tensor(labels)
    known = known_labels(labels, classes)
    message = (
        f"Labels are out of range for {of}. Received: {{value}}. Expected: 0 <= label < {classes}. "
        "Renumber labels with `tfdml.data.encode_labels`."
    )
    if not tf.is_symbolic_tensor(labels):
        wrong = np.unique(labels.numpy()[~known.numpy()])
        if wrong.size:
            raise ValueError(message.format(value=", ".join(str(value) for value in wrong[:_SHOWN])))
        return labels
    check = tf.debugging.Assert(tf.reduce_all(known), [message.format(value="others"), labels], summarize=_SHOWN)
    return _after(check, labels)


def label_column(labels, name="labels", count=None):
    """Class labels, one for each sample, as a NumPy vector of the type they have.

    Args:
        labels: array-like or tensor, `(n,)` or `(n, 1)`.
        name: str. What messages call them.
        count: int. The number of samples, if it is known.

    Returns:
        Array `(n,)`.

    Raises:
        ValueError: If they have another shape.
    """
    values = squeeze_column(labels)
    if values.ndim != 1 or count not in (None, len(values)):
        expected = "(n,) or (n, 1)" if count is None else f"({count},) or ({count}, 1)"
        raise ValueError(
            f"Labels must be one for each sample. Received: {name} of shape {np.shape(labels)}. Expected: {expected}."
        )
    return values


def squeeze_column(labels):
    """Labels `(n, 1)` as an array `(n,)`, and others as an array of the shape that they have."""
    values = np.asarray(labels)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def as_label_tensor(labels):
    """The labels as a tensor of the type they have; a ValueError for types that are not numbers."""
    if not tf.is_tensor(labels):
        labels = _plain_array(labels)
    labels = tf.convert_to_tensor(labels)
    if not (labels.dtype.is_integer or labels.dtype.is_floating or labels.dtype == tf.bool):
        raise ValueError(f"Labels must be integers. Received: labels of dtype {labels.dtype.name}. {_EXPECTED}")
    return labels


def _plain_array(labels):
    """Arrays of Python integers as such; arrays that TensorFlow cannot hold end in an error that names the way."""
    array = np.asarray(labels)
    if array.dtype.kind in "biuf" or str(array.dtype) == "bfloat16":
        return labels
    if array.dtype.kind == "O" and all(isinstance(value, numbers.Integral) for value in array.flat):
        return array.astype(np.int64)
    raise ValueError(f"Labels must be integers. Received: labels of dtype {array.dtype}. {_EXPECTED}")


def _limit(dtype):
    """The least whole number of a float type that another integer is rounded to."""
    return {tf.float64: 2.0**53, tf.float32: 2.0**24, tf.float16: 2.0**11, tf.bfloat16: 2.0**8}[dtype]


def _after(check, labels):
    with tf.control_dependencies([check]):
        return tf.identity(labels)
