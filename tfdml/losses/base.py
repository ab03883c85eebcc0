"""The base of every metric-learning loss."""

import abc

import keras
import tensorflow as tf

from tfdml import ops


class MetricLoss(keras.losses.Loss, abc.ABC):
    """A loss that compares a batch of embeddings with references.

    A loss owns no references. It is called in three ways:

    - `loss(labels, embeddings)`, as Keras does for `model.compile(loss=loss)`: the batch is its own reference and
      no sample is its own positive. Keras' reduction and sample weights apply.
    - `loss.call(labels, embeddings)`: the same, one value per sample; their mean is the loss.
    - `loss.against(embeddings, labels, references)`: against class proxies or a memory, one value per sample.

    A subclass states its formula once, in `compare`. A batch without a positive or without a negative pair is
    worth 0 on that side, with zero gradients.

    Note:
        Keras 3 casts `y_true` to float32 before it calls a loss, so class ids above 2²⁴ can collide when a loss is
        used in a plain `model.compile`; `MetricModel` hands the integers over as they are.
    """

    def __init__(self, name=None, reduction="sum_over_batch_size"):
        super().__init__(name=name, reduction=reduction)

    @abc.abstractmethod
    def compare(self, embeddings, references, positives, negatives):
        """The formula.

        Args:
            embeddings: `(batch, dim)`, float32 or float64.
            references: `(references, dim)`, of the same type.
            positives: Boolean, `(batch, references)`.
            negatives: Boolean, `(batch, references)`.

        Returns:
            One value per sample, `(batch,)`; their mean is the loss.
        """

    def call(self, y_true, y_pred):
        """One value per sample, the batch being its own reference.

        Args:
            y_true: Integer class labels, `(batch,)` or `(batch, 1)`.
            y_pred: Embeddings, `(batch, dim)`.

        Returns:
            `(batch,)`, float32, or float64 if the embeddings are.

        Raises:
            ValueError: If the shapes do not fit.
        """
        embeddings = self._check_embeddings(y_pred)
        labels = self._check_labels(y_true, embeddings)
        return self.compare(embeddings, embeddings, *ops.pair_masks(labels))

    def against(self, embeddings, labels, references):
        """One value per sample, compared with references only.

        Args:
            embeddings: `(batch, dim)`.
            labels: Integer class labels, `(batch,)` or `(batch, 1)`.
            references: `tfdml.layers.References`: embeddings `(references, dim)` with their labels.

        Returns:
            `(batch,)`, float32, or float64 if the embeddings are.

        Raises:
            ValueError: If the shapes do not fit.
        """
        embeddings = self._check_embeddings(embeddings)
        labels = self._check_labels(labels, embeddings)
        others = tf.cast(references.embeddings, embeddings.dtype)
        if not others.shape[-1:].is_compatible_with(embeddings.shape[-1:]):
            raise ValueError(
                f"Embeddings and references differ in size. Received: embeddings of shape {embeddings.shape}, "
                f"references of shape {others.shape}."
            )
        return self.compare(embeddings, others, *ops.pair_masks(labels, references.labels, references.valid))

    @staticmethod
    def _check_embeddings(embeddings):
        embeddings = ops.at_least_float32(embeddings)
        if embeddings.shape.rank not in (None, 2):
            raise ValueError(f"Embeddings must be (batch, dim). Received: shape {embeddings.shape}.")
        return embeddings

    @staticmethod
    def _check_labels(labels, embeddings):
        labels = tf.convert_to_tensor(labels)
        if labels.shape.rank == 2 and labels.shape[1] in (1, None):
            labels = tf.reshape(labels, (-1,))
        if labels.shape.rank not in (None, 1):
            raise ValueError(
                "Labels must be integer class labels of shape (batch,) or (batch, 1). "
                f"Received: shape {labels.shape}."
            )
        if not labels.shape[:1].is_compatible_with(embeddings.shape[:1]):
            raise ValueError(
                "There must be a label for every embedding. "
                f"Received: {labels.shape[0]} labels and {embeddings.shape[0]} embeddings."
            )
        # Keras hands float labels to a loss; rounding undoes what a half precision policy may have left.
        return tf.cast(tf.round(labels), tf.int64) if labels.dtype.is_floating else tf.cast(labels, tf.int64)
