"""Dropout that an interruption does not change."""

from __future__ import annotations

import random
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, Shape


@keras.saving.register_keras_serializable(package="tfdml")
class CountedDropout(keras.layers.Layer):
    r"""Dropout whose masks follow from a seed and the number of the training step.

    In training each number is 0 with probability $p$ and else divided by $1 - p$; at inference nothing changes. The
    number of steps is a weight, so training that goes on from a checkpoint meets the masks that an uninterrupted one
    would meet. (Those of Keras 2's own layer follow from the process.)

    Args:
        rate: $0 \le p < 1$.
        seed: Integer of at least 0; `None` for one that follows from `keras.utils.set_random_seed`.
        **kwargs: `name`, `dtype` and the like.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014).

    Example:
        >>> print(CountedDropout(0.5)(tf.ones((1, 3))).numpy())
        [[1. 1. 1.]]
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(rate, bool) or not 0.0 <= rate < 1.0:
            raise ValueError(f"Received: rate={rate!r}; expected 0 <= rate < 1.")
        self.rate = float(rate)
        self.seed = random.randrange(2**31) if seed is None else check_whole_number("seed", seed, minimum=0)

    def build(self, input_shape: Shape) -> None:
        self.steps = self.add_weight(name="steps", shape=(), dtype="int64", initializer="zeros", trainable=False)
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | tf.Tensor | None = False) -> tf.Tensor:
        if not training or not self.rate:
            return inputs
        key = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.steps)])
        uniform = tf.random.stateless_uniform(tf.shape(inputs), key)
        self.steps.assign_add(1)
        kept = tf.cast(uniform >= self.rate, inputs.dtype)
        return inputs * kept * tf.cast(1.0 / (1.0 - self.rate), inputs.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
