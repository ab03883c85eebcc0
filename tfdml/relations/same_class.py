"""Equal class labels."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml._utils.types import Labels
from tfdml.ops.labels import integer_labels, squeeze_column
from tfdml.ops.pair_masks import PairMasks
from tfdml.relations.base import Relation, outer


@keras.saving.register_keras_serializable(package="tfdml")
class SameClass(Relation):
    """Samples of the same class are positive pairs, samples of different classes negative ones. The default.

    Example:
        >>> from tfdml import relations
        >>> relations.SameClass().masks([0, 0, 1], [0, 1]).positives.numpy().astype(int).tolist()
        [[1, 0], [1, 0], [0, 1]]
    """

    names_classes = True

    def masks(self, labels: tf.Tensor, others: tf.Tensor) -> PairMasks:
        column, row = outer(labels, others)
        return PairMasks(column == row, column != row)

    def encode(self, labels: Labels) -> tf.Tensor:
        return integer_labels(labels if tf.is_tensor(labels) else squeeze_column(labels))
