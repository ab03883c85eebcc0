"""ProxyNCA++ loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_positive
from tfdml.losses.base import MetricLoss
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class ProxyNCAPlusPlusLoss(MetricLoss):
    r"""Negative log-probability of a sample's own class in a softmax over squared distances to proxies.

    `ProxyNCALoss` with a proper softmax and a temperature. Use it with `tfdml.layers.ClassProxies` through
    `MetricModel` and a larger learning rate for the proxies (`compile(reference_optimizer=…)`). On squared distances
    $d^2$ of L2-normalized vectors (the loss normalizes them itself),

    $$\frac{1}{b} \sum_i -\log \frac{\sum_{p \in P_i} e^{-d_{ip}^2 / T}}{\sum_{k \in P_i \cup N_i} e^{-d_{ik}^2 / T}}.$$

    A sample without a positive has the value 0. Max pooling, the paper's other change, is a choice of the embedder.

    Args:
        temperature: float, > 0. $T$; 1/9 in the paper, 0.1 in the thesis. Default: 0.1.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference:
        Teh et al., "ProxyNCA++: Revisiting and revitalizing proxy neighborhood component analysis", ECCV 2020, eqs.
        6-7; Gürbüz, METU 2022, section 3.3.2.1.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.ProxyNCAPlusPlusLoss(temperature=1.0)
        >>> proxies = layers.References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # equally far from both
        0.6931
    """

    needs_classes = True

    def __init__(self, temperature: float = 0.1, name: str = "proxy_nca_plus_plus", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        # -d² = 2 cos - 2, and the constant cancels in the quotient.
        logits = 2.0 / self.temperature * pairs.cosines()
        difference = ops.masked_logsumexp(logits, pairs.negatives) - ops.masked_logsumexp(logits, pairs.positives)
        some = tf.reduce_any(pairs.positives, axis=1)
        return tf.where(some, tf.nn.softplus(difference), tf.zeros_like(difference))
