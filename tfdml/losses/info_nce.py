"""InfoNCE loss, also known as NT-Xent."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_positive
from tfdml.losses.base import MetricLoss
from tfdml.losses.softmax import cross_entropy_with_negatives
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class InfoNCELoss(MetricLoss):
    r"""Cross-entropy of each positive against the negatives of its anchor.

    The usual loss for contrastive learning, also known as NT-Xent. Use it inside the batch or with a memory, with class
    labels or with two views of each sample. Unlike `SupervisedContrastiveLoss`, the positives of an anchor do not
    compete with each other. It normalizes the embeddings itself.

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i}
      -\log \frac{e^{s_{ip} / \tau}}{e^{s_{ip} / \tau} + \sum_{n \in N_i} e^{s_{in} / \tau}}$$

    For NT-Xent, pass two views of each sample and use the index of the sample as the label. An anchor without a
    positive or without a negative has the value 0.

    Args:
        temperature: float, > 0. $\tau$. Lower values put more weight on the hardest negatives. Default: 0.07.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference:
        van den Oord et al., "Representation learning with contrastive predictive coding", 2018; Chen et al., "A simple
        framework for contrastive learning of visual representations", ICML 2020, eq. 1.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.InfoNCELoss(temperature=1.0)
        >>> values = loss.call([0, 0, 1], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(values[0]), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(self, temperature: float = 0.07, name: str = "info_nce", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        logits = pairs.cosines() / self.temperature
        return cross_entropy_with_negatives(logits, logits, pairs)
