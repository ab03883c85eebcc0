"""Global average pooling plus global max pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import Pooling


@keras.saving.register_keras_serializable(package="tfdml")
class AverageMaxPooling(Pooling):
    r"""The sum of global average and global max pooling.

    $$v_k = \frac{1}{n} \sum_j f_{jk} + \max_j f_{jk}$$

    Args:
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features, `(b, d)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w and n may be unknown.

    Reference:
        The head of Kim et al., "Proxy anchor loss for deep metric learning", CVPR 2020.

    Example:
        >>> print(AverageMaxPooling()(tf.constant([[[1.0, 6.0], [3.0, 2.0]]])).numpy())
        [[ 5. 10.]]
    """

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(features, axis=1) + tf.reduce_max(features, axis=1)
