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

# The smallest angle of a triangle is at most 60°. The bound also keeps the exponents, at most 8 tan², within ±24.
LARGEST_ANGLE = 60.0


@keras.saving.register_keras_serializable(package="tfdml")
class AngularLoss(MetricLoss):
    r"""Bounds the angle at the negative in each triangle of anchor, positive and negative.

    The margin is an angle, so it does not depend on the scale of the embeddings, and the loss considers all three sides
    of a triplet. Use it inside the batch with a few samples per class. It normalizes the embeddings itself.

    With L2-normalized embeddings and $t = \tan \alpha$,

    $$\frac{1}{b} \sum_i \frac{1}{|P_i|} \sum_{p \in P_i} \log \Big( 1 +
      \sum_{n \in N_i} e^{4 t^2 (x_i + r_p)^\top r_n - 2 (1 + t^2) x_i^\top r_p} \Big)$$

    The exponential of the sum is a product, so the sums over the negatives of all pairs are one matrix product, and no
    array exceeds `(batch, references)`. Against a memory or proxies, the similarities between references are computed
    as well, `(references, references)`. An anchor without a positive or without a negative has the value 0.

    Args:
        angle: float, 0 < angle <= 60. $\alpha$ in degrees. The smallest angle of a triangle is at most 60°. Default:
            40.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the angle is out of range.

    Reference:
        Wang et al., "Deep metric learning with angular loss", ICCV 2017, section 3.3.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.AngularLoss(angle=45.0)
        >>> values = loss.call([0, 0, 1], [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
        >>> round(float(values[0]), 4)  # log(1 + exp(-4))
        0.0181
    """

    def __init__(self, angle: float = 40.0, name: str = "angular", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.angle = check_positive("angle", angle)
        if self.angle > LARGEST_ANGLE:
            raise ValueError(
                f"The angle is out of range. Received: angle={angle!r}. Expected: 0 < angle <= {LARGEST_ANGLE:g} "
                "degrees."
            )

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
