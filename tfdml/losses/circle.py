"""Circle loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_between, check_positive
from tfdml.losses.base import MetricLoss
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class CircleLoss(MetricLoss):
    r"""Weights each similarity by its distance from its optimum.

    Pairs that are already good get small gradients, so positives and negatives improve at their own pace. Use it inside
    the batch or with a memory. It normalizes the embeddings itself. With $\alpha_p = [1 + m - s_p]_+$ and
    $\alpha_n = [s_n + m]_+$,

    $$\frac{1}{b} \sum_i \log \Big( 1 + \sum_{n \in N_i} e^{\gamma \alpha_n (s_n - m)}
      \sum_{p \in P_i} e^{-\gamma \alpha_p (s_p - 1 + m)} \Big)$$

    The weights $\alpha$ only set the pace: no gradient flows through them, so the gradient is not that of the value. An
    anchor without a positive or without a negative has the value 0.

    Args:
        margin: float, 0 to 1. $m$: similarities of positives should exceed $1 - m$, those of negatives stay below $m$.
            Default: 0.4.
        scale: float, > 0. $\gamma$. Default: 80.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin or the scale is out of range.

    Reference:
        Sun et al., "Circle loss: a unified perspective of pair similarity optimization", CVPR 2020, section 3.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.CircleLoss(margin=0.5, scale=4.0)
        >>> values = loss.call([0, 0, 1], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(values[0]), 4)  # log(1 + exp(4 * 0.5 * -0.5 - 4 * 0.5 * 0.5))
        0.1269
    """

    def __init__(self, margin: float = 0.4, scale: float = 80.0, name: str = "circle", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_between("margin", margin, 0.0, 1.0)
        self.scale = check_positive("scale", scale)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        similarities = pairs.cosines()
        fixed = tf.stop_gradient(similarities)
        of_positives = self.scale * tf.nn.relu(1.0 + self.margin - fixed) * (1.0 - self.margin - similarities)
        of_negatives = self.scale * tf.nn.relu(fixed + self.margin) * (similarities - self.margin)
        return tf.nn.softplus(
            ops.masked_logsumexp(of_negatives, pairs.negatives) + ops.masked_logsumexp(of_positives, pairs.positives)
        )
