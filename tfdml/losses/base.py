"""The base of every metric-learning loss."""

from __future__ import annotations

import abc
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdml import miners, ops
from tfdml._utils.arguments import configuration
from tfdml._utils.types import Config, Identifier, Labels, TensorLike
from tfdml.ops.pairs import Pairs, References


class MarginRequirements(NamedTuple):
    """What distances must be like for a loss with margins to be 0.

    Attributes:
        gap: By how much a negative must be farther than a positive, at least.
        reach: How far negatives must be, at least.
        distance: In which distance: `"l2"`, `"squared_l2"` or `"cosine"`.
    """

    gap: float
    reach: float
    distance: str


class MetricLoss(keras.losses.Loss, abc.ABC):
    """A loss that compares a batch of embeddings with references.

    A loss owns no references. It is called in three ways:

    - `loss(labels, embeddings)`, as Keras does for `model.compile(loss=loss)`: the batch is its own reference and
      no sample is its own positive. Keras' reduction and sample weights apply.
    - `loss.call(labels, embeddings)`: the same, one value per sample; their mean is the loss.
    - `loss.against(labels, embeddings, references)`: against class proxies or a memory, one value per sample.

    A subclass states its formula once, in `compare`, and keeps every argument as an attribute of the same name. A batch
    without a positive or without a negative pair is worth 0 on that side, with zero gradients. A sample whose embedding
    is not finite is worth NaN, and so is every sample if a reference is not finite.

    Args:
        miner: Which pairs count: a `tfdml.miners.Miner`, a name of `tfdml.miners.names()`, or `None` for all.
        name: Name of the loss.
        reduction: Keras' reduction over the batch.

    Attributes:
        parameters: A layer with what the loss itself learns, or `None`. `MetricModel` trains it; in another model
            set it as an attribute (`model.loss_parameters = loss.parameters`), or it keeps its first values.

    Note:
        Keras 3 casts `y_true` to float32 before it calls a loss, so class ids above 2²⁴ can collide when a loss is
        used in a plain `model.compile`; `MetricModel` hands the integers over as they are.
    """

    parameters = None
    # With a parameter per class, as of `MarginLoss(num_classes=…)`: the number of classes.
    label_classes = None

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        """The `MarginRequirements` that the margins ask for, or `None` for a loss without margins of distances."""
        return None

    def __init__(
        self, name: str | None = None, *, miner: Identifier | None = None, reduction: str = "sum_over_batch_size"
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.miner = None if miner is None else miners.get(miner)

    @abc.abstractmethod
    def compare(self, pairs: Pairs) -> tf.Tensor:
        """The formula.

        Args:
            pairs: `tfdml.ops.Pairs`: embeddings and references, float32 or float64, with the masks of the
                positive and the negative pairs that count.

        Returns:
            One value per sample, `(batch,)`; their mean is the loss.
        """

    def call(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """One value per sample, the batch being its own reference.

        Args:
            y_true: Integer class labels, `(batch,)` or `(batch, 1)`.
            y_pred: Embeddings, `(batch, dim)`.

        Returns:
            `(batch,)`, float32, or float64 if the embeddings are.

        Raises:
            ValueError: If the shapes do not fit.
        """
        return self._of_known_labels(y_true, self._values(ops.compare(y_true, y_pred)))

    def call_unseen(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """As `call`, for evaluation: the classes may be others than those of the training."""
        return self._values(ops.compare(y_true, y_pred))

    def against(self, labels: Labels, embeddings: TensorLike, references: References) -> tf.Tensor:
        """One value per sample, compared with references only.

        Args:
            labels: Integer class labels, `(batch,)` or `(batch, 1)`.
            embeddings: `(batch, dim)`.
            references: `tfdml.layers.References`: embeddings `(references, dim)` with their labels.

        Returns:
            `(batch,)`, float32, or float64 if the embeddings are.

        Raises:
            ValueError: If the shapes do not fit, or a label has no proxy.
        """
        return self._of_known_labels(labels, self._values(ops.compare(labels, embeddings, references)))

    def _values(self, pairs):
        values = self.compare(pairs if self.miner is None else self.miner.mine(pairs))
        # Comparisons with NaN are false, so mining and margins would drop such pairs: a finite loss, NaN gradients.
        return tf.where(_all_finite(pairs), values, tf.constant(np.nan, values.dtype))

    def _of_known_labels(self, labels, values):
        """The values if the loss has a parameter for each label; under XLA NaN for the samples without one."""
        if self.label_classes is None:
            return values
        labels = ops.check_labels(labels, values)
        owner = f"{type(self).__name__}(num_classes={self.label_classes}, …)"
        labels = ops.check_label_range(labels, self.label_classes, owner)
        return tf.where(ops.known_labels(labels, self.label_classes), values, tf.constant(np.nan, values.dtype))

    def get_config(self) -> Config:
        miner = None if self.miner is None else keras.saving.serialize_keras_object(self.miner)
        return {**super().get_config(), **configuration(self), "miner": miner}


def _all_finite(pairs):
    """For each sample whether its embedding and all references are finite, `(batch,)`."""
    of_samples = _finite_rows(pairs.embeddings)
    if pairs.in_batch:
        return of_samples
    references = pairs.references
    return of_samples & tf.reduce_all(_finite_rows(references.embeddings) | ~references.valid)


def _finite_rows(vectors):
    """By their sums, which a product with ones takes faster than anything looks at each number of a large memory."""
    return tf.math.is_finite(tf.linalg.matvec(vectors, tf.ones(tf.shape(vectors)[1:], vectors.dtype)))


def share(total, pairs):
    """A value of the whole batch as one value per sample: each has it, so their mean is the value."""
    return tf.fill(tf.shape(pairs.labels), total)


def per_sample_share(sums, count, pairs):
    r"""Sums per sample that are to be divided by a count of the whole batch: their mean is $\sum_i s_i / count$."""
    batch = tf.cast(tf.shape(pairs.labels)[0], sums.dtype)
    return sums * tf.math.divide_no_nan(batch, tf.cast(count, sums.dtype))
