"""Global average pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import WeightedPooling


@keras.saving.register_keras_serializable(package="tfdml")
class GlobalAveragePooling(WeightedPooling):
    r"""The mean of the local features, of a map or of a bag.

    $$v = \frac{1}{n} \sum_j f_j$$

    Unlike Keras' layer it takes bags as well, averages in float32 under mixed precision, and has `pooling_weights`.

    Args:
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features, `(b, d)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w and n may be unknown.

    Reference:
        Lin, Chen and Yan, "Network in network", ICLR 2014.

    Example:
        >>> print(GlobalAveragePooling()(tf.constant([[[1.0, 2.0], [3.0, 6.0]]])).numpy())
        [[2. 4.]]
    """

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        return tf.ones_like(features[..., 0])

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(features, axis=1)
