"""Distances between continuous labels."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_not_negative, check_positive
from tfdml.ops.pair_masks import PairMasks
from tfdml.relations.base import Relation

LABEL_DISTANCES = ("l2", "squared_l2", "l1", "cosine")
# Up to this many coordinates, the sum over them is unrolled.
_FEW = 8


@keras.saving.register_keras_serializable(package="tfdml")
class Within(Relation):
    r"""Samples whose labels are close are positive pairs, samples whose labels are far apart negative ones.

    Use it for continuous labels: the positions of a camera, an age, a time, the pose of a hand. Labels are numbers
    `(batch,)` or vectors `(batch, n)`. With the distance $\delta_{ij}$ of two labels, a pair is positive if
    $\delta_{ij} \le$ `positive`, negative if $\delta_{ij} \ge$ `negative`, and counts for nothing in between. The gap
    keeps pairs that are neither alike nor different out of the loss.

    Distances of labels are computed in float64 from differences of coordinates. Labels in float32 resolve about 1 in
    16 million: subtract an offset from large coordinates. The relevance of graded metrics is
    $[1 - \delta_{ij} / \text{negative}]_+$.

    Args:
        positive: float, >= 0. The largest distance of a positive pair.
        negative: float, > `positive`. The least distance of a negative pair.
        distance: `"l2"` (unsquared), `"squared_l2"`, `"l1"` or `"cosine"` (for directions). Default: `"l2"`.

    Raises:
        ValueError: If a threshold is negative, the thresholds are crossed or the distance is unknown.

    Example:
        >>> from tfdml import relations
        >>> near = relations.Within(positive=1.0, negative=3.0)
        >>> positives, negatives = near.masks([[0.0], [1.0], [4.0]], [[0.0], [2.0], [5.0]])
        >>> positives.numpy().astype(int).tolist()
        [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
        >>> negatives.numpy().astype(int).tolist()
        [[0, 0, 1], [0, 0, 1], [1, 0, 0]]
    """

    label_rank = 1
    label_dtype = "float64"
    is_graded = True

    def __init__(self, positive: float, negative: float, distance: str = "l2") -> None:
        self.positive = check_not_negative("positive", positive)
        self.negative = check_positive("negative", negative)
        if not self.positive < self.negative:
            raise ValueError(
                "The thresholds of the distance are crossed, so a pair could be positive and negative. Received: "
                f"positive={positive}, negative={negative}. Expected: positive < negative."
            )
        self.distance = check_choice("distance", distance, LABEL_DISTANCES)

    @property
    def _problem(self):  # type: ignore[override]
        zero = " and not zero" if self.distance == "cosine" else ""
        return f"Labels must be finite{zero}, such as positions"

    _expected = "numbers (batch,) or vectors (batch, n) without NaN; leave samples of unknown position out"

    def distances(self, labels: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        r"""Compute the distances $\delta_{ij}$ of labels.

        Args:
            labels: Tensor `(batch, n)`.
            others: Tensor `(others, n)`.

        Returns:
            float64 tensor `(batch, others)`.

        Raises:
            ValueError: If labels differ in size.
        """
        labels, others = (tf.cast(tf.convert_to_tensor(values), tf.float64) for values in (labels, others))
        if not labels.shape[-1:].is_compatible_with(others.shape[-1:]):
            raise ValueError(
                f"Labels differ in size. Received: labels of shapes {labels.shape} and {others.shape}. Expected: the "
                "same last axis."
            )
        if self.distance == "cosine":
            return 1.0 - tf.matmul(ops.l2_normalize(labels), ops.l2_normalize(others), transpose_b=True)
        total = _sum_over_coordinates(tf.abs if self.distance == "l1" else tf.square, labels, others)
        return tf.sqrt(total) if self.distance == "l2" else total

    def masks(self, labels: tf.Tensor, others: tf.Tensor) -> PairMasks:
        distances = self.distances(labels, others)
        return PairMasks(distances <= self.positive, distances >= self.negative)

    def relevance(self, labels: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.nn.relu(1.0 - self.distances(labels, others) / self.negative), tf.float32)

    def sound(self, labels: tf.Tensor) -> tf.Tensor:
        finite = tf.reduce_all(tf.math.is_finite(labels), axis=1)
        return finite & tf.reduce_any(labels != 0, axis=1) if self.distance == "cosine" else finite


def _sum_over_coordinates(function, labels, others):
    """Sum a function of the differences of coordinates, without an array of all differences."""

    def term(index):
        return function(labels[:, index, None] - others[None, :, index])

    count = labels.shape[1]
    if count is not None and count <= _FEW:
        return sum((term(index) for index in range(1, count)), term(0))
    _, total = tf.while_loop(
        lambda index, _: index < tf.shape(labels)[1],
        lambda index, total: (index + 1, total + term(index)),
        (0, tf.zeros((tf.shape(labels)[0], tf.shape(others)[0]), labels.dtype)),
    )
    return total
