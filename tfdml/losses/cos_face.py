"""CosFace loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_not_negative, check_positive
from tfdml.losses.base import MetricLoss
from tfdml.losses.softmax import cross_entropy_with_negatives
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class CosFaceLoss(MetricLoss):
    r"""Cross-entropy of scaled cosine similarities with an additive margin on the cosine.

    Like `ArcFaceLoss`, with the margin on the cosine instead of the angle. Use it with `tfdml.layers.ClassProxies`
    through `MetricModel`. It normalizes embeddings and proxies itself. With the angles $\theta$ between embeddings and
    references,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s (\cos \theta_{ip} - m)}}
      {e^{s (\cos \theta_{ip} - m)} + \sum_{n \in N_i} e^{s \cos \theta_{in}}}.$$

    A sample without a positive or without a negative has the value 0. The paper has one proxy per class and so one
    positive per sample; each of several positives is compared with the negatives on its own.

    Args:
        margin: float, >= 0. $m$. Default: 0.35.
        scale: float, > 0. $s$, the inverse temperature of the softmax. Default: 64.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin is negative or the scale is not positive.

    Reference:
        Wang et al., "CosFace: Large margin cosine loss for deep face recognition", CVPR 2018, eq. 4.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.CosFaceLoss(margin=0.0, scale=1.0)
        >>> proxies = layers.References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # orthogonal to both
        0.6931
    """

    needs_classes = True

    def __init__(self, margin: float = 0.35, scale: float = 64.0, name: str = "cos_face", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_not_negative("margin", margin)
        self.scale = check_positive("scale", scale)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        cosines = pairs.cosines()
        return cross_entropy_with_negatives(self.scale * (cosines - self.margin), self.scale * cosines, pairs)
