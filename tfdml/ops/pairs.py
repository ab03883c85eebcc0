"""A batch beside what it is compared with."""

from typing import NamedTuple, Optional

import numpy as np
import tensorflow as tf

from tfdml.ops.distances import pairwise_distances
from tfdml.ops.labels import as_label_tensor, check_label_range, integer_labels, known_labels
from tfdml.ops.normalization import l2_normalize
from tfdml.ops.pair_masks import PairMasks, pair_masks
from tfdml.ops.precision import at_least_float32


class Pairs(NamedTuple):
    """Embeddings, their references, and which pairs of the two count.

    Attributes:
        embeddings: `(batch, dim)`, float32 or float64.
        labels: Integers, `(batch,)`.
        references: `(references, dim)`, of the same type; in the batch the very same tensor.
        reference_labels: Integers, `(references,)`.
        positives: Boolean, `(batch, references)`.
        negatives: Boolean, `(batch, references)`.
        exists: Boolean, `(references,)`: a memory that is not full has places without a reference.
        in_batch: Whether the batch is its own reference; then no sample is its own positive.
        per_class: If the references are so many consecutive proxies of each class, how many; else `None`.
    """

    embeddings: tf.Tensor
    labels: tf.Tensor
    references: tf.Tensor
    reference_labels: tf.Tensor
    positives: tf.Tensor
    negatives: tf.Tensor
    exists: tf.Tensor
    in_batch: bool
    per_class: Optional[int] = None

    def distances(self, distance="l2"):
        """Distances of embeddings and references, `(batch, references)`, as `pairwise_distances` gives them."""
        return pairwise_distances(self.embeddings, None if self.in_batch else self.references, distance)

    def cosines(self):
        """Cosine similarities of embeddings and references, `(batch, references)`."""
        embeddings = l2_normalize(self.embeddings)
        references = embeddings if self.in_batch else l2_normalize(self.references)
        return tf.matmul(embeddings, references, transpose_b=True)

    def narrowed(self, masks: PairMasks):
        """The same with fewer pairs."""
        return self._replace(positives=masks.positives, negatives=masks.negatives)


def compare(
    embeddings, labels, references=None, reference_labels=None, exists=None, per_class=None, classes=None
):
    """Lays a batch beside its references.

    Args:
        embeddings: `(batch, dim)`. Half precisions are computed in float32.
        labels: Integer class labels, `(batch,)` or `(batch, 1)`, as `integer_labels` takes them: floats, as Keras hands
            them over, must be whole numbers. Under XLA, which drops that check, a sample whose label is not has NaN in
            place of its embedding, so that its loss is NaN.
        references: `(references, dim)`; `None` compares the batch with itself.
        reference_labels: Integers, `(references,)`.
        exists: Boolean, `(references,)`; `None` if all do.
        per_class: As in `Pairs`.
        classes: If given, labels must lie in 0 … `classes - 1`. Under XLA a sample with another one has NaN in place of
            its embedding.

    Returns:
        A `Pairs` in which every positive and every negative pair counts.

    Raises:
        ValueError: If the shapes do not fit, a label is not an integer or is out of range.
    """
    embeddings = check_embeddings(embeddings)
    given = _flat_labels(labels, embeddings)
    labels = integer_labels(given)
    if classes is not None:
        labels = check_label_range(labels, classes, "class proxies")
    if tf.is_symbolic_tensor(given) and (given.dtype.is_floating or classes is not None):
        known = known_labels(given, classes)
        embeddings = tf.where(known[:, None], embeddings, tf.constant(np.nan, embeddings.dtype))
    if references is None:
        masks = pair_masks(labels)
        everyone = tf.ones_like(labels, tf.bool)
        return Pairs(embeddings, labels, embeddings, labels, *masks, exists=everyone, in_batch=True)
    references = tf.cast(references, embeddings.dtype)
    if not references.shape[-1:].is_compatible_with(embeddings.shape[-1:]):
        raise ValueError(
            f"Embeddings and references differ in size. Received: embeddings of shape {embeddings.shape}, "
            f"references of shape {references.shape}."
        )
    reference_labels = tf.cast(reference_labels, labels.dtype)
    masks = pair_masks(labels, reference_labels, exists)
    exists = tf.ones_like(reference_labels, tf.bool) if exists is None else tf.convert_to_tensor(exists)
    return Pairs(
        embeddings, labels, references, reference_labels, *masks, exists=exists, in_batch=False, per_class=per_class
    )


def check_embeddings(embeddings):
    """The embeddings in float32 or float64.

    Raises:
        ValueError: If they are not `(batch, dim)`.
    """
    embeddings = at_least_float32(embeddings)
    if embeddings.shape.rank not in (None, 2):
        raise ValueError(f"Embeddings must be (batch, dim). Received: shape {embeddings.shape}.")
    return embeddings


def check_labels(labels, embeddings):
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
            f"Labels must be integer class labels of shape (batch,) or (batch, 1). Received: shape {labels.shape}."
        )
    if not labels.shape[:1].is_compatible_with(embeddings.shape[:1]):
        raise ValueError(
            "There must be a label for every embedding. "
            f"Received: {labels.shape[0]} labels and {embeddings.shape[0]} embeddings."
        )
    return labels
