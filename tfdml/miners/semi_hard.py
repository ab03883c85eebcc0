"""Semi-hard mining."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_positive
from tfdml._utils.types import DistanceName
from tfdml.miners.base import Miner
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class SemiHardMiner(Miner):
    r"""Selects, for each positive pair, the nearest negative beyond the positive but within the margin.

    Negatives that violate the margin but are not closer than the positive have a useful gradient without the
    instability of `HardMiner`.

    $$n_{ip} = \arg\min \{ d_{in} : n \in N_i, \; d_{ip} < d_{in} < d_{ip} + m \}$$

    The selected negatives of a sample are those selected by one of its positives, and its selected positives are those
    that have selected one. Ties are selected, too.

    Args:
        margin: float, > 0. $m$. Default: 0.2.
        distance: `"l2"`, `"squared_l2"` (as in FaceNet) or `"cosine"`. Default: `"l2"`.

    Raises:
        ValueError: If the margin is not positive or the distance is unknown.

    Reference:
        Schroff et al., "FaceNet: A unified embedding for face recognition and clustering", CVPR 2015, section 3.2.

    Example:
        >>> from tfdml import miners
        >>> positives, negatives = miners.SemiHardMiner(margin=1.0)([0, 0, 1], [[0.0], [2.0], [2.5]])
        >>> positives.numpy().astype(int).tolist()  # the negative of the second sample is closer than its positive
        [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
        >>> negatives.numpy().astype(int).tolist()
        [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    """

    def __init__(self, margin: float = 0.2, distance: DistanceName = "l2") -> None:
        self.margin = check_positive("margin", margin)
        self.distance = check_choice("distance", distance, ops.DISTANCES)

    def choose(self, pairs: Pairs) -> PairMasks:
        distances = pairs.distances(self.distance)
        nearest = _next(ops.sort_masked(distances, pairs.negatives), distances, beyond=True)
        positives = pairs.positives & (nearest > distances) & (nearest < distances + self.margin)
        # A negative is selected if its distance is one of the selected distances.
        chosen = _next(ops.sort_masked(nearest, positives), distances, beyond=False)
        return ops.PairMasks(positives, pairs.negatives & (chosen == distances))


def _next(ordered, values, beyond):
    """For each value, the first of the row's sorted values above it (or not below it); if none, the last one."""
    index = ops.count_sorted_below(ordered, values, or_equal=beyond)
    return tf.gather(ordered, tf.minimum(index, tf.shape(ordered)[-1] - 1), batch_dims=1)
