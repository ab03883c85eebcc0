"""Pairs of a batch of embeddings and the references that it is compared with."""

from __future__ import annotations

from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf

from tfdml._utils.types import DistanceName, Labels, TensorLike
from tfdml.ops.distances import pairwise_distances
from tfdml.ops.labels import as_label_tensor, check_label_range, integer_labels, known_labels
from tfdml.ops.normalization import l2_normalize
from tfdml.ops.pair_masks import PairMasks, pair_masks
from tfdml.ops.precision import at_least_float32


class References(NamedTuple):
    """Labeled embeddings that a loss compares a batch with.

    `ClassProxies` and `CrossBatchMemory` return them when called. Create them directly to compare a batch with
    embeddings of your own: `loss.against(labels, embeddings, References(…))`.

    Attributes:
        embeddings: float tensor, `(references, dim)`.
        labels: int tensor, `(references,)`. Class labels, or the labels that a relation compares.
        valid: bool tensor, `(references,)`, or `None`. The references that exist. Default: `None`, all of them.
        per_class: int or `None`. The number of consecutive references of each class, for class proxies. Default:
            `None`.
        classes: int or `None`. The number of classes if each of the labels 0 … `classes - 1` has a reference, as for
            class proxies; a sample with another label is then an error. Default: `None`, a sample may have no reference
            of its class.

    Example:
        >>> from tfdml import layers, losses
        >>> references = layers.References([[1.0, 0.0], [0.0, 1.0]], [0, 1])
        >>> losses.ContrastiveLoss().against([0], [[1.0, 0.0]], references).numpy().tolist()
        [0.0]
    """

    embeddings: tf.Tensor
    labels: tf.Tensor
    valid: tf.Tensor | None = None
    per_class: int | None = None
    classes: int | None = None


class Pairs(NamedTuple):
    """Embeddings, their references, and the pairs of the two that count.

    `MetricLoss.compare` and `Miner.choose` receive it.

    Attributes:
        embeddings: Tensor `(batch, dim)`, float32 or float64.
        labels: int tensor, `(batch,)`. Class labels, or the labels that a relation compares.
        references: `References` with embeddings of the same type; `valid` is always set. Inside the batch, its
            embeddings are the same tensor.
        positives: bool tensor, `(batch, references)`.
        negatives: bool tensor, `(batch, references)`.
        in_batch: bool. Whether the batch is its own reference; then no sample is its own positive.

    Example:
        >>> from tfdml import ops
        >>> pairs = ops.compare([0, 0, 1], [[0.0], [1.0], [3.0]])
        >>> pairs.distances().numpy()[pairs.negatives].tolist()
        [3.0, 2.0, 3.0, 2.0]
    """

    embeddings: tf.Tensor
    labels: tf.Tensor
    references: References
    positives: tf.Tensor
    negatives: tf.Tensor
    in_batch: bool

    def distances(self, distance: DistanceName = "l2") -> tf.Tensor:
        """Compute distances between embeddings and references.

        Args:
            distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"`, as for `pairwise_distances`. Default: `"l2"`.

        Returns:
            Tensor `(batch, references)`.
        """
        return pairwise_distances(self.embeddings, None if self.in_batch else self.references.embeddings, distance)

    def cosines(self) -> tf.Tensor:
        """Compute cosine similarities between embeddings and references.

        Returns:
            Tensor `(batch, references)`.
        """
        embeddings = l2_normalize(self.embeddings)
        references = embeddings if self.in_batch else l2_normalize(self.references.embeddings)
        return tf.matmul(embeddings, references, transpose_b=True)

    def with_embeddings(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Pairs:
        """Apply a function to the embeddings of both batch and references, keeping the pairs.

        Args:
            function: Callable from tensors `(n, dim)` to tensors `(n, size)`.

        Returns:
            `Pairs`.
        """
        embeddings = function(self.embeddings)
        of_references = embeddings if self.in_batch else function(self.references.embeddings)
        return self._replace(embeddings=embeddings, references=self.references._replace(embeddings=of_references))

    def narrowed(self, masks: PairMasks) -> Pairs:
        """Replace the masks of the pairs that count.

        Args:
            masks: `PairMasks`.

        Returns:
            `Pairs`.
        """
        return self._replace(positives=masks.positives, negatives=masks.negatives)


def compare(
    labels: Labels, embeddings: TensorLike, references: References | None = None, relation: Any = None
) -> Pairs:
    """Pair a batch with references, or with itself.

    Args:
        labels: int tensor, `(batch,)` or `(batch, 1)`. Class labels as for `integer_labels`: floats, as passed by
            Keras, must be whole numbers. Under XLA, which drops that check, the embedding of a sample with another
            label becomes NaN, and so does its loss.
        embeddings: float tensor, `(batch, dim)`. Half precision is computed in float32.
        references: `References`, or `None` to compare the batch with itself. If `references.classes` is set, labels
            must lie in 0 … `classes - 1`; under XLA the embedding of a sample with another label becomes NaN. Default:
            `None`.
        relation: `tfdml.relations.Relation` or `None`. Which pairs are positive and negative; labels are then what it
            compares. Default: `None`, pairs of the same class and of different classes.

    Returns:
        `Pairs` in which all positive and all negative pairs count.

    Raises:
        ValueError: If the shapes do not match, a label is not an integer or out of range, or the relation does not
            accept a label or class proxies.

    Example:
        >>> from tfdml import ops
        >>> ops.compare([0, 0, 1], [[0.0], [1.0], [3.0]]).positives.numpy().sum(axis=1).tolist()
        [1, 1, 0]
    """
    embeddings = check_embeddings(embeddings)
    if relation is not None and not relation.names_classes:
        return _compare_related(labels, embeddings, references, relation)
    given = _flat_labels(labels, embeddings)
    labels = integer_labels(given)
    classes = None if references is None else references.classes
    if classes is not None:
        labels = check_label_range(labels, classes, "class proxies")
    if tf.is_symbolic_tensor(given) and (given.dtype.is_floating or classes is not None):
        known = known_labels(given, classes)
        embeddings = tf.where(known[:, None], embeddings, tf.constant(np.nan, embeddings.dtype))
    if references is None:
        itself = References(embeddings, labels, valid=tf.ones_like(labels, tf.bool))
        return Pairs(embeddings, labels, itself, *pair_masks(labels), in_batch=True)
    references = _checked_references(references, labels, embeddings)
    masks = pair_masks(labels, references.labels, references.valid)
    return Pairs(embeddings, labels, references, *masks, in_batch=False)


def _checked_references(references, labels, embeddings):
    """Return references in the types of the batch, with `valid`."""
    others = tf.cast(references.embeddings, embeddings.dtype)
    if not others.shape[-1:].is_compatible_with(embeddings.shape[-1:]):
        raise ValueError(
            f"Embeddings and references differ in size. Received: embeddings of shape {embeddings.shape}, "
            f"references of shape {others.shape}. Expected: the same last axis."
        )
    valid = references.valid
    valid = tf.ones(tf.shape(others)[:1], tf.bool) if valid is None else tf.convert_to_tensor(valid)
    return references._replace(embeddings=others, labels=tf.cast(references.labels, labels.dtype), valid=valid)


def _compare_related(labels, embeddings, references, relation):
    """Pair a batch with references, or with itself, by a relation of labels that are not classes."""
    if references is not None and (references.classes is not None or references.per_class is not None):
        raise ValueError(
            f"Class proxies need classes. Received: class proxies with {relation!r}. Expected: the relation "
            "SameClass, or references without classes, such as `CrossBatchMemory`."
        )
    labels = check_labels(labels, embeddings, relation)
    if tf.is_symbolic_tensor(labels):
        # XLA drops the assertion that labels are valid.
        sound = relation.sound(labels)[:, None]
        embeddings = tf.where(sound, embeddings, tf.constant(np.nan, embeddings.dtype))
    if references is None:
        valid = tf.ones(tf.shape(embeddings)[:1], tf.bool)
        itself = References(embeddings, labels, valid=valid)
        positives, negatives = related_masks(labels, relation)
        return Pairs(embeddings, labels, itself, positives, negatives, in_batch=True)
    references = references._replace(labels=relation.convert(references.labels))
    references = _checked_references(references, labels, embeddings)
    positives, negatives = relation.masks(labels, references.labels)
    valid = references.valid[None, :]
    return Pairs(embeddings, labels, references, positives & valid, negatives & valid, in_batch=False)


def related_masks(labels, relation):
    """Return the `PairMasks` of a batch with itself by a relation, without the pair of a sample and itself."""
    positives, negatives = relation.masks(labels, labels)
    itself = tf.eye(tf.shape(labels)[0], dtype=tf.bool)
    return PairMasks(positives & ~itself, negatives & ~itself)


def check_embeddings(embeddings: TensorLike) -> tf.Tensor:
    """Convert embeddings to float32 or float64, and check their shape.

    Args:
        embeddings: float tensor, `(batch, dim)`.

    Returns:
        Tensor `(batch, dim)`.

    Raises:
        ValueError: If the shape is different.

    Example:
        >>> from tfdml import ops
        >>> ops.check_embeddings([[1.0, 2.0]]).dtype
        tf.float32
    """
    embeddings = at_least_float32(embeddings)
    if embeddings.shape.rank not in (None, 2):
        hint = " Labels come first, then embeddings." if embeddings.shape.rank == 1 else ""
        raise ValueError(
            f"Embeddings must be a matrix. Received: shape {embeddings.shape}. Expected: (batch, dim).{hint}"
        )
    return embeddings


def check_labels(labels: Labels, embeddings: TensorLike, relation: Any = None) -> tf.Tensor:
    """Convert labels to int64 and check that there is one for each embedding.

    Args:
        labels: int tensor, `(batch,)` or `(batch, 1)`. Class labels.
        embeddings: Tensor `(batch, dim)`.
        relation: `tfdml.relations.Relation` or `None`. Labels are what it compares. Default: `None`, classes.

    Returns:
        int64 tensor `(batch,)`, or what the relation makes of the labels.

    Raises:
        ValueError: If there is not one label per embedding, a label is not an integer (see `integer_labels`), or the
            relation does not accept it.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> ops.check_labels([[1], [0]], tf.zeros((2, 3))).numpy().tolist()
        [1, 0]
    """
    if relation is None or relation.names_classes:
        return integer_labels(_flat_labels(labels, embeddings))
    labels = relation.encode(labels)
    _check_count(labels, embeddings)
    return labels


def _flat_labels(labels, embeddings):
    labels = as_label_tensor(labels)
    if labels.shape.rank is None:
        # As from tf.py_function, or in a graph that Keras relaxed to labels (batch,) and (batch, 1).
        labels = tf.reshape(labels, tf.shape(embeddings)[:1])
    if labels.shape.rank == 2 and labels.shape[1] in (1, None):
        labels = tf.reshape(labels, (-1,))
    if labels.shape.rank not in (None, 1):
        raise ValueError(
            f"Labels must be a vector. Received: shape {labels.shape}. Expected: integer class labels of shape "
            "(batch,) or (batch, 1). Labels come first, then embeddings. Pass tf.argmax(labels, axis=1) if they are "
            "one-hot."
        )
    _check_count(labels, embeddings)
    return labels


def _check_count(labels, embeddings):
    if not labels.shape[:1].is_compatible_with(embeddings.shape[:1]):
        raise ValueError(
            f"Labels and embeddings do not match. Received: {labels.shape[0]} labels and {embeddings.shape[0]} "
            "embeddings. Expected: one label per embedding."
        )
