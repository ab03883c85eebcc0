"""Common tags of samples with several tags."""

from __future__ import annotations

from typing import Literal

import keras
import tensorflow as tf

from tfdml._utils.arguments import check_between, check_choice, check_whole_number
from tfdml.ops.pair_masks import PairMasks
from tfdml.relations.base import Relation

MEASURES = ("count", "jaccard")


@keras.saving.register_keras_serializable(package="tfdml")
class Overlap(Relation):
    r"""Samples with common tags are positive pairs, samples without are negative ones.

    Use it for samples with several tags: the objects in a photograph, the genres of a song. Labels are multi-hot, a
    matrix `(batch, tags)` of 0 and 1; `tfdml.data.encode_tags` makes it from lists of tags. With the sets of tags
    $A_i$, the overlap $o_{ij}$ is one of

    $$\text{count: } |A_i \cap A_j|, \qquad \text{jaccard: } \frac{|A_i \cap A_j|}{|A_i \cup A_j|},$$

    and a pair is positive if $o_{ij} \ge$ `minimum`, negative if $o_{ij} \le$ `maximum`, and counts for nothing in
    between. The relevance of graded metrics is $o_{ij}$.

    Args:
        minimum: int, >= 1, for `"count"`; float, 0 < minimum <= 1, for `"jaccard"`. The least overlap of a positive
            pair. Default: 1.
        maximum: The largest overlap of a negative pair, less than `minimum`. Default: 0, no common tag.
        measure: `"count"` or `"jaccard"`, as above. Default: `"count"`.

    Raises:
        ValueError: If a threshold is out of range, the thresholds are crossed or the measure is unknown.

    Example:
        >>> from tfdml import relations
        >>> tags = [[1, 1, 0], [0, 1, 1], [0, 0, 1]]
        >>> relations.Overlap().masks(tags, tags).negatives.numpy().astype(int).tolist()
        [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """

    label_rank = 1
    is_graded = True
    _problem = "Labels must mark at least one tag of each sample with 1, and the others with 0"
    _expected = "a matrix (batch, tags) of 0 and 1 without a row of zeros; leave samples without tags out"

    def __init__(self, minimum: float = 1, maximum: float = 0, measure: Literal["count", "jaccard"] = "count") -> None:
        self.measure = check_choice("measure", measure, MEASURES)
        if measure == "count":
            self.minimum: float = check_whole_number("minimum", minimum, 1)
            self.maximum: float = check_whole_number("maximum", maximum, 0)
        else:
            self.minimum = check_between("minimum", minimum, 0.0, 1.0)
            self.maximum = check_between("maximum", maximum, 0.0, 1.0)
        if not self.maximum < self.minimum:
            raise ValueError(
                "The thresholds of the overlap are crossed, so a pair could be positive and negative. Received: "
                f"minimum={minimum}, maximum={maximum}. Expected: maximum < minimum."
            )

    def overlaps(self, labels: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        r"""Compute the overlaps $o_{ij}$.

        Args:
            labels: Tensor `(batch, tags)` of 0 and 1.
            others: Tensor `(others, tags)` of 0 and 1.

        Returns:
            Tensor `(batch, others)`, float64 so that thresholds are compared exactly.

        Raises:
            ValueError: If the numbers of tags differ.
        """
        labels, others = tf.cast(labels, tf.float32), tf.cast(others, tf.float32)
        _check_width(labels, others)
        # Sums of ones are exact in float32.
        common = tf.cast(tf.matmul(labels, others, transpose_b=True), tf.float64)
        if self.measure == "count":
            return common
        sizes, other_sizes = (tf.cast(tf.reduce_sum(tags, axis=1), tf.float64) for tags in (labels, others))
        return tf.math.divide_no_nan(common, sizes[:, None] + other_sizes[None, :] - common)

    def masks(self, labels: tf.Tensor, others: tf.Tensor) -> PairMasks:
        overlaps = self.overlaps(labels, others)
        return PairMasks(overlaps >= self.minimum, overlaps <= self.maximum)

    def relevance(self, labels: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.overlaps(labels, others), tf.float32)

    def sound(self, labels: tf.Tensor) -> tf.Tensor:
        is_tag = labels == tf.ones_like(labels)
        return tf.reduce_any(is_tag, axis=1) & tf.reduce_all(is_tag | (labels == tf.zeros_like(labels)), axis=1)


def _check_width(labels, others):
    if not labels.shape[-1:].is_compatible_with(others.shape[-1:]):
        raise ValueError(
            f"Labels differ in size. Received: labels of shapes {labels.shape} and {others.shape}. Expected: the same "
            "last axis."
        )
