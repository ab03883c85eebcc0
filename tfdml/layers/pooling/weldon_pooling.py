"""The pooling of WELDON: greatest and least activations."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml.layers.pooling.base import Pooling


@keras.saving.register_keras_serializable(package="tfdml")
class WELDONPooling(Pooling):
    r"""The mean of a channel's greatest values plus the mean of its least.

    $$v_k = \frac{1}{k^+} \sum_{j \in \mathrm{top}_{k^+}} f_{jk}
      + \frac{1}{k^-} \sum_{j \in \mathrm{low}_{k^-}} f_{jk}$$

    The least values speak against: they should be free to be negative, so no ReLU comes before. Where there are
    fewer places than are asked for, all are taken.

    Args:
        greatest: $k^+ \ge 1$. The default is that of the thesis' author's code (which sums, as 3 times this).
        least: $k^- \ge 0$; 0 leaves the second term out. With 1 and 0 it is global max pooling.
        **kwargs: `name`, `dtype` and the like.

    Returns:
        Pooled features, `(b, d)`, of a feature map `(b, h, w, d)` or a bag `(b, n, d)`; h, w and n may be unknown.

    Raises:
        ValueError: If an option is no integer in its range.

    Reference:
        Durand, Thome and Cord, "WELDON: weakly supervised learning of deep convolutional neural networks", CVPR 2016,
        section 3.2.

    Example:
        >>> features = tf.constant([[[5.0], [-2.0], [3.0], [0.0]]])
        >>> print(WELDONPooling(greatest=2, least=1)(features).numpy())
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
    """Mean of the greatest along the last axis; of all if there are fewer than `count`."""
    size = values.shape[-1]
    count = tf.minimum(count, tf.shape(values)[-1]) if size is None else min(count, size)
    return tf.reduce_mean(tf.math.top_k(values, count).values, axis=-1)
