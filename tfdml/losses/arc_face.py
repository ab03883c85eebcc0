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
    r"""Cross-entropy of cosine similarities with a margin on the angle.

    On angles $\theta$ of embeddings and references,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} -\log \frac{e^{s \, t(\theta_{ip})}}
      {e^{s \, t(\theta_{ip})} + \sum_{n \in N_i} e^{s \cos \theta_{in}}}, \qquad
      t(\theta) = \begin{cases} \cos(\theta + m) & \theta + m \le \pi \\ \cos \theta - m \sin m & \text{otherwise.}
      \end{cases}$$

    The second case, that of the authors' code, goes on falling where $\cos(\theta + m)$ would rise again; it is lower
    than the first where they meet. A sample without a positive or without a negative is worth 0. The paper has one
    proxy for each class, so one positive; of several, each is set against the negatives. Among samples, without
    proxies, half a radian draws everything to one point; 10° trains.

    Args:
        margin: $m$ in degrees, from 0 to 90; 28.6 are half a radian.
        scale: $s > 0$.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If the margin is not from 0 to 90 or the scale not positive.

    Reference:
        Deng et al., "ArcFace: Additive angular margin loss for deep face recognition", CVPR 2019, eq. 3.

    Example:
        >>> from tfdml.layers import References
        >>> loss = ArcFaceLoss(margin=90, scale=1.0)
        >>> proxies = References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[0.0, 1.0]], proxies)[0]), 4)  # log(1 + exp(cos 180° - cos 90°))
        0.3133
    """

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
    """The sines, not negative, with a zero gradient at 0, where the root's is infinite."""
    squared = (1.0 - cosines) * (1.0 + cosines)
    straight = squared <= 0.0
    return tf.where(straight, tf.zeros_like(squared), tf.sqrt(tf.where(straight, tf.ones_like(squared), squared)))
