"""Pairwise distances."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdml._utils.types import DistanceName, TensorLike
from tfdml.ops.normalization import l2_normalize
from tfdml.ops.precision import at_least_float32

DISTANCES = ("l2", "squared_l2", "cosine")

# Rounding error of 1 - cos for duplicates, in units of machine epsilon.
_COSINE_RESOLUTION = 8.0


def check_distance(distance: str) -> None:
    """Raise a ValueError unless `pairwise_distances` supports the distance.

    Args:
        distance: str. A name.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> from tfdml import ops
        >>> ops.check_distance("l1")
        Traceback (most recent call last):
            ...
        ValueError: Unknown distance. Received: distance='l1'. Expected: one of ('l2', 'squared_l2', 'cosine').
    """
    if distance not in DISTANCES:
        raise ValueError(f"Unknown distance. Received: distance={distance!r}. Expected: one of {DISTANCES}.")


def pairwise_distances(x: TensorLike, y: TensorLike | None = None, distance: DistanceName = "l2") -> tf.Tensor:
    r"""Compute the distances between all pairs of vectors.

    $$d_{ij} = \lVert x_i - y_j \rVert_2, \quad \lVert x_i - y_j \rVert_2^2
      \quad\text{or}\quad 1 - \frac{x_i^\top y_j}{\lVert x_i \rVert \lVert y_j \rVert}.$$

    The squared distance is $\lVert x \rVert^2 + \lVert y \rVert^2 - 2 x^\top y$: one matrix product and no `(n, m, d)`
    array. Values below the rounding error of that sum, or of $1 - \cos$, cannot be distinguished from 0 and are set to
    0, with a zero gradient. So duplicates have distance 0 exactly, and the square root has finite gradients everywhere.
    In float32 this affects vectors closer to each other than 0.1 % of their lengths: center or normalize vectors that
    are far from the origin.

    Args:
        x: float tensor, `(..., n, d)`. Half precision is computed in float32.
        y: float tensor, `(m, d)` or `(..., m, d)` with the leading axes of `x`; `None` is `x` itself. Default: `None`.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`. Default: `"l2"`.

    Returns:
        Tensor `(..., n, m)`, float64 if `x` is, otherwise float32.

    Raises:
        ValueError: If the distance is unknown.

    Example:
        >>> from tfdml import ops
        >>> ops.pairwise_distances([[0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]]).numpy().tolist()
        [[5.0, 0.0]]
    """
    check_distance(distance)
    same = y is None
    x = at_least_float32(x)
    y = x if same else tf.cast(y, x.dtype)
    if distance == "cosine":
        distances = 1.0 - _inner_products(l2_normalize(x), l2_normalize(y))
        unresolved = distances <= _COSINE_RESOLUTION * np.finfo(x.dtype.as_numpy_dtype).eps
        return tf.where(unresolved, tf.zeros_like(distances), distances)
    squared = _squared_l2(x, y, same)
    if distance == "squared_l2":
        return squared
    zero = squared <= 0.0
    # The inner `where` keeps sqrt away from 0, where its gradient is infinite. NaN stays NaN.
    return tf.where(zero, tf.zeros_like(squared), tf.sqrt(tf.where(zero, tf.ones_like(squared), squared)))


def _squared_l2(x, y, same):
    x_squared = tf.reduce_sum(tf.square(x), axis=-1)[..., :, None]
    y_squared = tf.reduce_sum(tf.square(y), axis=-1)[..., None, :]
    scale = x_squared + y_squared
    squared = scale - 2.0 * _inner_products(x, y)
    resolution = 4.0 * np.finfo(x.dtype.as_numpy_dtype).eps
    unresolved = squared <= tf.stop_gradient(resolution * scale)
    if same:
        unresolved = tf.linalg.set_diag(unresolved, tf.ones(tf.shape(unresolved)[:-1], tf.bool))
    return tf.where(unresolved, tf.zeros_like(squared), squared)


def _inner_products(x, y):
    if y.shape.rank == 2 and x.shape.rank != 2:
        # One large matrix product instead of a batch of small ones.
        flat = tf.matmul(tf.reshape(x, (-1, x.shape[-1] or tf.shape(x)[-1])), y, transpose_b=True)
        products = tf.reshape(flat, tf.concat([tf.shape(x)[:-1], tf.shape(y)[:1]], axis=0))
        products.set_shape([*x.shape[:-1], y.shape[0]])
        return products
    return tf.matmul(x, y, transpose_b=True)
