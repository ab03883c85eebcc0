"""Dropout that is reproducible across interruptions."""

from __future__ import annotations

import random
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, Shape


@keras.saving.register_keras_serializable(package="tfdml")
class CountedDropout(keras.layers.Layer):
    """Dropout whose masks depend only on a seed and the number of the training step.

    Use it instead of `keras.layers.Dropout` if a run that resumes from a checkpoint must continue exactly as if it had
    not been interrupted: the step number is a weight and so part of every checkpoint. (The masks of Keras 2's own layer
    depend on the process.)

    In training, each element is set to 0 with probability $p$ and divided by $1 - p$ otherwise. At inference, inputs
    are unchanged.

    Args:
        rate: float, 0 <= rate < 1. $p$.
        seed: int, >= 0, or `None`. `None` derives a seed from `keras.utils.set_random_seed`. Default: `None`.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15 (2014).

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import layers
        >>> print(layers.CountedDropout(0.5)(tf.ones((1, 3))).numpy())  # inference
        [[1. 1. 1.]]
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(rate, bool) or not 0.0 <= rate < 1.0:
            raise ValueError(f"The rate is out of range. Received: rate={rate!r}. Expected: 0 <= rate < 1.")
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
