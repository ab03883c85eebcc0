"""Generalized mean pooling after second-order attention (SOLAR)."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_choice, check_whole_number
from tfdml._utils.types import Shape
from tfdml.layers.pooling.base import Pooling, at_most_largest, build_part
from tfdml.layers.pooling.generalized_mean_pooling import GeneralizedMeanPooling


@keras.saving.register_keras_serializable(package="tfdml")
class SOLARPooling(Pooling):
    r"""Self-attention between places, followed by generalized mean pooling (SOLAR).

    Use it if relations between distant places matter and the map is small: memory grows with n².

    $$f'_j = f_j + W_o \sum_l A_{jl} \, (W_v f_l + b_v) + b_o, \qquad
      A_{j \cdot} = \mathrm{softmax}_l \big( q_j^\top k_l / \sqrt{u} \big),$$

    $q_j = [\mathrm{BN}(W_q f_j + b_q)]_+$ and $k_j = [\mathrm{BN}(W_k f_j + b_k)]_+$, all with $u = d / r$ channels.
    Initially $W_o = 0$ and $b_o = 0$, so the block changes nothing. The $f'_j$ are pooled by `GeneralizedMeanPooling`,
    as in the paper, or averaged.

    Args:
        reduction: int, >= 1. $r$. At least one channel remains. Default: 2, as in the paper's last block; the code of
            the thesis' author uses 1.
        aggregation: `"gem"` (generalized mean) or `"gap"` (average). Default: `"gem"`.
        power: float, 1 to 1000. Initial power of the generalized mean, which is trained. Default: 3.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        - `features`: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.
        - `training`: bool. Whether batch normalization uses and updates the statistics of the batch. Default: `None`,
          set by Keras.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Ng, Balntas, Tian and Mikolajczyk, "SOLAR: second-order loss and attention for image retrieval", ECCV 2020,
        section 3.2.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> tuple(pooling.SOLARPooling()(tf.random.uniform((2, 7, 7, 16))).shape)
        (2, 16)
    """

    def __init__(
        self, reduction: int = 2, aggregation: Literal["gem", "gap"] = "gem", power: float = 3.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.reduction = check_whole_number("reduction", reduction, 1)
        self.aggregation = check_choice("aggregation", aggregation, ("gem", "gap"))
        self.power = check_between("power", power, 1.0, 1e3)

    @property
    def rectifies(self) -> bool:  # type: ignore[override]
        return self.aggregation == "gem"

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = self.input_channels
        units = max(1, channels // self.reduction)
        dense, normalization = keras.layers.Dense, keras.layers.BatchNormalization
        self.query = dense(units, name="query", dtype=self.precision)
        self.query_normalization = normalization(name="query_normalization", dtype=self.precision)
        self.key = dense(units, name="key", dtype=self.precision)
        self.key_normalization = normalization(name="key_normalization", dtype=self.precision)
        self.value = dense(units, name="value", dtype=self.precision)
        self.output_projection = dense(
            channels, kernel_initializer="zeros", name="output_projection", dtype=self.precision
        )
        for part in (self.query, self.key, self.value):
            build_part(part, (None, None, channels))
        for part in (self.query_normalization, self.key_normalization, self.output_projection):
            build_part(part, (None, None, units))
        if self.aggregation == "gem":
            self.mean = GeneralizedMeanPooling(self.power, name="mean", dtype=self.precision)
            build_part(self.mean, (None, None, channels))

    def call(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return tf.cast(self.pool(self.local_features(features), training), self.compute_dtype)

    def pool(self, features: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        query = self._gated(self.query_normalization(self.query(features), training=training))
        key = self._gated(self.key_normalization(self.key(features), training=training))
        likeness = tf.matmul(query, key, transpose_b=True) * query.shape[-1] ** -0.5
        attended = tf.matmul(tf.nn.softmax(likeness, axis=-1), self.value(features))
        features = features + self.output_projection(attended)
        return self.mean(features) if self.aggregation == "gem" else tf.reduce_mean(features, axis=1)

    def _gated(self, values):
        return at_most_largest(tf.nn.relu(values))
