"""Masks of positive and negative pairs."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfdml._utils.types import TensorLike


class PairMasks(NamedTuple):
    """Masks of positive and negative pairs. A pair in neither is ignored by losses.

    Attributes:
        positives: bool tensor, `(batch, references)`.
        negatives: bool tensor, `(batch, references)`.

    Example:
        >>> from tfdml import ops
        >>> ops.pair_masks([0, 0, 1]).negatives.numpy().astype(int).tolist()
        [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    """

    positives: tf.Tensor
    negatives: tf.Tensor


def pair_masks(
    labels: TensorLike, reference_labels: TensorLike | None = None, valid: TensorLike | None = None
) -> PairMasks:
    """Find the positive pairs (equal labels) and the negative pairs (different labels).

    Args:
        labels: int tensor, `(batch,)`. Class labels.
        reference_labels: int tensor, `(references,)`, or `None` to compare the batch with itself; then no sample is its
            own positive. Default: `None`.
        valid: bool tensor, `(references,)`, or `None`. The references that exist, for a memory that is not full yet.
            Default: `None`, all references are valid.

    Returns:
        `PairMasks(positives, negatives)`.

    Example:
        >>> from tfdml import ops
        >>> positives, negatives = ops.pair_masks([0, 0, 1])
        >>> positives.numpy().astype(int).tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
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
