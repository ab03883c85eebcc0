"""NetVLAD."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.types import Shape, TensorLike
from tfdml.layers.pooling.base import build_part, unit_vectors
from tfdml.layers.pooling.prototypes import EnsemblePooling

# How much more the nearest centre gets of a feature than the second, at the start.
_FIRST_TO_SECOND = 100.0


@keras.saving.register_keras_serializable(package="tfdml")
class NetVLAD(EnsemblePooling):
    r"""Sums, for each of several centres, what the local features near it differ from it.

    $$V_i = \sum_j a_{ij} (x_j - \omega_i), \quad
      a_{ij} = \mathrm{softmax}_i (w_i^\top x_j + b_i), \quad
      v = \frac{u}{\lVert u \rVert_2}, \quad
      u = \Big( \frac{V_1}{\lVert V_1 \rVert_2}, \dots, \frac{V_m}{\lVert V_m \rVert_2} \Big)$$

    with the features $x_j = f_j / \lVert f_j \rVert_2$, before that brought to `channels` by a linear map without bias
    if that is given. $\omega, w, b$ are trained apart from one another. A residual that is 0 stays 0. (The code of
    the thesis' author does not normalise the $x_j$.)

    `adapt` starts them as in the paper (there the centres come from k-means): $w_i = 2 \alpha \omega_i$ and
    $b_i = -\alpha \lVert \omega_i \rVert_2^2$, with $\alpha$ such that the nearest centre gets, in the geometric mean,
    100 times as much of a feature as the second.

    Args:
        prototypes: Number of centres, $m$. The thesis compares 8 of 16 channels and 64 of 128.
        channels: Size that the features are brought to, or `None` to take them as they are.
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features of unit length, `(b, m * channels)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w
        and n may be unknown.

    Raises:
        ValueError: If an option is no positive integer.

    Reference:
        Arandjelović, Gronat, Torii, Pajdla and Sivic, "NetVLAD: CNN architecture for weakly supervised place
        recognition", CVPR 2016, section 3.1 and appendix A.

    Example:
        >>> pooling = NetVLAD(prototypes=8, channels=16)
        >>> tuple(pooling(tf.random.normal((2, 7, 7, 64))).shape)
        (2, 128)
    """

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.assignment = keras.layers.Dense(
            self.prototypes, activation="softmax", name="assignment", dtype=self.precision
        )
        build_part(self.assignment, (None, None, self.channels or self.input_channels))

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        features = unit_vectors(self.project(features))
        shares = self.assignment(features)
        # The sum of the residuals without an array of places by centres by channels.
        residuals = tf.matmul(shares, features, transpose_a=True)
        residuals -= tf.reduce_sum(shares, axis=1)[..., None] * self.precise(self.prototype_embeddings)
        return unit_vectors(tf.reshape(unit_vectors(residuals), (-1, self.output_size)))

    def prototype_space(self, features: tf.Tensor) -> tf.Tensor:
        return unit_vectors(self.project(features))

    def start_from(self, prototypes: TensorLike, points: TensorLike) -> None:
        super().start_from(prototypes, points)
        sharpness = 1.0
        if self.prototypes > 1:
            squared = ops.pairwise_distances(points, prototypes, "squared_l2")
            nearest = -tf.math.top_k(-squared, 2).values
            sharpness = math.log(_FIRST_TO_SECOND) / float(tf.reduce_mean(nearest[:, 1] - nearest[:, 0]))
        self.assignment.kernel.assign(2.0 * sharpness * tf.transpose(prototypes))
        self.assignment.bias.assign(-sharpness * tf.reduce_sum(tf.square(prototypes), axis=-1))
