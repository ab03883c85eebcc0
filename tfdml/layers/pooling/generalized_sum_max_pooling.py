"""Generalized sum pooling plus global max pooling."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml.layers.pooling.generalized_sum_pooling import GeneralizedSumPooling


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedSumMaxPooling(GeneralizedSumPooling):
    r"""Sum of generalized sum pooling and global max pooling.

    $$v_k = \sum_j p_j f_{jk} + \max_j f_{jk}$$

    with the weights $p_j$ of `GeneralizedSumPooling`, where the options are explained. With `channels`, the sum is
    projected: $W (\sum_j p_j f_j + \max_j f_j)$, as in the author's code. GSP selects places and max
    pooling selects per channel, so the two complement each other. `pooling_weights` are those of the first term. Call
    `adapt` before training.

    Args:
        **kwargs: Those of `GeneralizedSumPooling`.

    Returns:
        As `GeneralizedSumPooling`. A bag without any valid feature is pooled to 0.

    Raises:
        ValueError: As `GeneralizedSumPooling`.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 5.3.5: selection by
        channel is orthogonal to selection by place.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml.layers import pooling
        >>> layer = pooling.GeneralizedSumMaxPooling(prototypes=8, ratio=0.3)
        >>> tuple(layer(tf.random.normal((2, 7, 7, 16))).shape)
        (2, 16)
    """

    def combine(self, bags: tf.Tensor, weights: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        return super().combine(bags, weights, mask) + _greatest(bags, mask)


def _greatest(bags, mask):
    """Maximum of each channel over the valid features; 0 for a bag without any."""
    if mask is None:
        return tf.reduce_max(bags, axis=1)
    greatest = tf.reduce_max(tf.where(mask[..., None], bags, bags.dtype.min), axis=1)
    some = tf.reduce_any(mask, axis=1, keepdims=True)
    return tf.where(some, greatest, tf.zeros_like(greatest))
