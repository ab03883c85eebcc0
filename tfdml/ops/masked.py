"""Sums, means, extrema and log-sum-exp of masked entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# The logarithm of an empty sum: finite, so that no result becomes NaN, and far below any other logarithm.
LOG_OF_NOTHING = -1e30


def masked_sum(values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """Sum the masked entries; 0 if there are none.

    Args:
        values: Tensor of any shape.
        mask: bool tensor of the same shape. The entries that count.
        axis: int or sequence of ints. The axis to reduce. Default: -1.

    Returns:
        Tensor without the axis.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> mask = tf.constant([[True, True], [False, False]])
        >>> ops.masked_sum(tf.constant([[1.0, 2.0], [3.0, 4.0]]), mask).numpy().tolist()
        [3.0, 0.0]
    """
    return tf.reduce_sum(tf.where(mask, values, tf.zeros_like(values)), axis=axis)


def masked_mean(values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """Average the masked entries; 0, with a zero gradient, if there are none.

    Args:
        values: Tensor of any shape.
        mask: bool tensor of the same shape. The entries that count.
        axis: int or sequence of ints. The axis to reduce. Default: -1.

    Returns:
        Tensor without the axis.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> float(ops.masked_mean(tf.constant([1.0, 2.0, 9.0]), tf.constant([True, True, False])))
        1.5
    """
    return tf.math.divide_no_nan(masked_sum(values, mask, axis), masked_count(mask, values.dtype, axis))


def masked_count(mask: tf.Tensor, dtype: Any, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """Count the masked entries.

    Args:
        mask: bool tensor of any shape.
        dtype: Type of the result.
        axis: int or sequence of ints. The axis to reduce. Default: -1.

    Returns:
        Tensor without the axis.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> float(ops.masked_count(tf.constant([True, True, False]), "float32"))
        2.0
    """
    return tf.reduce_sum(tf.cast(mask, dtype), axis=axis)


def masked_logsumexp(values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1) -> tf.Tensor:
    r"""Compute $\log \sum \exp$ of the masked entries.

    Args:
        values: Tensor of any shape.
        mask: bool tensor of the same shape. The entries that count.
        axis: int or sequence of ints. The axis to reduce. Default: -1.

    Returns:
        Tensor without the axis. Without any entry it is `LOG_OF_NOTHING`, with a zero gradient, and its `softplus` is
        0.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> found = ops.masked_logsumexp(tf.constant([0.0, 0.0, 9.0]), tf.constant([True, True, False]))
        >>> round(float(found), 4)  # log 2
        0.6931
    """
    nothing = tf.fill(tf.shape(values), tf.constant(LOG_OF_NOTHING, values.dtype))
    values = tf.where(mask, values, nothing)
    largest = tf.stop_gradient(tf.reduce_max(values, axis=axis, keepdims=True))
    # Without any entry all differences are 0, so the sum must use the mask.
    total = masked_sum(tf.exp(values - largest), mask, axis)
    some = tf.reduce_any(mask, axis=axis)
    logarithm = tf.math.log(tf.where(some, total, tf.ones_like(total))) + tf.squeeze(largest, axis)
    return tf.where(some, logarithm, tf.fill(tf.shape(logarithm), tf.constant(LOG_OF_NOTHING, values.dtype)))


def masked_max(
    values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1, default: float = -float("inf")
) -> tf.Tensor:
    """Find the largest masked entry; `default` if there are none.

    Args:
        values: Tensor of any shape.
        mask: bool tensor of the same shape. The entries that count.
        axis: int or sequence of ints. The axis to reduce. Default: -1.
        default: float. The result without any entry. Default: -inf.

    Returns:
        Tensor without the axis.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> float(ops.masked_max(tf.constant([1.0, 2.0, 9.0]), tf.constant([True, True, False])))
        2.0
    """
    lowest = tf.fill(tf.shape(values), tf.constant(-float("inf"), values.dtype))
    largest = tf.reduce_max(tf.where(mask, values, lowest), axis=axis)
    return tf.where(tf.reduce_any(mask, axis=axis), largest, tf.fill(tf.shape(largest), tf.cast(default, values.dtype)))


def masked_min(
    values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1, default: float = float("inf")
) -> tf.Tensor:
    """Find the smallest masked entry; `default` if there are none.

    Args:
        values: Tensor of any shape.
        mask: bool tensor of the same shape. The entries that count.
        axis: int or sequence of ints. The axis to reduce. Default: -1.
        default: float. The result without any entry. Default: inf.

    Returns:
        Tensor without the axis.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> float(ops.masked_min(tf.constant([1.0, 2.0, 0.0]), tf.constant([True, True, False])))
        1.0
    """
    return -masked_max(-values, mask, axis, -default)
