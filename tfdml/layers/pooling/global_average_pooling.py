"""Global average pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import WeightedPooling


@keras.saving.register_keras_serializable(package="tfdml")
class GlobalAveragePooling(WeightedPooling):
    r"""Mean of the local features of a map or a bag.

    The baseline pooling. Unlike the Keras layer, it accepts bags, averages in float32 under mixed precision, and has
    `pooling_weights`.

    $$v = \frac{1}{n} \sum_j f_j$$

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Reference:
        Lin, Chen and Yan, "Network in network", ICLR 2014.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> print(pooling.GlobalAveragePooling()(tf.constant([[[1.0, 2.0], [3.0, 6.0]]])).numpy())
        [[2. 4.]]
    """

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        return tf.ones_like(features[..., 0])

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(features, axis=1)
