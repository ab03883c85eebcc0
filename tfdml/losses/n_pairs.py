"""N-pairs loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_not_negative
from tfdml.losses.base import MetricLoss
from tfdml.losses.softmax import cross_entropy_over_all
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class NPairsLoss(MetricLoss):
    r"""Softmax cross-entropy over inner products, with an L2 penalty on the embeddings.

    Use it inside the batch if the length of an embedding may carry information: the embeddings are used as they are, so
    do not normalize them. `SupervisedContrastiveLoss` is the form on cosine similarity.

    $$\frac{1}{b} \sum_i \Big( -\frac{1}{|P_i|} \sum_{p \in P_i}
      \log \frac{e^{x_i^\top r_p}}{\sum_{k \in P_i \cup N_i} e^{x_i^\top r_k}} + \lambda \lVert x_i \rVert^2 \Big)$$

    Against references with the labels of the batch and with `l2_weight=0`, the value is that of
    `tensorflow_addons.losses.NpairsLoss` on the matrix of inner products. The first term is 0 for an anchor without a
    positive; the L2 term remains, even in a batch without any pair. The L2 term does not include references.

    Args:
        l2_weight: float, >= 0. $\lambda$. Default: 0.02.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the weight is negative.

    Reference:
        Sohn, "Improved deep metric learning with multi-class N-pair loss objective", NeurIPS 2016, section 3.2.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.NPairsLoss(l2_weight=0.0)
        >>> loss.call([0, 0, 1], [[0.0], [0.0], [0.0]]).numpy().round(4).astype(str).tolist()  # log 2, log 2, 0
        ['0.6931', '0.6931', '0.0']
    """

    def __init__(self, l2_weight: float = 0.02, name: str = "n_pairs", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.l2_weight = check_not_negative("l2_weight", l2_weight)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        products = tf.matmul(pairs.embeddings, pairs.references.embeddings, transpose_b=True)
        squared_lengths = tf.reduce_sum(tf.square(pairs.embeddings), axis=1)
        return cross_entropy_over_all(products, pairs) + self.l2_weight * squared_lengths
