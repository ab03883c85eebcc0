"""Global average pooling plus global max pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import Pooling


@keras.saving.register_keras_serializable(package="tfdml")
class AverageMaxPooling(Pooling):
    r"""Sum of global average pooling and global max pooling.

    A strong default without parameters: the average describes the whole image, the maximum its most salient details.

    $$v_k = \frac{1}{n} \sum_j f_{jk} + \max_j f_{jk}$$

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Reference:
        Kim et al., "Proxy anchor loss for deep metric learning", CVPR 2020 (the head of the network).

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> print(pooling.AverageMaxPooling()(tf.constant([[[1.0, 6.0], [3.0, 2.0]]])).numpy())
        [[ 5. 10.]]
    """

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(features, axis=1) + tf.reduce_max(features, axis=1)
