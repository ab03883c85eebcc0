"""Supervised contrastive loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_positive
from tfdml.losses.base import MetricLoss
from tfdml.losses.softmax import cross_entropy_over_all
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class SupervisedContrastiveLoss(MetricLoss):
    r"""Gives each positive its share of a softmax over all that the anchor is compared with.

    With cosine similarities $s$, the form called $L_{out}$ (the logarithm inside the mean over the positives):

    $$\frac{1}{b} \sum_i -\frac{1}{|P_i|} \sum_{p \in P_i}
      \log \frac{e^{s_{ip} / \tau}}{\sum_{k \in P_i \cup N_i} e^{s_{ik} / \tau}}$$

    An anchor without a positive is worth 0. With more than one positive the loss stays above 0: they share the softmax.

    Args:
        temperature: $\tau > 0$.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If the temperature is not above 0.

    Reference:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, eq. 2.

    Example:
        >>> loss = SupervisedContrastiveLoss(temperature=1.0)
        >>> values = loss.call([0, 0, 1], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(values[0]), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(self, temperature: float = 0.1, name: str = "supervised_contrastive", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        return cross_entropy_over_all(pairs.cosines() / self.temperature, pairs)
