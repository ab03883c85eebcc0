"""Normalised softmax loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_positive
from tfdml.losses.base import MetricLoss
from tfdml.losses.softmax import cross_entropy_with_negatives
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class NormalizedSoftmaxLoss(MetricLoss):
    r"""Cross-entropy of cosine similarities with a temperature.

    On cosine similarities $s$,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s_{ip} / T}}
      {e^{s_{ip} / T} + \sum_{n \in N_i} e^{s_{in} / T}}.$$

    A sample without a positive or without a negative is worth 0. The paper has one proxy for each class, so one
    positive; of several, each is set against the negatives.

    Args:
        temperature: $T > 0$.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference:
        Zhai and Wu, "Classification is a strong baseline for deep metric learning", BMVC 2019, section 3.2.

    Example:
        >>> from tfdml.layers import References
        >>> loss = NormalizedSoftmaxLoss()
        >>> proxies = References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # orthogonal to both
        0.6931
    """

    def __init__(self, temperature: float = 0.05, name: str = "normalized_softmax", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.temperature = check_positive("temperature", temperature)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        logits = pairs.cosines() / self.temperature
        return cross_entropy_with_negatives(logits, logits, pairs)
