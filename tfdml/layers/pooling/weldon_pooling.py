"""The pooling of WELDON: largest and smallest activations."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml.layers.pooling.base import Pooling


@keras.saving.register_keras_serializable(package="tfdml")
class WELDONPooling(Pooling):
    r"""Mean of each channel's largest values plus the mean of its smallest (WELDON).

    A softer form of max pooling that also considers evidence against a feature. Place no ReLU before it, so that the
    smallest values can be negative.

    $$v_k = \frac{1}{k^+} \sum_{j \in \mathrm{top}_{k^+}} f_{jk}
      + \frac{1}{k^-} \sum_{j \in \mathrm{low}_{k^-}} f_{jk}$$

    If there are fewer places than requested, all are used.

    Args:
        greatest: int, >= 1. $k^+$. Default: 3, as in the code of the thesis' author (which sums, 3 times this value).
        least: int, >= 0. $k^-$; 0 omits the second term. With `greatest=1` and `least=0` this is global max pooling.
            Default: 3.
        **kwargs: `name`, `dtype` and other arguments of a Keras layer.

    Call arguments:
        features: float tensor, feature map `(b, h, w, d)` or bag `(b, n, d)`; h, w and n may be unknown.

    Returns:
        Tensor `(b, d)`. Pooled features.

    Raises:
        ValueError: If an option is not an integer in its range.

    Reference:
        Durand, Thome and Cord, "WELDON: weakly supervised learning of deep convolutional neural networks", CVPR 2016,
        section 3.2.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> features = tf.constant([[[5.0], [-2.0], [3.0], [0.0]]])
        >>> print(pooling.WELDONPooling(greatest=2, least=1)(features).numpy())
        [[2.]]
    """

    def __init__(self, greatest: int = 3, least: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.greatest = check_whole_number("greatest", greatest, 1)
        self.least = check_whole_number("least", least, 0)

    def pool(self, features: tf.Tensor) -> tf.Tensor:
        channels = tf.transpose(features, (0, 2, 1))
        pooled = _mean_of_greatest(channels, self.greatest)
        return pooled - _mean_of_greatest(-channels, self.least) if self.least else pooled


def _mean_of_greatest(values, count):
    """Mean of the `count` largest values along the last axis; of all values if there are fewer."""
    size = values.shape[-1]
    count = tf.minimum(count, tf.shape(values)[-1]) if size is None else min(count, size)
    return tf.reduce_mean(tf.math.top_k(values, count).values, axis=-1)
