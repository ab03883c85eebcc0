"""A batch of embeddings and the references that it is compared with."""

from __future__ import annotations

from typing import Callable, NamedTuple

import numpy as np
import tensorflow as tf

from tfdml._utils.types import DistanceName, Labels, TensorLike
from tfdml.ops.distances import pairwise_distances
from tfdml.ops.labels import as_label_tensor, check_label_range, integer_labels, known_labels
from tfdml.ops.normalization import l2_normalize
from tfdml.ops.pair_masks import PairMasks, pair_masks
from tfdml.ops.precision import at_least_float32


class References(NamedTuple):
    """Embeddings with labels that a loss scores a batch against.

    Attributes:
        embeddings: `(references, dim)`.
        labels: Integer class labels, `(references,)`.
        valid: Boolean, `(references,)`: those that exist; `None` if all do.
        per_class: How many consecutive references belong to each class, for class proxies; else `None`.
        classes: The number of classes if each of the labels 0 … `classes - 1` has a reference, as class proxies do: a
            sample with another label is then an error. `None` if a sample may have no reference of its class.
    """

    embeddings: tf.Tensor
    labels: tf.Tensor
    valid: tf.Tensor | None = None
    per_class: int | None = None
    classes: int | None = None


class Pairs(NamedTuple):
    """Embeddings, their references, and which pairs of the two count.

    Attributes:
        embeddings: `(batch, dim)`, float32 or float64.
        labels: Integers, `(batch,)`.
        references: `References`, with embeddings of the same type, and `valid` always given. In the batch its
            embeddings are the very same tensor.
        positives: Boolean, `(batch, references)`.
        negatives: Boolean, `(batch, references)`.
        in_batch: Whether the batch is its own reference; then no sample is its own positive.
    """

    embeddings: tf.Tensor
    labels: tf.Tensor
    references: References
    positives: tf.Tensor
    negatives: tf.Tensor
    in_batch: bool

    def distances(self, distance: DistanceName = "l2") -> tf.Tensor:
        """Distances of embeddings and references, `(batch, references)`, as `pairwise_distances` gives them."""
        return pairwise_distances(self.embeddings, None if self.in_batch else self.references.embeddings, distance)

    def cosines(self) -> tf.Tensor:
        """Cosine similarities of embeddings and references, `(batch, references)`."""
        embeddings = l2_normalize(self.embeddings)
        references = embeddings if self.in_batch else l2_normalize(self.references.embeddings)
        return tf.matmul(embeddings, references, transpose_b=True)

    def with_embeddings(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Pairs:
        """The same pairs of other vectors: the function is applied to embeddings and references."""
        embeddings = function(self.embeddings)
        of_references = embeddings if self.in_batch else function(self.references.embeddings)
        return self._replace(embeddings=embeddings, references=self.references._replace(embeddings=of_references))

    def narrowed(self, masks: PairMasks) -> Pairs:
        """The same with fewer pairs."""
        return self._replace(positives=masks.positives, negatives=masks.negatives)


def compare(labels: Labels, embeddings: TensorLike, references: References | None = None) -> Pairs:
    """The pairs of a batch and its references.

    Args:
        labels: Integer class labels, `(batch,)` or `(batch, 1)`, as `integer_labels` takes them: floats, as Keras hands
            them over, must be whole numbers. Under XLA, which drops that check, a sample whose label is not has NaN in
            place of its embedding, so that its loss is NaN.
        embeddings: `(batch, dim)`. Half precisions are computed in float32.
        references: `References`; `None` compares the batch with itself. If they have `classes`, labels must lie in
            0 … `classes - 1`; under XLA a sample with another label has NaN in place of its embedding.

    Returns:
        A `Pairs` in which every positive and every negative pair counts.

    Raises:
        ValueError: If the shapes do not fit, a label is not an integer or is out of range.
    """
    embeddings = check_embeddings(embeddings)
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
    others = tf.cast(references.embeddings, embeddings.dtype)
    if not others.shape[-1:].is_compatible_with(embeddings.shape[-1:]):
        raise ValueError(
            f"Embeddings and references differ in size. Received: embeddings of shape {embeddings.shape}, "
            f"references of shape {others.shape}."
        )
    other_labels = tf.cast(references.labels, labels.dtype)
    masks = pair_masks(labels, other_labels, references.valid)
    valid = tf.ones_like(other_labels, tf.bool) if references.valid is None else tf.convert_to_tensor(references.valid)
    references = references._replace(embeddings=others, labels=other_labels, valid=valid)
    return Pairs(embeddings, labels, references, *masks, in_batch=False)


def check_embeddings(embeddings: TensorLike) -> tf.Tensor:
    """The embeddings in float32 or float64.

    Raises:
        ValueError: If they are not `(batch, dim)`.
    """
    embeddings = at_least_float32(embeddings)
    if embeddings.shape.rank not in (None, 2):
        hint = " Labels come first, then embeddings." if embeddings.shape.rank == 1 else ""
        raise ValueError(
            f"Embeddings must be a matrix. Received: shape {embeddings.shape}. Expected: (batch, dim).{hint}"
        )
    return embeddings


def check_labels(labels: Labels, embeddings: TensorLike) -> tf.Tensor:
    """The labels as int64, `(batch,)`.

    Raises:
        ValueError: If they are not one for each embedding, or not integers (see `integer_labels`).
    """
    return integer_labels(_flat_labels(labels, embeddings))


def _flat_labels(labels, embeddings):
    labels = as_label_tensor(labels)
    if labels.shape.rank == 2 and labels.shape[1] in (1, None):
        labels = tf.reshape(labels, (-1,))
    if labels.shape.rank not in (None, 1):
        raise ValueError(
            f"Labels must be a vector. Received: shape {labels.shape}. Expected: integer class labels of shape "
            "(batch,) or (batch, 1). Labels come first, then embeddings."
        )
    if not labels.shape[:1].is_compatible_with(embeddings.shape[:1]):
        raise ValueError(
            "There must be a label for every embedding. "
            f"Received: {labels.shape[0]} labels and {embeddings.shape[0]} embeddings."
        )
    return labels
