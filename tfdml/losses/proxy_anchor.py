"""Proxy-Anchor loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_not_negative, check_positive
from tfdml.losses.base import MetricLoss, share
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class ProxyAnchorLoss(MetricLoss):
    r"""Each proxy pulls the samples of its class and pushes all others, the hardest ones most.

    Because proxies are the anchors, each sample's gradient depends on the other samples of the batch, which plain proxy
    losses ignore. Use it with `tfdml.layers.ClassProxies` through `MetricModel` and a larger learning rate for the
    proxies (`compile(reference_optimizer=…)`). It normalizes embeddings and proxies itself.

    With all references $W$, those $W^+$ that have a positive sample in the batch $X$, and the positive and negative
    samples $X_w^+, X_w^-$ of a reference,

    $$\frac{1}{|W^+|} \sum_{w \in W^+} \log \Big( 1 + \sum_{x \in X_w^+} e^{-\alpha (s(x, w) - \delta)} \Big)
      + \frac{1}{|W|} \sum_{w \in W} \log \Big( 1 + \sum_{x \in X_w^-} e^{\alpha (s(x, w) + \delta)} \Big).$$

    This is one value for the batch as a whole, which every sample gets. The formula also applies to a memory, and to
    the batch itself, whose samples then stand in for the proxies.

    Args:
        margin: float, >= 0. $\delta$. Default: 0.1.
        scale: float, > 0. $\alpha$. Default: 32.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin is negative or the scale is not positive.

    Reference:
        Kim et al., "Proxy anchor loss for deep metric learning", CVPR 2020, eq. 4.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.ProxyAnchorLoss(margin=0.0, scale=1.0)
        >>> proxies = layers.References([[0.0, 1.0], [0.0, -1.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # log 2 + (log 2 + 0) / 2
        1.0397
    """

    needs_classes = True

    def __init__(self, margin: float = 0.1, scale: float = 32.0, name: str = "proxy_anchor", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_not_negative("margin", margin)
        self.scale = check_positive("scale", scale)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        cosines = pairs.cosines()
        pushes = tf.nn.softplus(ops.masked_logsumexp(self.scale * (cosines + self.margin), pairs.negatives, axis=0))
        pull = pull_by_references(cosines, pairs, self.margin, self.scale)
        return share(pull + ops.masked_mean(pushes, pairs.references.valid), pairs)


def pull_by_references(cosines, pairs, margin, scale):
    r"""The term of Proxy-Anchor by which references pull their samples.

    $$\frac{1}{|W^+|} \sum_{w \in W^+} \log \Big( 1 + \sum_{x \in X_w^+} e^{-\alpha (s(x, w) - \delta)} \Big)$$

    Args:
        cosines: Tensor `(batch, references)`. $s$.
        pairs: `tfdml.ops.Pairs`. The mask of the positive pairs that count.
        margin: float. $\delta$.
        scale: float. $\alpha$.

    Returns:
        Scalar tensor. It is 0, with a zero gradient, without a positive pair.
    """
    pulls = tf.nn.softplus(ops.masked_logsumexp(scale * (margin - cosines), pairs.positives, axis=0))
    return ops.masked_mean(pulls, tf.reduce_any(pairs.positives, axis=0))
