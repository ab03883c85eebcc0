"""Vectors brought to, or held below, a length."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32

# Products of three such numbers are finite in float32.
LARGEST = 1e12


def l2_normalize(vectors: TensorLike) -> tf.Tensor:
    r"""$v / \lVert v \rVert_2$ along the last axis; a zero vector stays zero, with a finite gradient.

    A vector shorter than 1e-15 counts as zero: it is multiplied by a million, and so is its gradient.
    """
    vectors, _ = into_range(at_least_float32(vectors))
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.where(squared < 1e-30, tf.constant(1e-12, squared.dtype), squared))


def l2_clip(vectors: TensorLike, max_norm: float = 1.0) -> tf.Tensor:
    r"""$v / \max(1, \lVert v \rVert_2 / r)$ along the last axis, $r$ being `max_norm`.

    Unlike $v / \lVert v \rVert_2$ it is Lipschitz continuous, also at 0: what lies in the ball stays where it is.
    """
    vectors, _ = into_range(at_least_float32(vectors), max(LARGEST, max_norm))
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squared / max_norm**2, 1.0))


def into_range(vectors, largest=LARGEST):
    """Scales down vectors whose squares could overflow.

    What is computed of the result and the scale together does not depend on the scale, so it has no gradient.

    Args:
        vectors: float tensor `(..., d)`.
        largest: float. Vectors with a greater number in size are divided by a scale that brings it down to this.

    Returns:
        `(scaled, scale)`: the vectors divided by the scale, and the scale, at least 1, `(..., 1)`.
    """
    greatest = tf.reduce_max(tf.abs(tf.stop_gradient(vectors)), axis=-1, keepdims=True)
    scale = tf.maximum(greatest / largest, 1.0)
    return vectors / scale, scale
