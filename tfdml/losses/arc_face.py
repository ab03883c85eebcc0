"""ArcFace loss."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_positive
from tfdml.losses.base import MetricLoss
from tfdml.losses.softmax import cross_entropy_with_negatives
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class ArcFaceLoss(MetricLoss):
    r"""Cross-entropy of scaled cosine similarities with an additive margin on the angle.

    A standard for face recognition and other tasks with many classes. Use it with `tfdml.layers.ClassProxies` through
    `MetricModel`. It normalizes embeddings and proxies itself. With the angles $\theta$ between embeddings and
    references,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s \, t(\theta_{ip})}}
      {e^{s \, t(\theta_{ip})} + \sum_{n \in N_i} e^{s \cos \theta_{in}}}, \qquad
      t(\theta) = \begin{cases} \cos(\theta + m) & \theta + m \le \pi \\ \cos \theta - m \sin m & \text{otherwise.}
      \end{cases}$$

    The second case follows the authors' code. It keeps $t$ decreasing where $\cos(\theta + m)$ would increase again,
    and is lower than the first case where they meet. A sample without a positive or without a negative has the value 0.
    The paper has one proxy per class and so one positive per sample; each of several positives is compared with the
    negatives on its own.

    The default margin of half a radian is meant for proxies. Between samples of a batch, without proxies, it collapses
    the embeddings; use `margin=10` there.

    Args:
        margin: float, 0 to 90. $m$ in degrees. Default: 28.6, half a radian.
        scale: float, > 0. $s$, the inverse temperature of the softmax. Default: 64.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin is not between 0 and 90, or the scale is not positive.

    Reference:
        Deng et al., "ArcFace: Additive angular margin loss for deep face recognition", CVPR 2019, eq. 3.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.ArcFaceLoss(margin=90, scale=1.0)
        >>> proxies = layers.References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[0.0, 1.0]], proxies)[0]), 4)  # log(1 + exp(cos 180° - cos 90°))
        0.3133
    """

    needs_classes = True

    def __init__(self, margin: float = 28.6, scale: float = 64.0, name: str = "arc_face", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_between("margin", margin, 0.0, 90.0)
        self.scale = check_positive("scale", scale)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        cosines = pairs.cosines()
        margin = math.radians(self.margin)
        widened = cosines * math.cos(margin) - _sines(cosines) * math.sin(margin)
        beyond = cosines < -math.cos(margin)
        targets = tf.where(beyond, cosines - margin * math.sin(margin), widened)
        return cross_entropy_with_negatives(self.scale * targets, self.scale * cosines, pairs)


def _sines(cosines):
    """The sines, not negative, with a zero gradient at 0, where the gradient of the root is infinite."""
    squared = (1.0 - cosines) * (1.0 + cosines)
    straight = squared <= 0.0
    return tf.where(straight, tf.zeros_like(squared), tf.sqrt(tf.where(straight, tf.ones_like(squared), squared)))
