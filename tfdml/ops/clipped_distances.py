"""Distances between vectors clipped to the unit ball."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdml._utils.types import TensorLike
from tfdml.ops.normalization import LARGEST, into_range, l2_clip
from tfdml.ops.precision import at_least_float32


def clipped_distances(x: TensorLike, y: TensorLike) -> tf.Tensor:
    r"""Compute L2 distances between vectors clipped to the unit ball.

    $$d_{ji} = \lVert \bar x_j - \bar y_i \rVert_2, \qquad \bar v = \frac{v}{\max(1, \lVert v \rVert_2)}$$

    Equal to `pairwise_distances(l2_clip(x), l2_clip(y))` in value and gradient, but faster if `x` is large, as local
    features are: the lengths of `x` are divided out of the inner products instead of `x`, and the gradient is explicit.
    With upstream gradients $G$,

    $$\frac{\partial L}{\partial x_j} = k_j x_j - r_j \sum_i h_{ji} \bar y_i, \qquad
      h_{ji} = \frac{G_{ji}}{d_{ji}}, \qquad r_j = \frac{1}{\max(1, \lVert x_j \rVert_2)},$$

    with $k_j = \sum_i h_{ji}$ inside the ball, and $k_j = r_j^3 \sum_i h_{ji} x_j^\top \bar y_i$ outside of it, which
    removes the radial part.

    Args:
        x: float tensor, `(..., n, d)` with static d. Half precision is computed in float32.
        y: float tensor, `(m, d)`.

    Returns:
        Tensor `(..., n, m)`, float64 if `x` is, otherwise float32. If two vectors cannot be distinguished in that
        precision, the distance and its gradient are 0.

    Example:
        >>> from tfdml import ops
        >>> ops.clipped_distances([[3.0, 0.0]], [[0.5, 0.0], [2.0, 0.0]]).numpy().tolist()
        [[0.5, 0.0]]
    """
    x = at_least_float32(x)
    y = l2_clip(tf.cast(y, x.dtype))
    resolution = x.dtype.as_numpy_dtype(4.0 * np.finfo(x.dtype.as_numpy_dtype).eps)
    shape = tf.concat([tf.shape(x)[:-1], tf.shape(y)[:1]], axis=0)

    @tf.custom_gradient
    def distances(x, y):
        vectors = tf.reshape(x, (-1, x.shape[-1]))
        squared = tf.reduce_sum(tf.square(vectors), axis=-1, keepdims=True)
        overflows = tf.reduce_any(squared > LARGEST**2)
        scale = tf.cond(
            overflows, lambda: _inverse_lengths(vectors, squared), lambda: tf.math.rsqrt(tf.maximum(squared, 1.0))
        )
        products = tf.matmul(vectors, y, transpose_b=True)
        total = tf.minimum(squared, 1.0) + tf.reduce_sum(tf.square(y), axis=-1)
        apart = total - (2.0 * scale) * products
        # The comparison is false for NaN, so NaN stays NaN.
        lengths = tf.sqrt(tf.where(apart <= resolution * total, tf.zeros_like(apart), apart))

        def gradient(upstream):
            pull = tf.math.divide_no_nan(tf.reshape(upstream, tf.shape(lengths)), lengths)
            scaled = scale * pull
            along = tf.where(
                squared <= 1.0,
                tf.reduce_sum(pull, axis=-1, keepdims=True),
                scale * tf.reduce_sum(scaled * products, axis=-1, keepdims=True),
            )
            # The squared scale of a long vector underflows. Grappler would reorder factors, but not a division.
            radial = tf.cond(overflows, lambda: along * (vectors / (1.0 / scale)), lambda: (along * scale) * vectors)
            of_x = radial - tf.matmul(scaled, y)
            of_y = tf.reduce_sum(pull, axis=0)[:, None] * y - tf.matmul(scaled, vectors, transpose_a=True)
            return tf.reshape(of_x, tf.shape(x)), of_y

        return tf.reshape(lengths, shape), gradient

    result = distances(x, y)
    result.set_shape([*x.shape[:-1], y.shape[0]])
    return result


def _inverse_lengths(vectors, squared):
    """1 / max(1, length) of vectors `(n, d)`, including those whose squares overflow; `(n, 1)`."""
    scaled, scale = into_range(vectors)
    lengths = tf.sqrt(tf.reduce_sum(tf.square(scaled), axis=-1, keepdims=True))
    return tf.where(squared > LARGEST**2, 1.0 / lengths / scale, tf.math.rsqrt(tf.maximum(squared, 1.0)))
