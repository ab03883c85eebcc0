"""Hard-negative mining at a decision boundary."""

from __future__ import annotations

import keras

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_positive
from tfdml._utils.types import DistanceName
from tfdml.miners.base import Miner
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class HardNegativeMiner(Miner):
    r"""Selects the negatives that are currently taken for positives: those within a threshold.

    Most negatives are easy and far away, and a boundary that is learned from them is not sharp. If pairs closer than a
    threshold $t$ are accepted as positive, the hard negatives are the false accepts:

    $$\{ n \in N_i : d_{in} < t \}.$$

    All positives are selected. `HardMiner` selects the nearest negative of each sample, also if it is far away, and
    `MultiSimilarityMiner` those that are closer than a positive. A batch in which all negatives are beyond the
    threshold has none, so choose it not too small: the negative margin of the loss, or a threshold of the verification
    that the embedder is for.

    Args:
        threshold: float, > 0. $t$. Default: 0.5.
        distance: `"l2"`, `"squared_l2"` or `"cosine"`. Default: `"l2"`.

    Raises:
        ValueError: If the threshold is not positive or the distance is unknown.

    Reference:
        Sung and Poggio, "Example-based learning for view-based human face detection", IEEE TPAMI 20, 1998, section 2.4
        (bootstrapping by false positives).

    Example:
        >>> from tfdml import miners
        >>> masks = miners.HardNegativeMiner(threshold=1.0)([0, 0, 1, 2], [[0.0], [3.0], [0.5], [2.5]])
        >>> masks.negatives.numpy().astype(int).tolist()
        [[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]]
    """

    def __init__(self, threshold: float = 0.5, distance: DistanceName = "l2") -> None:
        self.threshold = check_positive("threshold", threshold)
        self.distance = check_choice("distance", distance, ops.DISTANCES)

    def choose(self, pairs: Pairs) -> PairMasks:
        return PairMasks(pairs.positives, pairs.negatives & (pairs.distances(self.distance) < self.threshold))
