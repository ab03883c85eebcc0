"""NetVLAD."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.types import Shape, TensorLike
from tfdml.layers.pooling.base import build_part, unit_vectors
from tfdml.layers.pooling.prototypes import EnsemblePooling

# Initial ratio of the shares of a feature assigned to its nearest and second-nearest center.
_FIRST_TO_SECOND = 100.0


@keras.saving.register_keras_serializable(package="tfdml")
class NetVLAD(EnsemblePooling):
    r"""Concatenated sums of the residuals of local features to several centers (NetVLAD).

    Use it if a large embedding is acceptable: the output has one vector for each center. Call `adapt` before training.

    $$V_i = \sum_j a_{ij} (x_j - \omega_i), \quad
      a_{ij} = \mathrm{softmax}_i (w_i^\top x_j + b_i), \quad
      v = \frac{u}{\lVert u \rVert_2}, \quad
      u = \Big( \frac{V_1}{\lVert V_1 \rVert_2}, \dots, \frac{V_m}{\lVert V_m \rVert_2} \Big)$$

    with the features $x_j = f_j / \lVert f_j \rVert_2$, reduced to `channels` by a linear map without bias before that
    if `channels` is set. $\omega, w, b$ are trained independently. A residual of 0 stays 0. (The code of the thesis'
    author does not normalize the $x_j$.)

    `adapt` initializes them as in the paper, though with k-center instead of k-means: $w_i = 2 \alpha \omega_i$ and
    $b_i = -\alpha \lVert \omega_i \rVert_2^2$, with $\alpha$ such that the share of the nearest center is, in the
    geometric mean, 100 times that of the second.

    Args:
        prototypes: int, >= 1. $m$, the number of centers. The thesis compares 8 with 16 channels and 64 with 128.
            Default: 64.
        channels: int or `None`. Size to which the features are reduced; `None` leaves them unchanged. Default: `None`.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, m * channels)`. Pooled features of unit length.

    Raises:
        ValueError: If an option is not a positive integer.

    Reference:
        Arandjelović, Gronat, Torii, Pajdla and Sivic, "NetVLAD: CNN architecture for weakly supervised place
        recognition", CVPR 2016, section 3.1 and appendix A.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> layer = pooling.NetVLAD(prototypes=8, channels=16)
        >>> tuple(layer(tf.random.normal((2, 7, 7, 64))).shape)
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
        # Sum the residuals without an array of places by centers by channels.
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
