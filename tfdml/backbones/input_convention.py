"""Layer that converts images to the range, order and mean that published weights expect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.types import Config, Shape


@keras.saving.register_keras_serializable(package="tfdml")
class InputConvention(keras.layers.Layer):
    r"""Converts RGB images in 0–1 to the range, channel order and mean that a network was trained with.

    Use it as the first layer of your own backbone with published weights; `build_embedder(input_range=…)` adds it
    itself.

    $$y_c = s \, x_{\pi(c)} - m_c$$

    It computes in float32 under every dtype policy, because half precision would lose the last bits of gray values
    before the mean is subtracted.

    Args:
        scale: float, or a sequence of one float per channel in output order. $s$, the value of white before the mean is
            subtracted.
        mean: Sequence of float. $m$, one value per channel in output order, or one value for all.
        reverse_channels: bool. Whether $\pi$ reverses the channels, RGB to BGR. Default `False`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> layer = InputConvention(scale=2.0, mean=[1.0])  # From 0–1 to [-1, 1].
        >>> layer(tf.constant([[[[0.0, 0.5, 1.0]]]])).numpy().tolist()
        [[[[-1.0, 0.0, 1.0]]]]
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
