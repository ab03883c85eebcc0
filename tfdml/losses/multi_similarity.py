"""Multi-similarity loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_between, check_not_negative, check_positive
from tfdml.losses.base import MetricLoss
from tfdml.miners import MultiSimilarityMiner
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class MultiSimilarityLoss(MetricLoss):
    r"""Weights each pair by its own similarity and by its similarity relative to the other pairs of the sample.

    A good first choice for class labels, inside the batch or with a memory. It includes a miner that drops easy pairs,
    and normalizes the embeddings itself. With the positives $P_i$ and negatives $N_i$ that the miner keeps,

    $$\frac{1}{b} \sum_i \Big\{ \frac{1}{\alpha} \log \Big[ 1 + \sum_{k \in P_i} e^{-\alpha (s_{ik} - \lambda)} \Big]
      + \frac{1}{\beta} \log \Big[ 1 + \sum_{k \in N_i} e^{\beta (s_{ik} - \lambda)} \Big] \Big\}.$$

    The miner keeps negatives with $s_{in} > \min_{p} s_{ip} - \varepsilon$ and positives with
    $s_{ip} < \max_{n} s_{in} + \varepsilon$.

    Args:
        alpha: float, > 0. $\alpha$, scale of the positives. Default: 2.
        beta: float, > 0. $\beta$, scale of the negatives. Default: 50.
        base: float, -1 to 1. $\lambda$, the similarity above which negatives and below which positives weigh most.
            Default: 0.5.
        epsilon: float, >= 0, or `None`. $\varepsilon$ of the miner; `None` turns it off. Default: 0.1.
        name: str. Name of the loss.
        **kwargs: `miner` (applied before the built-in one) and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If a scale is not positive, `base` is not a similarity, or `epsilon` is negative.

    Reference:
        Wang et al., "Multi-similarity loss with general pair weighting for deep metric learning", CVPR 2019.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.MultiSimilarityLoss()
        >>> near, far = [[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]
        >>> bool(loss([0, 0, 1], near) < loss([0, 0, 1], far))
        True
    """

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 50.0,
        base: float = 0.5,
        epsilon: float | None = 0.1,
        name: str = "multi_similarity",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.alpha = check_positive("alpha", alpha)
        self.beta = check_positive("beta", beta)
        self.base = check_between("base", base, -1.0, 1.0)
        self.epsilon = None if epsilon is None else check_not_negative("epsilon", epsilon)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        if self.epsilon is not None:
            pairs = MultiSimilarityMiner(self.epsilon).mine(pairs)
        excess = pairs.cosines() - self.base
        pulls = tf.nn.softplus(ops.masked_logsumexp(-self.alpha * excess, pairs.positives)) / self.alpha
        pushes = tf.nn.softplus(ops.masked_logsumexp(self.beta * excess, pairs.negatives)) / self.beta
        return pulls + pushes
