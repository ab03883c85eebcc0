"""SoftTriple loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_not_negative, check_positive
from tfdml.losses.base import MetricLoss
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class SoftTripleLoss(MetricLoss):
    r"""Cross-entropy over classes with several centers each, with a margin; redundant centers merge.

    Use it for classes that consist of several clusters (poses, styles), with `tfdml.layers.ClassProxies(per_class=…)`
    of more than one proxy per class through `MetricModel`. It normalizes embeddings and proxies itself.

    The similarity of a sample to a class $c$ with references $R_c$ favors the most similar of them:

    $$S_{ic} = \sum_{k \in R_c} \frac{e^{g s_{ik}}}{\sum_{l \in R_c} e^{g s_{il}}} \, s_{ik}, \qquad
      \frac{1}{b} \sum_i -\log \frac{e^{\lambda (S_{i y_i} - \delta)}}
      {e^{\lambda (S_{i y_i} - \delta)} + \sum_{c \ne y_i} e^{\lambda S_{ic}}}.$$

    With $K > 1$ class proxies for each of $C$ classes, a penalty on the distances between the unit-length centers $w$
    of each class is added, so that redundant centers merge:

    $$\frac{\tau}{C K (K - 1)} \sum_c \sum_{k < l} \lVert w_{ck} - w_{cl} \rVert.$$

    Against a memory or inside the batch, the samples are the centers of their classes; a sample is not a center for
    itself. Only references of pairs that count take part. A sample without a positive or without a negative has the
    value 0.

    Args:
        scale: float, > 0. $\lambda$. Default: 20.
        center_scale: float, > 0. $g$, the paper's $1 / \gamma$. Default: 10.
        margin: float, >= 0. $\delta$. Default: 0.01.
        center_weight: float, >= 0. $\tau$. Default: 0.2.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If a scale is not positive, or the margin or the weight is negative.

    Reference:
        Qian et al., "SoftTriple loss: Deep metric learning without triplet sampling", ICCV 2019, eqs. 8-12.

    Example:
        >>> from tfdml import layers, losses
        >>> loss = losses.SoftTripleLoss(margin=0.0)
        >>> proxies = layers.References([[0.0, 1.0], [0.0, 2.0], [0.0, -1.0], [0.0, -2.0]], [0, 0, 1, 1], per_class=2)
        >>> round(float(loss.against([0], [[2.0, 0.0]], proxies)[0]), 4)  # orthogonal to all
        0.6931
    """

    needs_classes = True

    def __init__(
        self,
        scale: float = 20.0,
        center_scale: float = 10.0,
        margin: float = 0.01,
        center_weight: float = 0.2,
        name: str = "soft_triple",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.scale = check_positive("scale", scale)
        self.center_scale = check_positive("center_scale", center_scale)
        self.margin = check_not_negative("margin", margin)
        self.center_weight = check_not_negative("center_weight", center_weight)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        similarities, own, other = self._of_classes(pairs)
        target = tf.reduce_sum(tf.where(own, similarities - self.margin, tf.zeros_like(similarities)), axis=0)
        others = ops.masked_logsumexp(self.scale * similarities, other, axis=0)
        values = tf.where(
            tf.reduce_any(own, axis=0), tf.nn.softplus(others - self.scale * target), tf.zeros_like(target)
        )
        references = pairs.references
        if self.center_weight and (references.per_class or 1) > 1:
            values += self.center_weight * _spread_of_centers(references.embeddings, references.per_class)
        return values

    def _of_classes(self, pairs):
        """Similarities to classes, `(classes, batch)`, with the masks of the own class and of other classes."""
        classes = _ReferencesByClass(pairs)
        cosines = tf.transpose(pairs.cosines())
        counts = tf.transpose(pairs.positives | pairs.negatives)
        logits = tf.where(counts, self.center_scale * cosines, tf.fill(tf.shape(cosines), cosines.dtype.min))
        largest = tf.stop_gradient(classes.maximum(logits))
        weights = tf.where(counts, tf.exp(logits - classes.spread(largest)), tf.zeros_like(cosines))
        total = classes.sum(weights)
        some = total > 0
        similarities = classes.sum(weights * cosines) / tf.where(some, total, tf.ones_like(total))
        own = classes.labels[:, None] == pairs.labels[None, :]
        return similarities, some & own, some & ~own


class _ReferencesByClass:
    """Reduces `(references, n)` over the references of each class, to `(classes, n)`.

    If references are not sorted by class, there are as many rows as references, and the last ones are empty.
    """

    def __init__(self, pairs):
        self.per_class = pairs.references.per_class
        labels = pairs.references.labels
        if self.per_class:
            self.labels = labels[:: self.per_class]
            return
        order = tf.argsort(labels)
        ordered = tf.gather(labels, order)
        # The first row never starts a new number. The slice also handles an empty list of references.
        begins = tf.concat([tf.zeros_like(ordered[:1], tf.bool), ordered[1:] != ordered[:-1]], axis=0)
        numbers = tf.cumsum(tf.cast(begins, tf.int32))
        self.numbers = tf.scatter_nd(order[:, None], numbers, tf.shape(labels))
        self.labels = tf.math.unsorted_segment_max(labels, self.numbers, tf.shape(labels)[0])

    def sum(self, values):
        if self.per_class:
            return tf.reduce_sum(self._split(values), axis=1)
        return tf.math.unsorted_segment_sum(values, self.numbers, tf.shape(values)[0])

    def maximum(self, values):
        if self.per_class:
            return tf.reduce_max(self._split(values), axis=1)
        return tf.math.unsorted_segment_max(values, self.numbers, tf.shape(values)[0])

    def spread(self, values):
        """The reverse of a reduction: give each reference the value of its class."""
        return tf.repeat(values, self.per_class, axis=0) if self.per_class else tf.gather(values, self.numbers)

    def _split(self, values):
        return tf.reshape(values, (-1, self.per_class, tf.shape(values)[1]))


def _spread_of_centers(centers, per_class):
    centers = ops.l2_normalize(tf.reshape(centers, (-1, per_class, centers.shape[-1] or tf.shape(centers)[-1])))
    distances = ops.pairwise_distances(centers)
    # Each pair is counted twice.
    return tf.reduce_mean(tf.reduce_sum(distances, axis=(1, 2))) / (2 * per_class * (per_class - 1))
