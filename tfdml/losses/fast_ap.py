"""FastAP: a histogram's average precision."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_whole_number
from tfdml.losses.base import MetricLoss, per_sample_share
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class FastAPLoss(MetricLoss):
    r"""One minus the average precision of each anchor's ranking, read from histograms of its distances.

    The squared distances of L2-normalised embeddings lie between 0 and 4, where $L + 1$ centres stand at equal steps. A
    distance counts for the two centres around it, linearly. With $h^+_{il}$ the histogram of the positives' distances,
    $h_{il}$ that of all, and $H^+, H$ their cumulative sums,

    $$\frac{1}{|A|} \sum_{i \in A} \Big( 1 - \frac{1}{|P_i|} \sum_{l=0}^{L} \frac{h^+_{il} H^+_{il}}{H_{il}} \Big)$$

    $A$ are the anchors that have a positive; the others are worth 0.

    Args:
        bins: $L \ge 1$: the steps between 0 and 4.
        name: Name of the loss.
        **kwargs: `miner` and `reduction`, as for every `MetricLoss`.

    Raises:
        ValueError: If there is no bin.

    Reference:
        Cakir et al., "Deep metric learning to rank", CVPR 2019, section 3.

    Example:
        >>> loss = FastAPLoss(bins=2)  # centres at squared distances 0, 2 and 4
        >>> loss.call([0, 0, 1], [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).numpy().tolist()
        [0.75, 0.75, 0.0]
    """

    def __init__(self, bins: int = 10, name: str = "fast_ap", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.bins = check_whole_number("bins", bins, 1)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        steps = (1.0 - pairs.cosines()) * (self.bins / 2.0)
        of_positives = self._histograms(steps, pairs.positives)
        of_all = of_positives + self._histograms(steps, pairs.negatives)
        precisions = tf.math.divide_no_nan(tf.cumsum(of_positives, axis=1), tf.cumsum(of_all, axis=1))
        positives = ops.masked_count(pairs.positives, steps.dtype)
        average = tf.math.divide_no_nan(tf.reduce_sum(of_positives * precisions, axis=1), positives)
        has_positive = positives > 0.0
        values = tf.where(has_positive, 1.0 - average, tf.zeros_like(average))
        return per_sample_share(values, tf.math.count_nonzero(has_positive), pairs)

    def _histograms(self, steps, mask):
        """One histogram a row, `(batch, bins + 1)`, of positions measured in steps; no array is larger than `steps`."""
        rows, centres = tf.shape(steps)[0], self.bins + 1
        # Rounding may leave a position just outside, and NaN is nowhere; the sum below must not be handed such a place.
        left = tf.clip_by_value(tf.cast(tf.floor(steps), tf.int32), 0, self.bins - 1)
        right_share = tf.where(mask, steps - tf.cast(left, steps.dtype), tf.zeros_like(steps))
        left_share = tf.cast(mask, steps.dtype) - right_share
        place = left + centres * tf.range(rows)[:, None]
        counts = tf.math.unsorted_segment_sum(left_share, place, rows * centres) + tf.math.unsorted_segment_sum(
            right_share, place + 1, rows * centres
        )
        return tf.reshape(counts, (rows, centres))
