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
    r"""The vector that is about equally similar to all local features, however often each occurs.

    $$v = \arg\min_v \sum_j (f_j^\top v - 1)^2 + \lambda \lVert v \rVert_2^2 = F^\top \alpha, \qquad
      (F F^\top + \lambda I) \, \alpha = 1,$$

    for the $n \times d$ matrix $F$ of an image's features. With fewer channels than places the same vector is had from
    the smaller system $(F^\top F + \lambda I) \, v = F^\top 1$. It is solved by Cholesky decomposition, at least in
    float32, with the implicit gradient. $\lambda$ is raised where it would drown in rounding, from
    $\lVert F \rVert^2_F$ of about $5 \cdot 10^5 \lambda$ in float32. $\lambda \to \infty$ is the direction of average
    pooling; on one-hot features the limit $\lambda \to 0$ is max pooling, hence the name.

    Args:
        ridge: $\lambda > 0$, in units of squared features. The paper selects it by cross-validation; the default is
            that of the thesis' author's code.
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features, `(b, d)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w and n may be unknown.
        (The $\alpha_j$ may be negative: there are no `pooling_weights`.)

    Raises:
        ValueError: If `ridge` is not positive.

    Reference:
        Murray and Perronnin, "Generalized max pooling", CVPR 2014, equations 5 to 7; Murray, Jégou, Perronnin and
        Zisserman, "Interferences in match kernels", PAMI 2016.

    Example:
        >>> features = tf.constant([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
        >>> print(GeneralizedMaxPooling(ridge=1e-3)(features).numpy().round(2))
        [[1. 1.]]
    """

    def __init__(self, ridge: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ridge = check_positive("ridge", ridge)

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        # Features whose squares overflow are divided by a scale s, λ by s², the solution by s: it is the same.
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
    """Gram matrices `(b, n, n)` plus ridges `(b,)`, none of which drowns in rounding."""
    resolution = 16.0 * float(np.finfo(gram.dtype.as_numpy_dtype).eps)
    floor = tf.stop_gradient(resolution * tf.linalg.trace(gram))
    identity = tf.eye(gram.shape[-1], dtype=gram.dtype)
    return gram + tf.maximum(floor, ridge)[..., None, None] * identity


@tf.custom_gradient
def _solve(matrix, vector):
    """Solutions of positive definite systems `(b, n, n)`, `(b, n)`; the gradient is the solution's, not the steps'."""
    factor = tf.linalg.cholesky(matrix)

    def solve(right):
        return tf.linalg.cholesky_solve(factor, right[..., None])[..., 0]

    solution = solve(vector)

    def gradient(upstream):
        of_vector = solve(upstream)
        return -of_vector[..., :, None] * solution[..., None, :], of_vector

    return solution, gradient
