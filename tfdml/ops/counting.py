"""Counting values below thresholds, row by row, without an array of all (value, threshold) pairs."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike


def count_below(values: TensorLike, mask: TensorLike, thresholds: TensorLike, or_equal: bool = False) -> tf.Tensor:
    """How many of a row's values lie below each of its thresholds.

    The rows are sorted once and searched by halving: O(n log n) in time, O(n) in memory for a row of n, where comparing
    all pairs takes O(n²) of both. It compiles under XLA, whose own `searchsorted` compares all pairs.

    Args:
        values: `(rows, n)`.
        mask: Boolean, `(rows, n)`: the values that count.
        thresholds: `(rows, m)`.
        or_equal: Whether values equal to the threshold count, too.

    Returns:
        Integers, `(rows, m)`; no gradient passes.
    """
    return count_sorted_below(sort_masked(values, mask), thresholds, or_equal)


def sort_masked(values: TensorLike, mask: TensorLike) -> tf.Tensor:
    """Each row's values that count in ascending order, and the largest number in the remaining places; no gradient."""
    values = tf.stop_gradient(tf.convert_to_tensor(values))
    return tf.sort(tf.where(mask, values, tf.fill(tf.shape(values), values.dtype.max)), axis=-1)


def count_sorted_below(ordered: TensorLike, thresholds: TensorLike, or_equal: bool = False) -> tf.Tensor:
    """As `count_below`, for rows that `sort_masked` has ordered."""
    thresholds = tf.stop_gradient(thresholds)
    size = tf.shape(ordered)[-1]
    below = tf.less_equal if or_equal else tf.less

    def halve(step, count):
        further = count + step
        value = tf.gather(ordered, tf.minimum(further, size) - 1, batch_dims=1)
        return step // 2, tf.where((further <= size) & below(value, thresholds), further, count)

    # A power of two that is certainly not below the size.
    largest = tf.cast(tf.math.ceil(tf.math.log(tf.cast(size, tf.float32)) / 0.6931), tf.int32)
    step = tf.bitwise.left_shift(1, largest)
    start = tf.zeros(tf.shape(thresholds), tf.int32)
    _, count = tf.while_loop(lambda step, _: step > 0, halve, (step, start))
    return count
