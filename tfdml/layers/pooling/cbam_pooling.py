"""Average pooling after a convolutional block attention module (CBAM)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Shape
from tfdml.layers.pooling.base import WeightedPooling, build_part


@keras.saving.register_keras_serializable(package="tfdml")
class CBAMPooling(WeightedPooling):
    r"""Attention to channels, then to places, followed by the average (CBAM).

    Use it to learn which channels and places matter from their surroundings. It accepts feature maps only.

    $$f'_j = \sigma\big( W_2 [W_1 \bar f]_+ + W_2 [W_1 \hat f]_+ \big) \odot f_j, \qquad
      a = \sigma\Big( K * \big[ \mathrm{mean}_k f'_{jk}, \; \max_k f'_{jk} \big] \Big), \qquad
      v = \frac{1}{n} \sum_j a_j f'_j$$

    where $\bar f$ and $\hat f$ are the mean and the maximum of the features over the places, $W_1$ reduces the $d$
    channels to $d / r$ and $W_2$ restores them, and $K$ is a convolution with one $s \times s$ filter and zero padding.
    None of them has a bias: the formulas in the paper have none, though the authors' code adds biases and batch
    normalization.

    Args:
        reduction: int, >= 1. $r$. At least one channel remains. Default: 16, as in the paper; the code of the thesis'
            author uses 1 in its 128-dimensional experiments.
        kernel_size: int, >= 1. $s$. Default: 7, as in the paper; the code of the thesis' author uses 3.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)`; h and w may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features. `pooling_weights` are the shares of the places in $a$.

    Raises:
        ValueError: If an option is not a positive integer, or the input is not a feature map.

    Reference:
        Woo, Park, Lee and Kweon, "CBAM: convolutional block attention module", ECCV 2018, equations 1 to 3.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> tuple(pooling.CBAMPooling(reduction=4)(tf.random.normal((2, 7, 7, 16))).shape)
        (2, 16)
    """

    maps_only = True

    def __init__(self, reduction: int = 16, kernel_size: int = 7, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = check_whole_number("reduction", reduction, 1)
        self.kernel_size = check_whole_number("kernel_size", kernel_size, 1)

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        channels = self.input_channels
        options = {"use_bias": False, "dtype": self.precision}
        hidden = max(1, channels // self.reduction)
        self.squeeze = keras.layers.Dense(hidden, activation="relu", name="squeeze", **options)
        self.excite = keras.layers.Dense(channels, name="excite", **options)
        self.spatial = keras.layers.Conv2D(
            1,
            self.kernel_size,
            padding="same",
            data_format="channels_last",
            activation="sigmoid",
            name="spatial",
            **options,
        )
        build_part(self.squeeze, (None, channels))
        build_part(self.excite, (None, hidden))
        build_part(self.spatial, (None, None, None, 2))

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        features = self._gate_channels(features)
        return tf.reduce_mean(self._attend_places(features)[..., None] * features, axis=(1, 2))

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        return self._attend_places(self._gate_channels(features))

    def _gate_channels(self, features):
        mean, greatest = tf.reduce_mean(features, axis=(1, 2)), tf.reduce_max(features, axis=(1, 2))
        gates = tf.sigmoid(self.excite(self.squeeze(mean)) + self.excite(self.squeeze(greatest)))
        return features * gates[:, None, None, :]

    def _attend_places(self, features):
        summary = tf.stack([tf.reduce_mean(features, axis=-1), tf.reduce_max(features, axis=-1)], axis=-1)
        return self.spatial(summary)[..., 0]
