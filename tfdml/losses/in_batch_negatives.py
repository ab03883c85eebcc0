"""InfoNCE loss for (query, positive) pairs with in-batch negatives."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.types import Labels, TensorLike
from tfdml.layers import References
from tfdml.losses.info_nce import InfoNCELoss


@keras.saving.register_keras_serializable(package="tfdml")
class InBatchNegativesLoss(InfoNCELoss):
    r"""InfoNCE loss for retrieval from (query, positive) pairs; the other pairs' positives are the negatives.

    Use it if you have pairs rather than classes: questions and answers, captions and images, clicks on search results.
    Larger batches mean more negatives. It normalizes the embeddings itself. With the cosine similarity $s_{ij}$ of
    query $i$ and positive $j$, and ids that are all different,

    $$\frac{1}{b} \sum_i -\log \frac{e^{s_{ii} / \tau}}{\sum_j e^{s_{ij} / \tau}}$$

    Equal ids mark positives that are the same thing (the same document, the same item). A positive with the query's own
    id is not a negative but another positive, and the value of the query is the mean over its positives, as in
    `InfoNCELoss`. A query without a negative has the value 0. With `symmetric`, the loss is the mean of this and of the
    same with queries and positives exchanged. A `relation` decides about the positives of the other pairs; a query's
    own is always positive.

    `call` takes pairs; `against` takes plain embeddings, as for every other loss.

    Args:
        temperature: float, > 0. $\tau$. Default: 0.05.
        symmetric: bool. Whether each positive must also find its query. Default: `False`.
        name: str. Name of the loss.
        **kwargs: `miner`, `relation` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the temperature is not positive.

    Reference:
        Henderson et al., "Efficient natural language response suggestion for Smart Reply", 2017, section 4.4; Radford
        et al., "Learning transferable visual models from natural language supervision", ICML 2021 (symmetric form).

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import losses
        >>> queries, documents = tf.constant([[1.0, 0.0], [0.0, 1.0]]), tf.constant([[2.0, 0.0], [0.0, 3.0]])
        >>> loss = losses.InBatchNegativesLoss(temperature=1.0)
        >>> round(float(loss(tf.constant([7, 8]), tf.stack([queries, documents], axis=1))), 4)  # log(1 + 1/e)
        0.3133
    """

    def __init__(
        self, temperature: float = 0.05, symmetric: bool = False, name: str = "in_batch_negatives", **kwargs: Any
    ) -> None:
        super().__init__(temperature, name, **kwargs)
        self.symmetric = bool(symmetric)

    def call(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """Compute one value per pair.

        Args:
            y_true: int tensor, `(batch,)` or `(batch, 1)`. Ids of the positives, or labels that the relation compares.
            y_pred: float tensor, `(batch, 2, dim)`. Queries and their positives, stacked.

        Returns:
            Tensor `(batch,)`, float64 if the embeddings are, otherwise float32.

        Raises:
            ValueError: If the shapes do not match.
        """
        stacked = ops.at_least_float32(y_pred)
        if not stacked.shape.is_compatible_with((None, 2, None)):
            raise ValueError(
                f"Embeddings are not pairs. Received: shape {stacked.shape}. Expected: (batch, 2, dim), queries and "
                "their positives."
            )
        queries, positives = tf.unstack(stacked, num=2, axis=1)
        ids = ops.check_labels(y_true, queries, self.relation)
        values = self._values(self._paired(ids, queries, positives))
        if not self.symmetric:
            return values
        return (values + self._values(self._paired(ids, positives, queries))) / 2.0

    def _paired(self, ids, embeddings, partners):
        pairs = self._compared(ids, embeddings, References(partners, ids))
        # By a relation such as two common tags, a sample need not be positive with itself.
        given = tf.ones(tf.shape(embeddings)[:1], tf.bool)
        return pairs.narrowed(
            ops.PairMasks(
                tf.linalg.set_diag(pairs.positives, given), tf.linalg.set_diag(pairs.negatives, ~given)
            )
        )
