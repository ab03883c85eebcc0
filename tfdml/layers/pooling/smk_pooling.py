"""Trainable selective match kernels (SMK), as in HOW."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Shape
from tfdml.layers.pooling.base import WeightedPooling, at_most_largest, build_part, lengths_of


@keras.saving.register_keras_serializable(package="tfdml")
class SMKPooling(WeightedPooling):
    r"""Average of smoothed and whitened local features, weighted by their norms (SMK).

    Use it if strong activations mark the object, as in landmark retrieval. It accepts feature maps only.

    $$v = \frac{1}{n} \sum_j \lVert f_j \rVert_2 \, \Big( W \, \frac{1}{|N_j|} \sum_{l \in N_j} f_l + b \Big)$$

    with the $s \times s$ neighborhood $N_j$ of a place, cut off at the border of the map, and a linear map for
    whitening, which is trained here from random weights (the paper fits it by PCA and freezes it). The weights are the
    norms of the features before smoothing, and gradients flow through them (the code of the thesis' author stops them).
    This is how the paper pools in training; its match kernels with a codebook are used for search only. The paper sums
    over places and divides by the largest weight; the mean makes the scale independent of the size of the map.

    Args:
        channels: int or `None`. Number of channels after whitening; `None` keeps it. Default: `None`.
        kernel_size: int, odd. $s$; 1 disables the smoothing. Default: 3, as in the paper.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)`; h and w may be unknown.

    Returns:
        Tensor `(b, channels)`. Pooled features. `pooling_weights` are the shares of the places in the norms.

    Raises:
        ValueError: If an option is out of range, or the input is not a feature map.

    Reference:
        Tolias, Jenicek and Chum, "Learning and aggregating deep local descriptors for instance-level recognition", ECCV
        2020, section 4.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> tuple(pooling.SMKPooling(channels=8)(tf.random.normal((2, 7, 7, 16))).shape)
        (2, 8)
    """

    maps_only = True

    def __init__(self, channels: int | None = None, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = None if channels is None else check_whole_number("channels", channels, 1)
        self.kernel_size = check_whole_number("kernel_size", kernel_size, 1)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"The kernel is even. Received: kernel_size={kernel_size!r}. Expected: an odd integer.")

    def pooled_size(self, channels: int) -> int:
        return self.channels or channels

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.whitening = keras.layers.Dense(self.output_size, name="whitening", dtype=self.precision)
        build_part(self.whitening, (None, None, None, self.input_channels))

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        return lengths_of(features)

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        smooth = tf.nn.avg_pool2d(features, self.kernel_size, strides=1, padding="SAME", data_format="NHWC")
        weights = at_most_largest(self.attention(features))
        return tf.reduce_mean(weights[..., None] * self.whitening(smooth), axis=(1, 2))
