"""Global max pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import Pooling


@keras.saving.register_keras_serializable(package="tfdml")
class GlobalMaxPooling(Pooling):
    r"""Maximum of each channel.

    Use it if a small detail may identify an object: a single place suffices to set a channel.

    $$v_k = \max_j f_{jk}$$

    Places that share the maximum share its gradient.

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Reference:
        Razavian et al., "Visual instance retrieval with deep convolutional networks", 2014.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> print(pooling.GlobalMaxPooling()(tf.constant([[[1.0, 6.0], [3.0, 2.0]]])).numpy())
        [[3. 6.]]
    """

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(features, axis=1)
