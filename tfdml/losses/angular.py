"""Angular loss."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_positive
from tfdml.losses.base import MetricLoss
from tfdml.ops.pairs import Pairs

# No triangle's smallest angle is larger. It also keeps what is summed, exp of at most 8 tan² in size, within e^±24.
LARGEST_ANGLE = 60.0


@keras.saving.register_keras_serializable(package="tfdml")
class AngularLoss(MetricLoss):
    r"""Bounds the angle at the negative in each triangle of anchor, positive and negative.

    With L2-normalised embeddings and $t = \tan \alpha$,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} \log \Big( 1 +
      \sum_{n \in N_i} e^{4 t^2 (x_i + x_p)^\top x_n - 2 (1 + t^2) x_i^\top x_p} \Big)$$

    The exponential of a sum is a product, so the sums over the negatives of all pairs are one matrix product. Nothing
    is larger than `(batch, references)`, except that against a memory or proxies the similarities of references among
    themselves are needed, `(references, references)`. An anchor without a positive or without a negative is worth 0.

    Args:
        angle: $\alpha$ in degrees, above 0 and up to 60: the smallest angle of a triangle is not larger.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If the angle is out of its range.

    Reference:
        Wang et al., "Deep metric learning with angular loss", ICCV 2017, section 3.3.

    Example:
        >>> loss = AngularLoss(angle=45.0)
        >>> values = loss.call([0, 0, 1], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(values[0]), 4)  # log(1 + exp(-4))
        0.0181
    """

    def __init__(self, angle: float = 40.0, name: str = "angular", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.angle = check_positive("angle", angle)
        if self.angle > LARGEST_ANGLE:
            raise ValueError(f"Received: angle={angle!r}; expected 0 < angle <= {LARGEST_ANGLE:g} degrees.")

    def compare(self, pairs: Pairs) -> tf.Tensor:
        tangent_squared = math.tan(math.radians(self.angle)) ** 2
        similarities = pairs.cosines()
        of_anchors = tf.exp(4.0 * tangent_squared * similarities)
        references = pairs.references.embeddings
        of_positives = of_anchors if pairs.in_batch else tf.exp(4.0 * tangent_squared * _cosines(references))
        sums = tf.matmul(
            tf.where(pairs.negatives, of_anchors, tf.zeros_like(of_anchors)), of_positives, transpose_b=True
        )
        some = tf.reduce_any(pairs.negatives, axis=1, keepdims=True)
        negative_logits = tf.math.log(tf.where(some, sums, tf.ones_like(sums)))
        terms = tf.nn.softplus(negative_logits - 2.0 * (1.0 + tangent_squared) * similarities)
        return ops.masked_mean(terms, pairs.positives & some)


def _cosines(vectors):
    vectors = ops.l2_normalize(vectors)
    return tf.matmul(vectors, vectors, transpose_b=True)
