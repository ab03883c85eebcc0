"""Which pairs are positive and which are negative."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfdml._utils.types import TensorLike


class PairMasks(NamedTuple):
    """Boolean masks of the pairs, each `(batch, references)`; a pair in neither takes no part in a loss."""

    positives: tf.Tensor
    negatives: tf.Tensor


def pair_masks(
    labels: TensorLike, reference_labels: TensorLike | None = None, valid: TensorLike | None = None
) -> PairMasks:
    """Tells the positive pairs (equal labels) from the negative ones (unequal labels).

    Args:
        labels: Integer class labels, `(batch,)`.
        reference_labels: Integer class labels, `(references,)`. `None` compares the batch with itself: then no
            sample is its own positive.
        valid: Boolean, `(references,)`: the references that exist, for a memory that is not full yet.

    Returns:
        `PairMasks(positives, negatives)`.
    """
    labels = tf.convert_to_tensor(labels)
    others = labels if reference_labels is None else tf.cast(reference_labels, labels.dtype)
    positives = labels[:, None] == others[None, :]
    negatives = ~positives
    if reference_labels is None:
        positives = tf.linalg.set_diag(positives, tf.zeros(tf.shape(labels), tf.bool))
    if valid is not None:
        valid = tf.convert_to_tensor(valid)[None, :]
        positives, negatives = positives & valid, negatives & valid
    return PairMasks(positives, negatives)
