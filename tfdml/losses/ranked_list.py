"""Ranked list loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_between, check_not_negative, check_positive
from tfdml.losses.base import MarginRequirements, MetricLoss
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class RankedListLoss(MetricLoss):
    r"""Pulls positives into a ball around the anchor and pushes negatives out of a larger one.

    Positives only need to be near, not at the same place, so the variation within a class is kept. Use it inside the
    batch or with a memory. With the positives $P_i^*$ at $d > \alpha - m$ and the negatives $N_i^*$ at $d < \alpha$,

    $$\frac{1}{b} \sum_i \Big( (1 - \lambda) \frac{1}{|P_i^*|} \sum_{p \in P_i^*} (d_{ip} - (\alpha - m)) \; + \;
      \lambda \sum_{n \in N_i^*} w_{in} (\alpha - d_{in}) \Big), \qquad
      w_{in} = \frac{e^{T (\alpha - d_{in})}}{\sum_{k \in N_i^*} e^{T (\alpha - d_{ik})}}$$

    $d$ is the unsquared L2 distance of the embeddings as they are. The paper normalizes them in the network, and the
    defaults are meant for unit vectors. The weights $w$ only scale the gradients of the negatives: no gradient flows
    through them, so the gradient is not that of the value. A side without such pairs contributes 0.

    Args:
        margin: float, 0 to $\alpha$. $m$: positives within $\alpha - m$ contribute nothing. Default: 0.4.
        negative_boundary: float, > 0. $\alpha$: negatives farther away than this contribute nothing. Default: 1.2.
        temperature: float, >= 0. $T$: how strongly closer negatives are preferred; 0 weights all the same. Default: 10.
        balance: float, 0 to 1. $\lambda$: 0 uses only positives, 1 only negatives. Default: 0.5.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Wang et al., "Ranked list loss for deep metric learning", CVPR 2019, section 3.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.RankedListLoss(margin=0.5, negative_boundary=1.0)
        >>> loss.call([0, 0, 1], [[0.0], [1.0], [1.25]]).numpy().tolist()
        [0.25, 0.625, 0.375]
    """

    def __init__(
        self,
        margin: float = 0.4,
        negative_boundary: float = 1.2,
        temperature: float = 10.0,
        balance: float = 0.5,
        name: str = "ranked_list",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.negative_boundary = check_positive("negative_boundary", negative_boundary)
        self.margin = check_between("margin", margin, 0.0, self.negative_boundary)
        self.temperature = check_not_negative("temperature", temperature)
        self.balance = check_between("balance", balance, 0.0, 1.0)

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        return MarginRequirements(self.margin, self.negative_boundary, "l2")

    def compare(self, pairs: Pairs) -> tf.Tensor:
        distances = pairs.distances("l2")
        too_far = distances - (self.negative_boundary - self.margin)
        pulls = ops.masked_mean(too_far, pairs.positives & (too_far > 0.0))
        too_near = self.negative_boundary - distances
        pushes = self._weighted_mean(too_near, pairs.negatives & (too_near > 0.0))
        return (1.0 - self.balance) * pulls + self.balance * pushes

    def _weighted_mean(self, values, mask):
        logits = self.temperature * tf.stop_gradient(values)
        logits -= ops.masked_logsumexp(logits, mask)[:, None]
        # Outside of the mask the exponential can be infinite, and 0 times infinity is NaN.
        weights = tf.exp(tf.where(mask, logits, tf.zeros_like(logits)))
        return ops.masked_sum(weights * values, mask)
