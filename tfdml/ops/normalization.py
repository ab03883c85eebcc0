"""Vectors brought to, or held below, a length."""

import tensorflow as tf

from tfdml.ops.precision import at_least_float32


def l2_normalize(vectors):
    r"""$v / \lVert v \rVert_2$ along the last axis; a zero vector stays zero, with a finite gradient.

    A vector shorter than 1e-15 counts as zero: it is multiplied by a million, and so is its gradient.
    """
    vectors = at_least_float32(vectors)
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.where(squared < 1e-30, tf.constant(1e-12, squared.dtype), squared))


def l2_clip(vectors, max_norm=1.0):
    r"""$v / \max(1, \lVert v \rVert_2 / r)$ along the last axis, $r$ being `max_norm`.

    Unlike $v / \lVert v \rVert_2$ it is Lipschitz continuous, also at 0: what lies in the ball stays where it is.
    """
    vectors = at_least_float32(vectors)
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squared / max_norm**2, 1.0))
