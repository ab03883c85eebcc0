"""Row-wise counts of values below thresholds, without an array of all (value, threshold) pairs."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike


def count_below(values: TensorLike, mask: TensorLike, thresholds: TensorLike, or_equal: bool = False) -> tf.Tensor:
    """Count the values of each row that are below each of its thresholds.

    Rows are sorted once and searched by bisection: O(n log n) in time and O(n) in memory for a row of n, where
    comparing all pairs takes O(n²) of both. Compiles under XLA, whose own `searchsorted` compares all pairs.

    Args:
        values: Tensor `(rows, n)`.
        mask: bool tensor `(rows, n)`. The values that count.
        thresholds: Tensor `(rows, m)`.
        or_equal: bool. Whether to count values equal to the threshold. Default: `False`.

    Returns:
        int32 tensor `(rows, m)`, without a gradient.

    Example:
        >>> from tfdml import ops
        >>> ops.count_below([[3.0, 1.0, 2.0]], [[True, True, False]], [[2.5, 9.0]]).numpy().tolist()
        [[1, 2]]
    """
    return count_sorted_below(sort_masked(values, mask), thresholds, or_equal)


def sort_masked(values: TensorLike, mask: TensorLike) -> tf.Tensor:
    """Sort the masked values of each row in ascending order, followed by the largest number of the dtype.

    Args:
        values: Tensor `(rows, n)`.
        mask: bool tensor `(rows, n)`. The values that count.

    Returns:
        Tensor `(rows, n)`, without a gradient.

    Example:
        >>> from tfdml import ops
        >>> ops.sort_masked([[3.0, 1.0, 2.0]], [[True, True, False]])[:, :2].numpy().tolist()
        [[1.0, 3.0]]
    """
    values = tf.stop_gradient(tf.convert_to_tensor(values))
    return tf.sort(tf.where(mask, values, tf.fill(tf.shape(values), values.dtype.max)), axis=-1)


def count_sorted_below(ordered: TensorLike, thresholds: TensorLike, or_equal: bool = False) -> tf.Tensor:
    """Count as `count_below`, in rows sorted by `sort_masked`.

    Args:
        ordered: Tensor `(rows, n)` from `sort_masked`.
        thresholds, or_equal: As for `count_below`.

    Returns:
        int32 tensor `(rows, m)`, without a gradient.

    Example:
        >>> from tfdml import ops
        >>> ops.count_sorted_below([[1.0, 2.0, 3.0]], [[2.0]], or_equal=True).numpy().tolist()
        [[2]]
    """
    thresholds = tf.stop_gradient(thresholds)
    size = tf.shape(ordered)[-1]
    below = tf.less_equal if or_equal else tf.less

    def halve(step, count):
        further = count + step
        value = tf.gather(ordered, tf.minimum(further, size) - 1, batch_dims=1)
        return step // 2, tf.where((further <= size) & below(value, thresholds), further, count)

    # A power of two that is at least the size.
    largest = tf.cast(tf.math.ceil(tf.math.log(tf.cast(size, tf.float32)) / 0.6931), tf.int32)
    step = tf.bitwise.left_shift(1, largest)
    start = tf.zeros(tf.shape(thresholds), tf.int32)
    _, count = tf.while_loop(lambda step, _: step > 0, halve, (step, start))
    return count
