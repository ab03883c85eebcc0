"""L2 normalization and clipping of vectors."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32

# Products of three such numbers are finite in float32.
LARGEST = 1e12


def l2_normalize(vectors: TensorLike) -> tf.Tensor:
    r"""Scale vectors to unit length, $v / \lVert v \rVert_2$ along the last axis.

    A zero vector stays zero, with a finite gradient. A vector shorter than 1e-15 counts as zero: it is multiplied by a
    million, and so is its gradient.

    Args:
        vectors: float tensor, `(..., d)`. Half precision is computed in float32.

    Returns:
        Tensor of the same shape, float64 if the vectors are, otherwise float32.

    Example:
        >>> from tfdml import ops
        >>> print(ops.l2_normalize([[3.0, 4.0]]).numpy())
        [[0.6 0.8]]
    """
    vectors, _ = into_range(at_least_float32(vectors))
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.where(squared < 1e-30, tf.constant(1e-12, squared.dtype), squared))


def l2_clip(vectors: TensorLike, max_norm: float = 1.0) -> tf.Tensor:
    r"""Clip vectors to a ball, $v / \max(1, \lVert v \rVert_2 / r)$ along the last axis.

    Unlike $v / \lVert v \rVert_2$ it is Lipschitz continuous, even at 0: vectors inside the ball do not change.

    Args:
        vectors: float tensor, `(..., d)`. Half precision is computed in float32.
        max_norm: float, > 0. Radius $r$ of the ball. Default: 1.

    Returns:
        Tensor of the same shape, float64 if the vectors are, otherwise float32.

    Example:
        >>> from tfdml import ops
        >>> print(ops.l2_clip([[3.0, 4.0], [0.3, 0.4]]).numpy())
        [[0.6 0.8]
         [0.3 0.4]]
    """
    vectors, _ = into_range(at_least_float32(vectors), max(LARGEST, max_norm))
    squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
    return vectors * tf.math.rsqrt(tf.maximum(squared / max_norm**2, 1.0))


def into_range(vectors, largest=LARGEST):
    """Scale down vectors whose squares could overflow.

    Results computed from both the scaled vectors and the scale do not depend on the scale, so it has no gradient.

    Args:
        vectors: float tensor, `(..., d)`.
        largest: float. Vectors with an entry of a larger magnitude are divided by a scale that reduces it to this.
            Default: 1e12.

    Returns:
        `(scaled, scale)`, the vectors divided by the scale, and the scale, at least 1, `(..., 1)`.
    """
    greatest = tf.reduce_max(tf.abs(tf.stop_gradient(vectors)), axis=-1, keepdims=True)
    scale = tf.maximum(greatest / largest, 1.0)
    return vectors / scale, scale
