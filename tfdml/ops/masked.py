"""Sums, means, extremes and log-sum-exps of those entries that count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

# Stands for the logarithm of an empty sum: finite, so that nothing built on it becomes NaN, and far below any other.
LOG_OF_NOTHING = -1e30


def masked_sum(values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """The sum of the entries that count; 0 where there is none."""
    return tf.reduce_sum(tf.where(mask, values, tf.zeros_like(values)), axis=axis)


def masked_mean(values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """The mean of the entries that count; 0, with a zero gradient, where there is none."""
    return tf.math.divide_no_nan(masked_sum(values, mask, axis), masked_count(mask, values.dtype, axis))


def masked_count(mask: tf.Tensor, dtype: Any, axis: int | Sequence[int] = -1) -> tf.Tensor:
    """How many entries count."""
    return tf.reduce_sum(tf.cast(mask, dtype), axis=axis)


def masked_logsumexp(values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1) -> tf.Tensor:
    r"""$\log \sum \exp$ of the entries that count.

    Args:
        values: Any shape.
        mask: Boolean, of the same shape.
        axis: What is summed over.

    Returns:
        Without the axis. Where no entry counts, `LOG_OF_NOTHING` with a zero gradient; `softplus` of it is 0.
    """
    nothing = tf.fill(tf.shape(values), tf.constant(LOG_OF_NOTHING, values.dtype))
    values = tf.where(mask, values, nothing)
    largest = tf.stop_gradient(tf.reduce_max(values, axis=axis, keepdims=True))
    # Without an entry each difference would be 0; the mask decides, not the difference.
    total = masked_sum(tf.exp(values - largest), mask, axis)
    some = tf.reduce_any(mask, axis=axis)
    logarithm = tf.math.log(tf.where(some, total, tf.ones_like(total))) + tf.squeeze(largest, axis)
    return tf.where(some, logarithm, tf.fill(tf.shape(logarithm), tf.constant(LOG_OF_NOTHING, values.dtype)))


def masked_max(
    values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1, default: float = -float("inf")
) -> tf.Tensor:
    """The largest entry that counts; `default` where there is none."""
    lowest = tf.fill(tf.shape(values), tf.constant(-float("inf"), values.dtype))
    largest = tf.reduce_max(tf.where(mask, values, lowest), axis=axis)
    return tf.where(tf.reduce_any(mask, axis=axis), largest, tf.fill(tf.shape(largest), tf.cast(default, values.dtype)))


def masked_min(
    values: tf.Tensor, mask: tf.Tensor, axis: int | Sequence[int] = -1, default: float = float("inf")
) -> tf.Tensor:
    """The smallest entry that counts; `default` where there is none."""
    return -masked_max(-values, mask, axis, -default)
