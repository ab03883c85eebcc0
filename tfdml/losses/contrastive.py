"""Contrastive loss."""

import keras
import tensorflow as tf

from tfdml import ops
from tfdml.losses.base import MetricLoss

AVERAGES = ("nonzero", "anchor")


@keras.saving.register_keras_serializable(package="tfdml")
class ContrastiveLoss(MetricLoss):
    r"""Pulls positive pairs together and pushes negative pairs apart, up to margins.

    With $[x]_+ = \max(x, 0)$, positive pairs $P$ and negative pairs $N$ of the batch and its references,

    $$\frac{1}{|P^*|} \sum_{(i,j) \in P} [d_{ij} - m^+]_+ \; + \; \frac{1}{|N^*|} \sum_{(i,j) \in N} [m^- - d_{ij}]_+$$

    where $P^*, N^*$ are the pairs whose term is not zero (`average="nonzero"`), the form called C2 in the thesis.
    With `average="anchor"` the terms are summed for each sample and averaged over the batch; on cosine distance
    $d_{ij} = 1 - \cos(x_i, x_j)$ with $m^+ = 0$, $m^- = 0.5$ that is C1, the form of cross-batch memory:
    $\frac{1}{b} \sum_i \big( \sum_{P_i} [1 - s_{ij}]_+ + \sum_{N_i} [s_{ij} - 0.5]_+ \big)$.

    Args:
        positive_margin: $m^+ \ge 0$: positive pairs nearer than that are left alone.
        negative_margin: $m^- > m^+$: negative pairs farther than that are left alone.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`.
        average: `"nonzero"` or `"anchor"`, as above.
        name: Name of the loss.
        reduction: Keras' reduction over the batch.

    Raises:
        ValueError: If a margin is negative, the margins are in the wrong order, or a choice is unknown.

    Reference:
        Hadsell et al., "Dimensionality reduction by learning an invariant mapping", CVPR 2006; Wu et al., "Sampling
        matters in deep embedding learning", ICCV 2017 (positive margin); Wang et al., "Cross-batch memory for
        embedding learning", CVPR 2020 (C1); Gürbüz, METU 2022, section 3.3.2.1.

    Example:
        >>> loss = ContrastiveLoss(negative_margin=0.5)
        >>> float(loss(tf.constant([0, 0, 1]), tf.constant([[0.0], [0.25], [0.5]])))
        0.5
    """

    def __init__(
        self,
        positive_margin=0.0,
        negative_margin=0.5,
        distance="l2",
        average="nonzero",
        name="contrastive",
        reduction="sum_over_batch_size",
    ):
        super().__init__(name=name, reduction=reduction)
        if not 0 <= positive_margin < negative_margin:
            raise ValueError(
                f"Margins do not fit. Received: positive_margin={positive_margin}, "
                f"negative_margin={negative_margin}; expected 0 <= positive_margin < negative_margin."
            )
        ops.check_metric(distance)
        if average not in AVERAGES:
            raise ValueError(f"Unknown average. Received: average={average!r}; expected one of {AVERAGES}.")
        self.positive_margin = float(positive_margin)
        self.negative_margin = float(negative_margin)
        self.distance = distance
        self.average = average

    def compare(self, embeddings, references, positives, negatives):
        same = embeddings is references
        distances = ops.pairwise_distances(embeddings, None if same else references, self.distance)
        pulls = tf.where(positives, tf.nn.relu(distances - self.positive_margin), 0.0)
        pushes = tf.where(negatives, tf.nn.relu(self.negative_margin - distances), 0.0)
        return self._average(pulls) + self._average(pushes)

    def _average(self, terms):
        sums = tf.reduce_sum(terms, axis=1)
        if self.average == "anchor":
            return sums
        batch = tf.cast(tf.shape(terms)[0], terms.dtype)
        nonzero = tf.math.count_nonzero(terms, dtype=terms.dtype)
        return sums * tf.math.divide_no_nan(batch, nonzero)

    def get_config(self):
        return {
            **super().get_config(),
            "positive_margin": self.positive_margin,
            "negative_margin": self.negative_margin,
            "distance": self.distance,
            "average": self.average,
        }
