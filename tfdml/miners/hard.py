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
    r"""Selects the farthest positive and the nearest negative of each sample.

    The hardest pairs have the strongest signal, but are sensitive to label noise and can make embeddings collapse early
    in training; try `SemiHardMiner` first.

    $$p_i = \arg\max_{p \in P_i} d_{ip}, \qquad n_i = \arg\min_{n \in N_i} d_{in}$$

    Ties are selected, too. A sample without a positive or without a negative has no such pair.

    Args:
        distance: `"l2"`, `"squared_l2"` or `"cosine"`; the first two select the same pairs. Default: `"l2"`.

    Raises:
        ValueError: If the distance is unknown.

    Reference:
        Hermans et al., "In defense of the triplet loss for person re-identification", 2017, eq. 5.

    Example:
        >>> from tfdml import miners
        >>> masks = miners.HardMiner()([0, 0, 0, 1], [[0.0], [1.0], [3.0], [2.0]])
        >>> masks.negatives.numpy().sum(axis=1).tolist()  # the last sample has two nearest negatives
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
