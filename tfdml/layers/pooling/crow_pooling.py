"""Cross-dimensional weighting (CroW)."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.base import WeightedPooling, lengths_of, safe_sqrt, weighted_mean


@keras.saving.register_keras_serializable(package="tfdml")
class CroWPooling(WeightedPooling):
    r"""Average that emphasizes strongly active places and rarely active channels (CroW).

    Has no parameters, so it also works with a network that is not trained any further. With $s_j = \sum_k f_{jk}$ and
    the share $Q_k$ of places where channel $k$ is active, $f_{jk} > 0$,

    $$v_k = I_k \, \frac{1}{n} \sum_j a_j f_{jk}, \qquad a_j = \sqrt{ s_j / \lVert s \rVert_2 }, \qquad
      I_k = \log \frac{\sum_h Q_h}{Q_k}.$$

    It is defined for features after a ReLU: negative features count as 0. A channel that is active nowhere has the
    value 0. $Q$ is piecewise constant; gradients flow through everything else. (The paper trains nothing; the code of
    the thesis' author replaces the step by $\sigma(f_{jk})$.) The paper sums over places; the mean makes the scale
    independent of the size of the map.

    Args:
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features. `pooling_weights` are the shares of the places in $a$.

    Reference:
        Kalantidis, Mellina and Osindero, "Cross-dimensional weighting for aggregated deep convolutional features", ECCV
        workshops 2016, algorithm 1 with a = b = 2.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> features = tf.constant([[[4.0, 0.0], [4.0, 8.0], [0.0, 0.0]]])
        >>> print(pooling.CroWPooling().pooling_weights(features).numpy().round(3))
        [[0.366 0.634 0.   ]]
    """

    rectifies = True

    def attention(self, features: tf.Tensor) -> tf.Tensor:
        sums = tf.reduce_sum(tf.nn.relu(features), axis=-1)
        return safe_sqrt(tf.math.divide_no_nan(sums, lengths_of(sums)[..., None]))

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        pooled = weighted_mean(self.attention(features), tf.nn.relu(features))
        shares = tf.reduce_mean(tf.cast(features > 0.0, features.dtype), axis=1)
        rarity = tf.math.divide_no_nan(tf.reduce_sum(shares, axis=-1, keepdims=True), shares)
        return pooled * tf.math.log(tf.maximum(rarity, 1.0))
