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
    r"""Negatives that are more similar than the least similar positive, and the other way round, up to a tolerance.

    On cosine similarities $s$,

    $$\{ n \in N_i : s_{in} > \min_{p \in P_i} s_{ip} - \varepsilon \}, \qquad
      \{ p \in P_i : s_{ip} < \max_{n \in N_i} s_{in} + \varepsilon \}.$$

    A sample without a positive has nothing to measure its negatives by, nor one without a negative its positives: it
    chooses no pair at all.

    Args:
        epsilon: $\varepsilon \ge 0$, the tolerance.

    Raises:
        ValueError: If the tolerance is negative.

    Reference:
        Wang et al., "Multi-similarity loss with general pair weighting for deep metric learning", CVPR 2019,
        section 3.2.1.

    Example:
        >>> near, far = [1.0, 0.1], [-1.0, 0.1]
        >>> MultiSimilarityMiner()([0, 0, 1, 2], [[1.0, 0.0], [0.9, 0.1], near, far]).negatives.numpy()[0].tolist()
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
