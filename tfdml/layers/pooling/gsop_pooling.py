"""Average pooling after a global second-order pooling block (GSoP)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Shape
from tfdml.layers.pooling.base import Pooling, at_most_largest, build_part, count_places


@keras.saving.register_keras_serializable(package="tfdml")
class GSoPPooling(Pooling):
    r"""Average with channels gated by their covariance (GSoP).

    Use it if it matters which features occur together in an image.

    With the features reduced to $u$ channels, $g_j = [\mathrm{BN}(W f_j + b)]_+$, and their covariance
    $\Sigma = \frac{1}{n} \sum_j (g_j - \bar g)(g_j - \bar g)^\top$,

    $$v = \sigma\big( W' r + b' \big) \odot \frac{1}{n} \sum_j f_j, \qquad
      r_{il} = w_{il}^\top \, \mathrm{BN}(\Sigma)_i + b_{il}, \quad i \le u, \; l \le 4,$$

    where each row $i$ of the covariance matrix is normalized over the batch and has four filters of its own (the
    row-wise convolution). This is the block with attention to channels. The code of the thesis' author takes the
    maximum of it and a block with attention to places, whose weights only fit one size of maps.

    Args:
        units: int, >= 1. $u$. Default: 128, as in the paper.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        - `features`: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.
        - `training`: bool. Whether batch normalization uses and updates the statistics of the batch. Default: `None`,
          set by Keras.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Raises:
        ValueError: If `units` is not a positive integer.

    Reference:
        Gao, Xie, Wang and Li, "Global second-order pooling convolutional networks", CVPR 2019, section 3.1.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> tuple(pooling.GSoPPooling(units=8)(tf.random.normal((2, 7, 7, 16))).shape)
        (2, 16)
    """

    filters_per_row = 4

    def __init__(self, units: int = 128, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = check_whole_number("units", units, 1)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        units, filters = self.units, self.filters_per_row
        self.reduce = keras.layers.Dense(units, name="reduce", dtype=self.precision)
        options = {"dtype": self.precision, "synchronized": ops.has_replicas()}
        self.reduced_normalization = keras.layers.BatchNormalization(name="reduced_normalization", **options)
        self.row_normalization = keras.layers.BatchNormalization(name="row_normalization", **options)
        self.gate = keras.layers.Dense(self.input_channels, activation="sigmoid", name="gate", dtype=self.precision)
        build_part(self.reduce, (None, None, self.input_channels))
        build_part(self.reduced_normalization, (None, None, units))
        build_part(self.row_normalization, (None, units, units))
        build_part(self.gate, (None, units * filters))
        # Glorot initialization of the matrix from the entries of one row to its filters.
        limit = (6.0 / (units + filters)) ** 0.5
        self.row_kernel = self.add_precise_weight(
            "row_kernel", (units, units, filters), keras.initializers.RandomUniform(-limit, limit)
        )
        self.row_bias = self.add_precise_weight("row_bias", (units, filters), "zeros")

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.cast(self.pool(self.local_features(features), training), self.compute_dtype)

    def pool(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        reduced = self.reduced_normalization(self.reduce(features), training=training)
        reduced = at_most_largest(tf.nn.relu(reduced))
        # The covariance matrix is symmetric, so normalizing the last axis normalizes its rows.
        covariances = self.row_normalization(_covariances(reduced), training=training)
        rows = tf.einsum("bji,ijl->bil", covariances, self.precise(self.row_kernel)) + self.precise(self.row_bias)
        gates = self.gate(tf.reshape(rows, (-1, self.units * self.filters_per_row)))
        return gates * tf.reduce_mean(features, axis=1)


def _covariances(bags):
    centered = bags - tf.reduce_mean(bags, axis=1, keepdims=True)
    return tf.matmul(centered, centered, transpose_a=True) / count_places(bags)
