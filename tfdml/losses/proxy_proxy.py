"""Proxy-proxy loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_not_negative, check_positive
from tfdml.losses.base import MetricLoss, share
from tfdml.losses.proxy_anchor import pull_by_references
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class ProxyProxyLoss(MetricLoss):
    r"""Proxies pull the samples of their class and push the proxies of other classes.

    `ProxyAnchorLoss` with another second term: classes are separated through their proxies instead of through samples.
    Use it with `tfdml.layers.ClassProxies` through `MetricModel`. It normalizes embeddings and proxies itself.

    With all references $W$, those $W^+$ that have a positive sample in the batch $X$, the positive samples $X_w^+$ of a
    reference, and the references $W_w^-$ of other classes,

    $$\frac{1}{|W^+|} \sum_{w \in W^+} \log \Big( 1 + \sum_{x \in X_w^+} e^{-\alpha (s(x, w) - \lambda)} \Big)
      + \frac{1}{|W|} \sum_{w \in W} \log \Big( 1 + \sum_{v \in W_w^-} e^{\alpha (z_{wv} + \lambda)} \Big).$$

    The first variant has $z_{wv} = s(w, v)$. The second (`through_batch`) measures the similarity of two references
    through the samples of the batch, $z_{wv} = \sum_{x \in X} s(w, x) \, s(x, v)$.

    This is one value for the batch as a whole, which every sample gets. Without proxies, the samples of the batch stand
    in for them. All references are compared with each other, so memory grows with the square of their number.

    Args:
        margin: float, >= 0. $\lambda$. Default: 0.1.
        scale: float, > 0. $\alpha$. Default: 32.
        through_batch: bool. Whether to use the second variant. Default: `False`.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`. A miner selects pairs of a sample and a reference. It
            selects pairs of two references only inside the batch, where both are the same.

    Raises:
        ValueError: If the margin is negative, the scale is not positive, or `through_batch` is not a bool.

    Reference:
        Psomas, "Metric learning: a deep dive", master's thesis presentation, 2020, "Our method".

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.ProxyProxyLoss(margin=0.0, scale=1.0)
        >>> proxies = layers.References([[0.0, 1.0], [3.0, 0.0]], [0, 1])
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # all are orthogonal: log 2 + log 2
        1.3863
    """

    needs_classes = True

    def __init__(
        self,
        margin: float = 0.1,
        scale: float = 32.0,
        through_batch: bool = False,
        name: str = "proxy_proxy",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_not_negative("margin", margin)
        self.scale = check_positive("scale", scale)
        self.through_batch = check_choice("through_batch", through_batch, (False, True))

    def compare(self, pairs: Pairs) -> tf.Tensor:
        cosines = pairs.cosines()
        if self.through_batch:
            similarities = tf.matmul(cosines, cosines, transpose_a=True)
        elif pairs.in_batch:
            similarities = cosines
        else:
            references = ops.l2_normalize(pairs.references.embeddings)
            similarities = tf.matmul(references, references, transpose_b=True)
        pushes = tf.nn.softplus(
            ops.masked_logsumexp(self.scale * (similarities + self.margin), _negative_references(pairs))
        )
        pull = pull_by_references(cosines, pairs, self.margin, self.scale)
        return share(pull + ops.masked_mean(pushes, pairs.references.valid), pairs)


def _negative_references(pairs):
    """For each reference, the mask of references of other classes, bool `(references, references)`."""
    if pairs.in_batch:
        return pairs.negatives
    references = pairs.references
    return ops.pair_masks(references.labels, references.labels, references.valid).negatives
