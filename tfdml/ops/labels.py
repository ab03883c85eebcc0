"""Validation of class labels."""

from __future__ import annotations

import numbers

import numpy as np
import tensorflow as tf

from tfdml._utils.types import Labels

_EXPECTED = "Expected: integer class labels. Encode names, codes and other values with `tfdml.data.encode_labels`."
_SHOWN = 5


def integer_labels(labels: Labels) -> tf.Tensor:
    """Convert class labels to int64, or raise an error if they are not integers.

    Integers of any width and booleans (0 and 1) are accepted. Floats are accepted if they are exact whole numbers,
    because Keras casts labels to float32 before it calls a loss: finite, not fractional, and below 2²⁴ in magnitude in
    float32 (2⁵³ in float64), since larger integers collide when they are cast. Values are checked eagerly and in
    graphs. XLA drops assertions; use `known_labels` there.

    Args:
        labels: Tensor or array of any shape.

    Returns:
        int64 tensor of the same shape.

    Raises:
        ValueError: If the labels are strings or another type that is not numeric; outside of a graph also if a value is
            not a whole number.
        tf.errors.InvalidArgumentError: In a graph, if a value is not a whole number.

    Example:
        >>> from tfdml import ops
        >>> ops.integer_labels([3.0, 0.0]).numpy().tolist()
        [3, 0]
        >>> ops.integer_labels([0.5, 1.0])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: Labels must be whole numbers. Received: 0.5 among labels of dtype float32. Expected: ...
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
    """Find the labels that are whole numbers, and within range if the number of classes is given.

    Args:
        labels: int or float tensor of any shape.
        classes: int or `None`. If given, labels must lie in `0 … classes - 1`. Default: `None`.

    Returns:
        bool tensor of the same shape.

    Example:
        >>> from tfdml import ops
        >>> ops.known_labels([0, 2, -1], classes=2).numpy().tolist()
        [True, False, False]
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
    """Return the labels if all lie in `0 … classes - 1`, or raise an error.

    Values are checked eagerly and in graphs; XLA drops the assertion.

    Args:
        labels: int tensor of any shape.
        classes: int. Number of classes.
        of: str. What has one entry per class, for the message, such as `"MarginLoss(learn_beta=True, num_classes=8)"`.

    Returns:
        The labels, as a tensor.

    Raises:
        ValueError: Outside of a graph, if a label is out of range.
        tf.errors.InvalidArgumentError: In a graph, if a label is out of range.

    Example:
        >>> from tfdml import ops
        >>> ops.check_label_range([1, 2], 2, "ClassProxies(2)")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: Labels are out of range for ClassProxies(2). Received: 2. Expected: 0 <= label < 2. ...
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
    """Convert class labels, one per sample, to a NumPy vector without changing their type.

    Args:
        labels: Array or tensor, `(n,)` or `(n, 1)`.
        name: str. Name of the argument in error messages. Default: `"labels"`.
        count: int or `None`. The expected number of samples. Default: `None`.

    Returns:
        Array `(n,)`.

    Raises:
        ValueError: If the shape is different.
    """
    values = squeeze_column(labels)
    if values.ndim != 1 or count not in (None, len(values)):
        expected = "(n,) or (n, 1)" if count is None else f"({count},) or ({count}, 1)"
        raise ValueError(
            f"Labels must be one for each sample. Received: {name} of shape {np.shape(labels)}. Expected: {expected}."
        )
    return values


def squeeze_column(labels):
    """Convert labels `(n, 1)` to an array `(n,)`; other shapes are kept."""
    values = np.asarray(labels)
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def as_label_tensor(labels):
    """Convert labels to a tensor without changing their type; raise a ValueError for types that are not numeric."""
    if not tf.is_tensor(labels):
        labels = _plain_array(labels)
    labels = tf.convert_to_tensor(labels)
    if not (labels.dtype.is_integer or labels.dtype.is_floating or labels.dtype == tf.bool):
        raise ValueError(f"Labels must be integers. Received: labels of dtype {labels.dtype.name}. {_EXPECTED}")
    return labels


def _plain_array(labels):
    """Convert arrays of Python integers to int64; raise a helpful error for arrays that TensorFlow cannot represent."""
    array = np.asarray(labels)
    if array.dtype.kind in "biuf" or str(array.dtype) == "bfloat16":
        return labels
    if array.dtype.kind == "O" and all(isinstance(value, numbers.Integral) for value in array.flat):
        return array.astype(np.int64)
    raise ValueError(f"Labels must be integers. Received: labels of dtype {array.dtype}. {_EXPECTED}")


def _limit(dtype):
    """The smallest whole number of a float type that another integer is rounded to."""
    return {tf.float64: 2.0**53, tf.float32: 2.0**24, tf.float16: 2.0**11, tf.bfloat16: 2.0**8}[dtype]


def _after(check, labels):
    with tf.control_dependencies([check]):
        return tf.identity(labels)
