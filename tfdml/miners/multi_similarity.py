"""Multi-similarity mining."""

from __future__ import annotations

import keras

from tfdml import ops
from tfdml._utils.arguments import check_not_negative
from tfdml.miners.base import Miner
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class MultiSimilarityMiner(Miner):
    r"""Selects negatives that are more similar than the least similar positive, and vice versa, up to a tolerance.

    Drops only pairs that are certainly easy, so it is a mild filter for any loss. `MultiSimilarityLoss` has it built
    in. On cosine similarities $s$,

    $$\{ n \in N_i : s_{in} > \min_{p \in P_i} s_{ip} - \varepsilon \}, \qquad
      \{ p \in P_i : s_{ip} < \max_{n \in N_i} s_{in} + \varepsilon \}.$$

    A sample without a positive or without a negative has nothing to compare with, so none of its pairs is selected.

    Args:
        epsilon: float, >= 0. $\varepsilon$, the tolerance. Default: 0.1.

    Raises:
        ValueError: If the tolerance is negative.

    Reference:
        Wang et al., "Multi-similarity loss with general pair weighting for deep metric learning", CVPR 2019, section
        3.2.1.

    Example:
        >>> from tfdml import miners
        >>> near, far = [1.0, 0.1], [-1.0, 0.1]
        >>> masks = miners.MultiSimilarityMiner()([0, 0, 1, 2], [[1.0, 0.0], [0.9, 0.1], near, far])
        >>> masks.negatives.numpy()[0].tolist()
        [False, False, True, False]
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        self.epsilon = check_not_negative("epsilon", epsilon)

    def choose(self, pairs: Pairs) -> PairMasks:
        cosines = pairs.cosines()
        least_positive = ops.masked_min(cosines, pairs.positives)[:, None]
        greatest_negative = ops.masked_max(cosines, pairs.negatives)[:, None]
        return ops.PairMasks(
            pairs.positives & (cosines < greatest_negative + self.epsilon),
            pairs.negatives & (cosines > least_positive - self.epsilon),
        )
