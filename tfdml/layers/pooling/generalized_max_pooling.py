"""Generalized max pooling."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_positive
from tfdml.layers.pooling.base import Pooling
from tfdml.ops.normalization import LARGEST


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedMaxPooling(Pooling):
    r"""The vector that is about equally similar to all local features, no matter how often each occurs.

    Use it if frequent features (background, texture) should not dominate rare ones. It has no parameters.

    $$v = \arg\min_v \sum_j (f_j^\top v - 1)^2 + \lambda \lVert v \rVert_2^2 = F^\top \alpha, \qquad
      (F F^\top + \lambda I) \, \alpha = 1,$$

    for the $n \times d$ matrix $F$ of an image's features. With fewer channels than places, the smaller system
    $(F^\top F + \lambda I) \, v = F^\top 1$ is solved instead, with the same result. The solver is a Cholesky
    decomposition in at least float32, with the implicit gradient. $\lambda$ is raised if it is lost to rounding, which
    in float32 happens from $\lVert F \rVert^2_F$ of about $5 \cdot 10^5 \lambda$. $\lambda \to \infty$ is the direction
    of average pooling. On one-hot features the limit $\lambda \to 0$ is max pooling, hence the name.

    Args:
        ridge: float, > 0. $\lambda$, in units of squared features. The paper selects it by cross-validation. Default:
            1, as in the code of the thesis' author.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features. There are no `pooling_weights`, because the $\alpha_j$ may be negative.

    Raises:
        ValueError: If `ridge` is not positive.

    Reference:
        Murray and Perronnin, "Generalized max pooling", CVPR 2014, equations 5 to 7; Murray, Jégou, Perronnin and
        Zisserman, "Interferences in match kernels", PAMI 2016.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> features = tf.constant([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> print(pooling.GeneralizedMaxPooling(ridge=1e-3)(features).numpy().round(2))
        [[1. 1.]]
    """

    def __init__(self, ridge: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ridge = check_positive("ridge", ridge)

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        # Scale features whose squares overflow by 1/s, λ by 1/s², and the solution by 1/s: the result is the same.
        largest = tf.reduce_max(tf.abs(tf.stop_gradient(features)), axis=(1, 2))
        scale = tf.maximum(largest / LARGEST, 1.0)
        pooled = self._pool(features / scale[:, None, None], self.ridge / scale / scale)
        return pooled / scale[:, None]

    def _pool(self, features, ridge):
        ones = tf.ones_like(features[..., 0])
        if features.shape[1] is not None and features.shape[1] <= features.shape[2]:
            weights = _solve(_regularize(tf.matmul(features, features, transpose_b=True), ridge), ones)
            return tf.linalg.matvec(features, weights, transpose_a=True)
        total = tf.linalg.matvec(features, ones, transpose_a=True)
        return _solve(_regularize(tf.matmul(features, features, transpose_a=True), ridge), total)


def _regularize(gram, ridge):
    """Add ridges `(b,)` to Gram matrices `(b, n, n)`, raised where they would be lost to rounding."""
    resolution = 16.0 * float(np.finfo(gram.dtype.as_numpy_dtype).eps)
    floor = tf.stop_gradient(resolution * tf.linalg.trace(gram))
    identity = tf.eye(gram.shape[-1], dtype=gram.dtype)
    return gram + tf.maximum(floor, ridge)[..., None, None] * identity


@tf.custom_gradient
def _solve(matrix, vector):
    """Solve positive definite systems `(b, n, n)`, `(b, n)`, with the implicit gradient of the solution."""
    factor = tf.linalg.cholesky(matrix)

    def solve(right):
        return tf.linalg.cholesky_solve(factor, right[..., None])[..., 0]

    solution = solve(vector)

    def gradient(upstream):
        of_vector = solve(upstream)
        return -of_vector[..., :, None] * solution[..., None, :], of_vector

    return solution, gradient
