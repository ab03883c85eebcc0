"""Generalized mean pooling (GeM)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_choice, check_positive
from tfdml._utils.types import Shape
from tfdml.layers.pooling.base import Pooling, count_places

GREATEST_POWER = 1e3


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedMeanPooling(Pooling):
    r"""Power mean of each channel: between average (p = 1) and max pooling (p → ∞) (GeM).

    A standard for image retrieval: one extra parameter, the power, is learned.

    $$v_k = \Big( \frac{1}{n} \sum_j \max(f_{jk}, \epsilon)^p \Big)^{1/p}$$

    It is defined for features after a ReLU: features below $\epsilon$ count as $\epsilon$. Computed with logarithms, so
    that no power overflows. Training keeps $p$ between 1 and 1000.

    Args:
        power: float, 1 to 1000. Initial value of $p$. Default: 3, as in the paper.
        trainable_power: bool. Whether $p$ is trained. Default: `True`.
        per_channel: bool. Whether each channel has its own $p$. Default: `False`.
        epsilon: float, > 0. $\epsilon$. Default: 1e-6.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Raises:
        ValueError: If an option is out of range.

    Reference:
        Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", PAMI 2018, equation 3.
        As there, p starts at 3, is shared by all channels and trained.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> print(pooling.GeneralizedMeanPooling(power=2.0)(tf.constant([[[1.0], [7.0]]])).numpy().round(3))
        [[5.]]
    """

    rectifies = True

    def __init__(
        self,
        power: float = 3.0,
        trainable_power: bool = True,
        per_channel: bool = False,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.power = check_between("power", power, 1.0, GREATEST_POWER)
        self.trainable_power = check_choice("trainable_power", trainable_power, (True, False))
        self.per_channel = check_choice("per_channel", per_channel, (True, False))
        self.epsilon = check_positive("epsilon", epsilon)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.exponent = self.add_precise_weight(
            "exponent",
            (self.input_channels,) if self.per_channel else (),
            keras.initializers.Constant(self.power),
            trainable=self.trainable_power,
            constraint=to_power_range,
        )

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        power = self.precise(self.exponent)
        logarithms = tf.math.log(tf.maximum(features, self.epsilon))
        log_sums = tf.reduce_logsumexp(power * logarithms, axis=1)
        return tf.exp((log_sums - tf.math.log(count_places(features))) / power)


def to_power_range(power):
    """Constrain a power to the range of `GeneralizedMeanPooling`."""
    return tf.clip_by_value(power, 1.0, GREATEST_POWER)
