"""Lifted structure losses: the form of Song et al. with pairs, and the generalized form with one term per anchor."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_not_negative
from tfdml._utils.types import DistanceName
from tfdml.losses.base import MarginRequirements, MetricLoss, per_sample_share
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class LiftedStructureLoss(MetricLoss):
    r"""Compares each positive pair with the negatives of both of its samples.

    Each positive pair sees all negatives in the batch through a smooth maximum, not just one as in a triplet. It is
    made for use inside the batch. `GeneralizedLiftedStructureLoss` also suits memories. With the ordered positive pairs
    $P$,

    $$J_{ij} = d_{ij} + \log \Big( \sum_{n \in N_i} e^{m - d_{in}} + \sum_{n \in N_j} e^{m - d_{jn}} \Big), \qquad
      L = \frac{1}{2 |P|} \sum_{(i,j) \in P} [J_{ij}]_+^2$$

    Against a memory or proxies, $N_j$ are the samples of the batch for which reference $j$ is a negative: references
    are compared with the batch, never with each other. A pair without any negative has the value 0, but counts in
    $|P|$.

    Margins on `"l2"` distances are meant for unit vectors.

    Args:
        margin: float, >= 0. $m$. Default: 1.
        distance: `"l2"` (unsquared, as in TensorFlow Addons), `"squared_l2"` or `"cosine"`. Default: `"l2"`.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin is negative or the distance is unknown.

    Reference:
        Song et al., "Deep metric learning via lifted structured feature embedding", CVPR 2016, eq. 4.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.LiftedStructureLoss()
        >>> round(float(loss([0, 0, 1], [[0.0], [0.0], [1.0]])), 4)  # log(1 + 1) squared, halved
        0.2402
    """

    def __init__(
        self, margin: float = 1.0, distance: DistanceName = "l2", name: str = "lifted_structure", **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_not_negative("margin", margin)
        self.distance = check_choice("distance", distance, ops.DISTANCES)

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        return MarginRequirements(self.margin, self.margin, self.distance)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        distances = pairs.distances(self.distance)
        of_anchors = ops.masked_logsumexp(self.margin - distances, pairs.negatives, axis=1)
        of_references = ops.masked_logsumexp(self.margin - distances, pairs.negatives, axis=0)
        terms = tf.nn.relu(_log_add_exp(of_anchors[:, None], of_references[None, :]) + distances)
        sums = ops.masked_sum(tf.square(terms), pairs.positives) / 2.0
        return per_sample_share(sums, tf.math.count_nonzero(pairs.positives), pairs)


@keras.saving.register_keras_serializable(package="tfdml")
class GeneralizedLiftedStructureLoss(MetricLoss):
    r"""Compares all positives of an anchor at once with all of its negatives.

    A smooth version of the batch-hard triplet loss. Use it inside the batch or with a memory.

    $$\frac{1}{b} \sum_i \Big[ \log \sum_{p \in P_i} e^{d_{ip}} + \log \sum_{n \in N_i} e^{\lambda - d_{in}} \Big]_+$$

    On cosine distance $d = 1 - s$ the constants cancel, and this is the form on cosine similarity,
    $[\log \sum_{P_i} e^{\lambda - s_{ip}} + \log \sum_{N_i} e^{s_{in}}]_+$. An anchor without a positive or without a
    negative has the value 0.

    Args:
        margin: float, >= 0. $\lambda$. Default: 0.5.
        distance: `"cosine"`, `"l2"` (unsquared, as in the paper) or `"squared_l2"`. Default: `"cosine"`.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin is negative or the distance is unknown.

    Reference:
        Hermans et al., "In defense of the triplet loss for person re-identification", 2017, eq. 12.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.GeneralizedLiftedStructureLoss(margin=0.5, distance="l2")
        >>> loss.call([0, 0, 1], [[0.0], [1.0], [1.25]]).numpy().tolist()
        [0.25, 1.25, 0.0]
    """

    def __init__(
        self,
        margin: float = 0.5,
        distance: DistanceName = "cosine",
        name: str = "generalized_lifted_structure",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.margin = check_not_negative("margin", margin)
        self.distance = check_choice("distance", distance, ops.DISTANCES)

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        return MarginRequirements(self.margin, self.margin, self.distance)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        distances = pairs.distances(self.distance)
        far_positives = ops.masked_logsumexp(distances, pairs.positives)
        near_negatives = ops.masked_logsumexp(self.margin - distances, pairs.negatives)
        return tf.nn.relu(far_positives + near_negatives)


def _log_add_exp(x, y):
    """`log(exp(x) + exp(y))`. If both are logarithms of empty sums, so is the result."""
    largest = tf.stop_gradient(tf.maximum(x, y))
    return tf.math.log(tf.exp(x - largest) + tf.exp(y - largest)) + largest
