"""Proxy-NCA loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_positive
from tfdml.losses.base import MetricLoss
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class ProxyNCALoss(MetricLoss):
    r"""Compares the distances to a sample's own proxies with those to all other proxies.

    The first proxy loss, kept as a baseline; `ProxyNCAPlusPlusLoss` is its successor. Use it with
    `tfdml.layers.ClassProxies` through `MetricModel`. On squared distances $d^2$ of L2-normalized vectors (the loss
    normalizes them itself),

    $$\frac{1}{b} \sum_i -\log \frac{\sum_{p \in P_i} e^{-s \, d_{ip}^2}}{\sum_{n \in N_i} e^{-s \, d_{in}^2}}.$$

    The denominator does not contain the positives, so the loss can be negative. A sample without a positive or without
    a negative has the value 0. The paper has one proxy per class.

    Args:
        scale: float, > 0. $s$. Default: 1, as in the paper.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the scale is not positive.

    Reference:
        Movshovitz-Attias et al., "No fuss distance metric learning using proxies", ICCV 2017, eqs. 4 and 6.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.ProxyNCALoss()
        >>> proxies = layers.References([[1.0, 0.0], [-1.0, 0.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # -log(exp(0) / exp(-4))
        -4.0
    """

    needs_classes = True

    def __init__(self, scale: float = 1.0, name: str = "proxy_nca", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.scale = check_positive("scale", scale)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        # -d² = 2 cos - 2, and the constant cancels in the quotient.
        logits = 2.0 * self.scale * pairs.cosines()
        difference = ops.masked_logsumexp(logits, pairs.negatives) - ops.masked_logsumexp(logits, pairs.positives)
        both = tf.reduce_any(pairs.positives, axis=1) & tf.reduce_any(pairs.negatives, axis=1)
        return tf.where(both, difference, tf.zeros_like(difference))
