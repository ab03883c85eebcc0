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
    r"""Cross-entropy of each positive in a softmax over all other samples.

    InfoNCE for class labels. Use it inside the batch or with a memory; it benefits from large batches. Unlike in
    `InfoNCELoss`, the positives of an anchor share the softmax, so with more than one positive the loss stays above 0.
    It normalizes the embeddings itself. This is the form $L_{out}$, with the logarithm inside the mean over the
    positives:

    $$\frac{1}{b} \sum_i -\frac{1}{|P_i|} \sum_{p \in P_i}
      \log \frac{e^{s_{ip} / \tau}}{\sum_{k \in P_i \cup N_i} e^{s_{ik} / \tau}}$$

    An anchor without a positive has the value 0.

    Args:
        temperature: float, > 0. $\tau$. Default: 0.1.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference:
        Khosla et al., "Supervised contrastive learning", NeurIPS 2020, eq. 2.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.SupervisedContrastiveLoss(temperature=1.0)
        >>> values = loss.call([0, 0, 1], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(values[0]), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(self, temperature: float = 0.1, name: str = "supervised_contrastive", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        return cross_entropy_over_all(pairs.cosines() / self.temperature, pairs)
