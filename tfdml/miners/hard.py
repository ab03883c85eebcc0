"""Hard mining."""

from __future__ import annotations

import keras

from tfdml import ops
from tfdml._utils.types import DistanceName
from tfdml.miners.base import Miner
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class HardMiner(Miner):
    r"""Each sample's farthest positive and nearest negative.

    $$p_i = \arg\max_{p \in P_i} d_{ip}, \qquad n_i = \arg\min_{n \in N_i} d_{in}$$

    Equals of the extreme count, too. A sample without a positive, or without a negative, has no such pair.

    Args:
        distance: `"l2"`, `"squared_l2"` or `"cosine"`; the first two choose the same.

    Raises:
        ValueError: If the distance is unknown.

    Reference:
        Hermans et al., "In defense of the triplet loss for person re-identification", 2017, eq. 5.

    Example:
        >>> HardMiner()([0, 0, 0, 1], [[0.0], [1.0], [3.0], [2.0]]).negatives.numpy().sum(axis=1).tolist()
        [1, 1, 1, 2]
    """

    def __init__(self, distance: DistanceName = "l2") -> None:
        ops.check_distance(distance)
        self.distance = distance

    def choose(self, pairs: Pairs) -> PairMasks:
        distances = pairs.distances(self.distance)
        farthest = ops.masked_max(distances, pairs.positives)[:, None]
        nearest = ops.masked_min(distances, pairs.negatives)[:, None]
        return ops.PairMasks(pairs.positives & (distances == farthest), pairs.negatives & (distances == nearest))
