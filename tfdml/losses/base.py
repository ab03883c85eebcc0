"""Base class of the metric-learning losses."""

from __future__ import annotations

import abc
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdml import miners, ops, relations
from tfdml._utils.arguments import configuration
from tfdml._utils.types import Config, Identifier, Labels, TensorLike
from tfdml.ops.pairs import Pairs, References


class MarginRequirements(NamedTuple):
    """The distances between embeddings at which a loss with margins becomes 0.

    `MetricModel.compile` compares them with the room that the embedder's normalization leaves, and warns if there is
    too little: unit vectors are at most 2 apart in L2 distance.

    Attributes:
        gap: float. The least difference between the distances of a negative and a positive.
        reach: float. The least distance of a negative.
        distance: str. The distance that both are measured in: `"l2"`, `"squared_l2"` or `"cosine"`.

    Example:
        >>> from tfdml import losses
        >>> losses.ContrastiveLoss(positive_margin=0.1, negative_margin=0.5).margin_requirements
        MarginRequirements(gap=0.4, reach=0.5, distance='l2')
    """

    gap: float
    reach: float
    distance: str


class MetricLoss(keras.losses.Loss, abc.ABC):
    r"""Base class of losses that compare a batch of embeddings with references.

    Use a subclass as any Keras loss, with integer class labels as targets, or subclass it for a loss of your own. A
    loss owns no references. There are three ways to call it:

    - `loss(labels, embeddings)`, the Keras way, used by `model.compile(loss=loss)`: the batch is its own reference, and
      no sample is its own positive. Keras' reduction and sample weights apply.
    - `loss.call(labels, embeddings)`: the same with one value per sample. The mean of the values is the loss.
    - `loss.against(labels, embeddings, references)`: one value per sample, compared with class proxies or a memory.

    **Notation.** The docstrings of the losses write $b$ for the batch size, $x_i$ for embeddings, $r_j$ for references,
    $y_i$ for labels, $P_i$ for the positives of sample $i$ (references of its class; in the batch without $i$ itself),
    $N_i$ for its negatives (references of other classes), $d_{ij}$ for distances, $s_{ij}$ for cosine similarities, and
    $[x]_+ = \max(x, 0)$.

    **Which pairs.** By default, samples of the same class are positive pairs and samples of different classes negative
    ones. With `relation`, `tfdml.relations` decides by other labels: common tags, close positions, given pairs. $P_i$
    and $N_i$ are then the positives and negatives of the relation, and other references take no part. Losses on classes
    (`needs_classes`) refuse it.

    **Which embeddings.** Losses on cosine similarity normalize the vectors themselves, so the length of the embeddings
    does not matter to them. Losses on `"l2"` or `"squared_l2"` distances use the embeddings as they are. Their margins
    are meant for unit vectors: end the embedder with `tfdml.layers.L2Normalization`. Distances of unit vectors lie
    between 0 and 2, and orthogonal vectors are 1.41 apart. `NPairsLoss` expects embeddings that are not normalized.

    **Which references.** Losses named after proxies, and the classification losses (`ArcFaceLoss`, `CosFaceLoss`,
    `NormalizedSoftmaxLoss`, `SoftTripleLoss`), are made for `tfdml.layers.ClassProxies`: pass the proxies to
    `tfdml.models.MetricModel`. In a plain `model.compile` the other samples of the batch stand in for the proxies. All
    other losses work inside the batch, against a memory and against proxies.

    To write a loss, implement `compare` and store every argument as an attribute of the same name. A batch without a
    positive pair or without a negative pair contributes 0 on that side, with zero gradients. The value is NaN for a
    sample whose embedding is not finite, and for all samples if a reference is not finite.

    Args:
        name: str. Name of the loss. Default: `None`, chosen by Keras.
        miner: `tfdml.miners.Miner`, a name from `tfdml.miners.names()`, or `None`. Selects the pairs that count.
            Default: `None`, all pairs.
        relation: `tfdml.relations.Relation`, or `None` for pairs of the same class. Default: `None`.
        reduction: str. Keras' reduction over the batch. Default: `"sum_over_batch_size"`.

    Attributes:
        parameters: Keras layer with the weights that the loss itself learns, or `None`. `MetricModel` trains them. In
            another model, set the layer as an attribute (`model.loss_parameters = loss.parameters`); otherwise the
            weights keep their initial values.
        label_classes: int. The number of classes of a loss with a parameter per class, such as
            `MarginLoss(num_classes=…)`; `None` for all others.
        needs_classes: bool. Whether the loss compares samples with classes, and so accepts no other relation.

    Note:
        Keras 3 casts `y_true` to float32 before it calls a loss, so class ids above 2²⁴ can collide when a loss is used
        in a plain `model.compile`. `MetricModel` passes integers unchanged.

    Example:
        >>> from tfdml import losses, ops
        >>> class MeanPositiveDistance(losses.MetricLoss):
        ...     def compare(self, pairs):
        ...         return ops.masked_mean(pairs.distances("l2"), pairs.positives)
        >>> float(MeanPositiveDistance()([0, 0, 1], [[0.0], [3.0], [5.0]]))  # (3 + 3 + 0) / 3
        2.0
    """

    parameters: keras.layers.Layer | None = None
    label_classes: int | None = None
    needs_classes: bool = False

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        """The `MarginRequirements` of the loss, or `None` if it has no margins on distances."""
        return None

    def __init__(
        self,
        name: str | None = None,
        *,
        miner: Identifier | None = None,
        relation: Identifier | None = None,
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.miner = None if miner is None else miners.get(miner)
        self.relation = None if relation is None else relations.get(relation)
        if self.needs_classes:
            self._check_relation()

    @abc.abstractmethod
    def compare(self, pairs: Pairs) -> tf.Tensor:
        """Compute the loss from pairs of samples and references.

        Args:
            pairs: `tfdml.ops.Pairs`. Embeddings and references, float32 or float64, with the masks of the positive and
                negative pairs that count.

        Returns:
            Tensor `(batch,)`, one value per sample. Their mean is the loss.
        """

    def call(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """Compute one value per sample, with the batch as its own reference.

        Args:
            y_true: int tensor, `(batch,)` or `(batch, 1)`. Class labels, or the labels that the relation compares.
            y_pred: float tensor, `(batch, dim)`. Embeddings.

        Returns:
            Tensor `(batch,)`, float64 if the embeddings are, otherwise float32.

        Raises:
            ValueError: If the shapes do not match.
        """
        return self._of_known_labels(y_true, self._values(self._compared(y_true, y_pred)))

    def call_unseen(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """Compute `call` for evaluation, where classes may be absent from training.

        Args:
            y_true: int tensor, `(batch,)` or `(batch, 1)`. Class labels, which need no parameter of the loss.
            y_pred: float tensor, `(batch, dim)`. Embeddings.

        Returns:
            Tensor `(batch,)`, as from `call`.
        """
        return self._values(self._compared(y_true, y_pred))

    def with_relation(self, relation: Identifier) -> MetricLoss:
        """Return the same loss with another relation. Both share the trainable parameters.

        Args:
            relation: Anything that `tfdml.relations.get` accepts.

        Returns:
            A loss of the same class.

        Raises:
            ValueError: If the loss needs classes and the relation does not compare them.

        Example:
            >>> from tfdml import losses, relations
            >>> losses.ContrastiveLoss().with_relation(relations.Within(1.0, 2.0)).relation.negative
            2.0
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.relation = relations.get(relation)
        other._check_relation()
        return other

    def _check_relation(self):
        if self.needs_classes and self.relation is not None and not self.relation.names_classes:
            raise ValueError(
                f"This loss needs classes: it compares samples with classes, not with each other. Received: "
                f"{type(self).__name__} with relation={self.relation!r}. Expected: the relation SameClass, or a loss "
                "on pairs, such as ContrastiveLoss, TripletLoss or MultiSimilarityLoss."
            )

    def _compared(self, labels, embeddings, references=None):
        self._check_relation()
        return ops.compare(labels, embeddings, references, self.relation)

    def against(self, labels: Labels, embeddings: TensorLike, references: References) -> tf.Tensor:
        """Compute one value per sample, compared with the given references only.

        Args:
            labels: int tensor, `(batch,)` or `(batch, 1)`. Class labels.
            embeddings: float tensor, `(batch, dim)`.
            references: `tfdml.layers.References`. Embeddings `(references, dim)` with their labels, as returned by
                `ClassProxies` and `CrossBatchMemory` when called.

        Returns:
            Tensor `(batch,)`, float64 if the embeddings are, otherwise float32.

        Raises:
            ValueError: If the shapes do not match, or a label has no proxy.

        Example:
            >>> from tfdml import layers, losses
            >>> proxies = layers.References([[1.0, 0.0], [0.0, 1.0]], [0, 1])
            >>> loss = losses.ContrastiveLoss(negative_margin=0.5)
            >>> loss.against([0, 1], [[1.0, 0.0], [1.0, 1.0]], proxies).numpy().tolist()
            [0.0, 2.0]
        """
        return self._of_known_labels(labels, self._values(self._compared(labels, embeddings, references)))

    def _values(self, pairs):
        values = self.compare(pairs if self.miner is None else self.miner.mine(pairs))
        # Comparisons with NaN are false, so miners and margins drop such pairs: the loss is finite, its gradients NaN.
        return tf.where(_all_finite(pairs), values, tf.constant(np.nan, values.dtype))

    def _of_known_labels(self, labels, values):
        """Check that the loss has a parameter for each label; under XLA, set samples without one to NaN."""
        if self.label_classes is None:
            return values
        labels = ops.check_labels(labels, values)
        owner = f"{type(self).__name__}(num_classes={self.label_classes}, …)"
        labels = ops.check_label_range(labels, self.label_classes, owner)
        return tf.where(ops.known_labels(labels, self.label_classes), values, tf.constant(np.nan, values.dtype))

    def get_config(self) -> Config:
        miner = None if self.miner is None else keras.saving.serialize_keras_object(self.miner)
        config = {**super().get_config(), **configuration(self), "miner": miner}
        config.pop("relation", None)
        if self.relation is not None:
            config["relation"] = keras.saving.serialize_keras_object(self.relation)
        return config


def _all_finite(pairs):
    """For each sample, whether its embedding and all references are finite, `(batch,)`."""
    of_samples = _finite_rows(pairs.embeddings)
    if pairs.in_batch:
        return of_samples
    references = pairs.references
    return of_samples & tf.reduce_all(_finite_rows(references.embeddings) | ~references.valid)


def _finite_rows(vectors):
    """Row-wise finiteness, from the sum of each row: a product with ones is faster than a look at every number."""
    return tf.math.is_finite(tf.linalg.matvec(vectors, tf.ones(tf.shape(vectors)[1:], vectors.dtype)))


def share(total, pairs):
    """Spread a value of the whole batch over its samples, so that their mean is the value."""
    return tf.fill(tf.shape(pairs.embeddings)[:1], total)


def per_sample_share(sums, count, pairs):
    r"""Divide sums per sample by a count of the whole batch, so that their mean is $\sum_i s_i / \mathrm{count}$."""
    batch = tf.cast(tf.shape(pairs.embeddings)[0], sums.dtype)
    return sums * tf.math.divide_no_nan(batch, tf.cast(count, sums.dtype))
