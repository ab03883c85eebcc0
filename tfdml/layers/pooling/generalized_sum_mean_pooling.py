"""Generalized sum pooling inside generalized mean pooling."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_choice, check_positive
from tfdml._utils.types import Identifier, Shape
from tfdml.layers.pooling.base import count_places
from tfdml.layers.pooling.generalized_mean_pooling import GREATEST_POWER, to_power_range
from tfdml.layers.pooling.generalized_sum_pooling import GeneralizedSumPooling


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedSumMeanPooling(GeneralizedSumPooling):
    r"""Generalized mean of local features that are weighted by generalized sum pooling.

    $$v_k = \Big( \frac{1}{n} \sum_j \max(n \, p_j f_{jk}, \epsilon)^q \Big)^{1/q}$$

    with the weights $p_j$ of `GeneralizedSumPooling`, where the other options are explained. With `ratio=1.0` this is
    generalized mean pooling, since all $n \, p_j$ are 1; with $q = 1$ and nonnegative features it is generalized sum
    pooling. The author's code calls it `use_gemp` and uses it for ResNet-50 on small datasets, on the output of the
    ReLU and with the linear layer after it (`channels`). Call `adapt` before training.

    Args:
        prototypes, ratio, smoothing, solver, iterations, gradient, return_attributes, prototypes_initializer, channels,
            kernel_size: As in `GeneralizedSumPooling`, with the same defaults.
        power: float, 1 to 1000. Initial value of $q$. Default: 3.
        trainable_power: bool. Whether $q$ is trained. Default: `True`.
        epsilon: float, > 0. $\epsilon$. Default: 1e-6.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Returns:
        As `GeneralizedSumPooling`. $n$ is the number of valid features; a bag without any is pooled to 0.

    Raises:
        ValueError: As `GeneralizedSumPooling`, or if an option is out of range.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.2, whose code has
        the combination; Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", PAMI
        2018, for the power mean.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> layer = pooling.GeneralizedSumMeanPooling(prototypes=8, ratio=0.3, channels=4)
        >>> tuple(layer(tf.random.uniform((2, 7, 7, 16))).shape)
        (2, 4)
    """

    rectifies = True

    def __init__(
        self,
        prototypes: int = 64,
        ratio: float = 0.3,
        smoothing: float = 5.0,
        solver: Literal["newton", "bregman"] = "newton",
        iterations: int | None = None,
        gradient: Literal["implicit", "unrolled"] = "implicit",
        return_attributes: bool = False,
        prototypes_initializer: Identifier | None = None,
        channels: int | None = None,
        kernel_size: int | None = None,
        power: float = 3.0,
        trainable_power: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            prototypes, ratio, smoothing, solver, iterations, gradient, return_attributes, prototypes_initializer,
            channels, kernel_size, **kwargs,
        )  # fmt: skip
        self.power = check_between("power", power, 1.0, GREATEST_POWER)
        self.trainable_power = check_choice("trainable_power", trainable_power, (True, False))
        self.epsilon = check_positive("epsilon", epsilon)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.exponent = self.add_precise_weight(
            "exponent", (), keras.initializers.Constant(self.power), trainable=self.trainable_power,
            constraint=to_power_range,
        )  # fmt: skip

    def combine(self, bags: tf.Tensor, weights: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        power = tf.cast(tf.convert_to_tensor(self.exponent), bags.dtype)
        count = count_places(bags)
        if mask is not None:
            count = tf.reduce_sum(tf.cast(mask, bags.dtype), axis=1, keepdims=True)
        logarithms = power * tf.math.log(tf.maximum(tf.expand_dims(count * weights, -1) * bags, self.epsilon))
        if mask is None:
            return tf.exp((tf.reduce_logsumexp(logarithms, axis=1) - tf.math.log(count)) / power)
        some = count > 0.0
        # A finite value instead of -inf, whose gradient would be NaN in a bag without any valid feature.
        logarithms = tf.where(mask[..., None], logarithms, bags.dtype.min / 2.0)
        mean = tf.reduce_logsumexp(logarithms, axis=1) - tf.math.log(tf.maximum(count, 1.0))
        return tf.where(some, tf.exp(tf.where(some, mean, tf.zeros_like(mean)) / power), tf.zeros_like(mean))
