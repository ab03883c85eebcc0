"""Contrastive loss."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice
from tfdml._utils.types import DistanceName
from tfdml.losses.base import MarginRequirements, MetricLoss, per_sample_share
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class ContrastiveLoss(MetricLoss):
    r"""Pulls positive pairs closer than one margin and pushes negative pairs beyond another.

    The simplest loss on class labels: it uses all pairs of the batch. Also suited to memories and to CCP. With the
    positive pairs $P$ and negative pairs $N$ between the batch and its references,

    $$\frac{1}{|P^*|} \sum_{(i,j) \in P} [d_{ij} - m^+]_+^q \; + \;
      \frac{1}{|N^*|} \sum_{(i,j) \in N} [m^- - d_{ij}]_+^q$$

    where $P^*, N^*$ are the pairs whose term is not zero. This is `average="nonzero"`, called C2 in the thesis. The
    other averages are:

    - `"pairs"`: the terms are averaged over all pairs, $1 / (|P| + |N|)$. With `power=2` this is Hadsell's form
      (`losses.get("hadsell")`); with `distance="squared_l2"` and $m^- = m^2$ it is that of Bell and Bala, $d^2$ and
      $[m^2 - d^2]_+$ (`losses.get("bell_bala", negative_margin=m**2)`).
    - `"anchor"`: the terms are summed for each sample and averaged over the batch. On cosine distance
      $d_{ij} = 1 - s_{ij}$ with $m^+ = 0$ and $m^- = 0.5$ this is C1, the form used with cross-batch memory
      (`losses.get("c1")`): $\frac{1}{b} \sum_i \big( \sum_{P_i} [1 - s_{ij}]_+ + \sum_{N_i} [s_{ij} - 0.5]_+ \big)$.

    Margins on `"l2"` distances are meant for unit vectors, where distances lie between 0 and 2. Batches need several
    samples per class.

    Args:
        positive_margin: float, >= 0. $m^+$: positive pairs closer than this contribute nothing. Default: 0.
        negative_margin: float, > `positive_margin`. $m^-$: negative pairs farther apart than this contribute nothing.
            Default: 0.5.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`. Default: `"l2"`.
        power: 1 or 2. $q$. Default: 1.
        average: `"nonzero"`, `"pairs"` or `"anchor"`, as above. Default: `"nonzero"`.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If a margin is negative, the margins are in the wrong order, or a choice is unknown.

    Reference:
        Hadsell et al., "Dimensionality reduction by learning an invariant mapping", CVPR 2006; Wu et al., "Sampling
        matters in deep embedding learning", ICCV 2017 (positive margin); Wang et al., "Cross-batch memory for embedding
        learning", CVPR 2020 (C1); Bell and Bala, "Learning visual similarity for product design with convolutional
        neural networks", SIGGRAPH 2015, eq. 1; Gürbüz, METU 2022, section 3.3.2.1.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.ContrastiveLoss(negative_margin=0.5)
        >>> float(loss([0, 0, 1], [[0.0], [0.25], [0.5]]))  # 0.25 for the positive pair, 0.25 for the negative one
        0.5
    """

    def __init__(
        self,
        positive_margin: float = 0.0,
        negative_margin: float = 0.5,
        distance: DistanceName = "l2",
        power: int = 1,
        average: Literal["nonzero", "pairs", "anchor"] = "nonzero",
        name: str = "contrastive",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        if not 0 <= positive_margin < negative_margin:
            raise ValueError(
                f"The margins are in the wrong order. Received: positive_margin={positive_margin}, "
                f"negative_margin={negative_margin}. Expected: 0 <= positive_margin < negative_margin."
            )
        self.positive_margin = float(positive_margin)
        self.negative_margin = float(negative_margin)
        self.distance = check_choice("distance", distance, ops.DISTANCES)
        self.power = check_choice("power", power, (1, 2))
        self.average = check_choice("average", average, ("nonzero", "pairs", "anchor"))

    @property
    def margin_requirements(self) -> MarginRequirements:
        return MarginRequirements(self.negative_margin - self.positive_margin, self.negative_margin, self.distance)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        distances = pairs.distances(self.distance)
        pulls = self._terms(distances - self.positive_margin, pairs.positives)
        pushes = self._terms(self.negative_margin - distances, pairs.negatives)
        if self.average == "nonzero":
            return self._over_nonzero(pulls, pairs) + self._over_nonzero(pushes, pairs)
        sums = tf.reduce_sum(pulls, axis=1) + tf.reduce_sum(pushes, axis=1)
        if self.average == "anchor":
            return sums
        return per_sample_share(sums, tf.math.count_nonzero(pairs.positives | pairs.negatives), pairs)

    def _terms(self, excess, mask):
        hinge = tf.where(mask, tf.nn.relu(excess), tf.zeros_like(excess))
        return hinge if self.power == 1 else tf.square(hinge)

    @staticmethod
    def _over_nonzero(terms, pairs):
        return per_sample_share(tf.reduce_sum(terms, axis=1), tf.math.count_nonzero(terms), pairs)
