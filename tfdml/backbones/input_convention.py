"""What published weights expect of images, as a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.types import Config, Shape


@keras.saving.register_keras_serializable(package="tfdml")
class InputConvention(keras.layers.Layer):
    r"""Brings images, RGB in 0–1, to the range, order and mean that a network was trained with.

    $$y_c = s \, x_{\pi(c)} - m_c$$

    It computes in float32 under every dtype policy: half precision would take the last bits of a grey value before the
    mean is subtracted.

    Args:
        scale: $s$, the value of white: a number, or one for each channel in the order of the output.
        mean: $m$, a number for each channel, in the order of the output, or one for all of them.
        reverse_channels: Whether $\pi$ reverses the channels, RGB to BGR.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(
        self,
        scale: float | Sequence[float],
        mean: float | Sequence[float],
        reverse_channels: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.scale, self.mean = _floats(scale), _floats(mean)
        self.reverse_channels = bool(reverse_channels)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        if self.reverse_channels:
            images = tf.reverse(images, axis=[-1])
        return tf.constant(self.scale, images.dtype) * images - tf.constant(self.mean, images.dtype)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "scale": self.scale,
            "mean": self.mean,
            "reverse_channels": self.reverse_channels,
        }


def _floats(values: Any) -> float | list[float]:
    return [float(value) for value in values] if np.ndim(values) else float(values)
