"""Attentive pooling of deep local features (DeLF)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Shape
from tfdml.layers.pooling.base import WeightedPooling, at_most_largest, build_part


@keras.saving.register_keras_serializable(package="tfdml")
class DeLFPooling(WeightedPooling):
    r"""Average weighted by a score that a small network predicts for each place (DeLF).

    Use it to learn which places matter from their features alone; a learned alternative to `GeneralizedSumPooling`.

    $$v = \frac{1}{n} \sum_j a_j f_j, \qquad
      a_j = \mathrm{softplus}\big( w^\top [W f_j + b]_+ + c \big)$$

    with $W$ from $d$ to $u$ channels: two 1×1 convolutions. The paper sums over places; the mean makes the scale
    independent of the size of the map. The paper trains the scores after the features, the thesis both at once.

    Args:
        units: int, >= 1. $u$. Default: 512, as in the paper.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features. `pooling_weights` are the shares of the places in $a$.

    Raises:
        ValueError: If `units` is not a positive integer.

    Reference:
        Noh, Araujo, Sim, Weyand and Han, "Large-scale image retrieval with attentive deep local features", ICCV 2017,
        section 4.2.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> tuple(pooling.DeLFPooling(units=32)(tf.random.normal((2, 7, 7, 16))).shape)
        (2, 16)
    """

    def __init__(self, units: int = 512, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = check_whole_number("units", units, 1)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.hidden = keras.layers.Dense(self.units, activation="relu", name="hidden", dtype=self.precision)
        self.score = keras.layers.Dense(1, name="score", dtype=self.precision)
        build_part(self.hidden, (None, None, self.input_channels))
        build_part(self.score, (None, None, self.units))

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        return at_most_largest(tf.math.softplus(self.score(self.hidden(features))[..., 0]))
