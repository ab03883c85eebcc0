"""Sums, means, extremes and log-sum-exps of those entries that count."""

import tensorflow as tf

# Stands for the logarithm of an empty sum: finite, so that nothing built on it becomes NaN, and far below any other.
LOG_OF_NOTHING = -1e30


def masked_sum(values, mask, axis=-1):
    """The sum of the entries that count; 0 where there is none."""
    return tf.reduce_sum(tf.where(mask, values, tf.zeros_like(values)), axis=axis)


def masked_mean(values, mask, axis=-1):
    """The mean of the entries that count; 0, with a zero gradient, where there is none."""
    return tf.math.divide_no_nan(masked_sum(values, mask, axis), masked_count(mask, values.dtype, axis))


def masked_count(mask, dtype, axis=-1):
    """How many entries count."""
    return tf.reduce_sum(tf.cast(mask, dtype), axis=axis)


def masked_logsumexp(values, mask, axis=-1):
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


def masked_max(values, mask, axis=-1, default=-float("inf")):
    """The largest entry that counts; `default` where there is none."""
    lowest = tf.fill(tf.shape(values), tf.constant(-float("inf"), values.dtype))
    largest = tf.reduce_max(tf.where(mask, values, lowest), axis=axis)
    return tf.where(tf.reduce_any(mask, axis=axis), largest, tf.fill(tf.shape(largest), tf.cast(default, values.dtype)))


def masked_min(values, mask, axis=-1, default=float("inf")):
    """The smallest entry that counts; `default` where there is none."""
    return -masked_max(-values, mask, axis, -default)
