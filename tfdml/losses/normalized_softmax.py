"""Normalized softmax loss."""

from __future__ import annotations

from typing import Any

import keras

from tfdml.losses.info_nce import InfoNCELoss


@keras.saving.register_keras_serializable(package="tfdml")
class NormalizedSoftmaxLoss(InfoNCELoss):
    r"""Cross-entropy of cosine similarities with a temperature.

    Plain classification on unit vectors, without a margin: a simple proxy baseline. Use it with
    `tfdml.layers.ClassProxies` through `MetricModel`. It normalizes embeddings and proxies itself, and is `InfoNCELoss`
    with another default temperature.

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s_{ip} / T}}
      {e^{s_{ip} / T} + \sum_{n \in N_i} e^{s_{in} / T}}.$$

    A sample without a positive or without a negative has the value 0. The paper has one proxy per class and so one
    positive per sample; each of several positives is compared with the negatives on its own.

    Args:
        temperature: float, > 0. $T$. Default: 0.05.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference:
        Zhai and Wu, "Classification is a strong baseline for deep metric learning", BMVC 2019, section 3.2.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.NormalizedSoftmaxLoss()
        >>> proxies = layers.References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # orthogonal to both
        0.6931
    """

    needs_classes = True

    def __init__(self, temperature: float = 0.05, name: str = "normalized_softmax", **kwargs: Any) -> None:
        super().__init__(temperature, name, **kwargs)
