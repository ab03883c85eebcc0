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
    r"""Picks each positive out of the anchor's negatives; the anchor's other positives take no part.

    With cosine similarities $s$,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i}
      -\log \frac{e^{s_{ip} / \tau}}{e^{s_{ip} / \tau} + \sum_{n \in N_i} e^{s_{in} / \tau}}$$

    Two views of each sample, labelled by the sample, make it NT-Xent. An anchor without a positive or without a
    negative is worth 0.

    Args:
        temperature: $\tau > 0$.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If the temperature is not above 0.

    Reference:
        van den Oord et al., "Representation learning with contrastive predictive coding", 2018; Chen et al., "A simple
        framework for contrastive learning of visual representations", ICML 2020, eq. 1.

    Example:
        >>> loss = InfoNCELoss(temperature=1.0)
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
