"""Global max pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import Pooling


@keras.saving.register_keras_serializable(package="tfdml")
class GlobalMaxPooling(Pooling):
    r"""The greatest value of every channel.

    $$v_k = \max_j f_{jk}$$

    Where several places share the maximum they share its gradient.

    Args:
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features, `(b, d)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w and n may be unknown.

    Reference:
        Razavian et al., "Visual instance retrieval with deep convolutional networks", 2014.

    Example:
        >>> print(GlobalMaxPooling()(tf.constant([[[1.0, 6.0], [3.0, 2.0]]])).numpy())
        [[3. 6.]]
    """

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(features, axis=1)
