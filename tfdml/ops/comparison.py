"""A batch beside what it is compared with."""

from typing import NamedTuple, Optional

import tensorflow as tf

from tfdml.ops.distances import pairwise_distances
from tfdml.ops.normalization import l2_normalize
from tfdml.ops.pair_masks import PairMasks, pair_masks


class Comparison(NamedTuple):
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

    def distances(self, metric="l2"):
        """Distances of embeddings and references, `(batch, references)`, as `pairwise_distances` gives them."""
        return pairwise_distances(self.embeddings, None if self.in_batch else self.references, metric)

    def cosines(self):
        """Cosine similarities of embeddings and references, `(batch, references)`."""
        embeddings = l2_normalize(self.embeddings)
        references = embeddings if self.in_batch else l2_normalize(self.references)
        return tf.matmul(embeddings, references, transpose_b=True)

    def narrowed(self, masks: PairMasks):
        """The same with fewer pairs."""
        return self._replace(positives=masks.positives, negatives=masks.negatives)


def compare(embeddings, labels, references=None, reference_labels=None, exists=None, per_class=None):
    """Lays a batch beside its references.

    Args:
        embeddings: `(batch, dim)`.
        labels: Integers, `(batch,)`.
        references: `(references, dim)`; `None` compares the batch with itself.
        reference_labels: Integers, `(references,)`.
        exists: Boolean, `(references,)`; `None` if all do.
        per_class: As in `Comparison`.

    Returns:
        A `Comparison` in which every positive and every negative pair counts.
    """
    if references is None:
        masks = pair_masks(labels)
        everyone = tf.ones_like(labels, tf.bool)
        return Comparison(embeddings, labels, embeddings, labels, *masks, exists=everyone, in_batch=True)
    reference_labels = tf.cast(reference_labels, labels.dtype)
    masks = pair_masks(labels, reference_labels, exists)
    exists = tf.ones_like(reference_labels, tf.bool) if exists is None else tf.convert_to_tensor(exists)
    return Comparison(
        embeddings, labels, references, reference_labels, *masks, exists=exists, in_batch=False, per_class=per_class
    )
