"""FastAP: average precision from histograms of distances."""

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
    r"""One minus the average precision of each anchor's ranking, estimated from histograms of distances.

    Optimizes the ranking itself rather than single pairs, so it benefits from large batches or a memory. It normalizes
    the embeddings itself.

    The squared distances of L2-normalized embeddings lie between 0 and 4. $L + 1$ bin centers divide this range evenly,
    and a distance counts linearly for the two centers around it. With the histogram $h^+_{il}$ of the distances to
    positives, the histogram $h_{il}$ of all distances, and their cumulative sums $H^+, H$,

    $$\frac{1}{|A|} \sum_{i \in A} \Big( 1 - \frac{1}{|P_i|} \sum_{l=0}^{L} \frac{h^+_{il} H^+_{il}}{H_{il}} \Big)$$

    where $A$ are the anchors that have a positive. The others have the value 0.

    Args:
        bins: int, >= 1. $L$, the number of steps between 0 and 4. Default: 10.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If `bins` is less than 1.

    Reference:
        Cakir et al., "Deep metric learning to rank", CVPR 2019, section 3.

    Example:
        >>> from tfdml import losses
        >>> loss = losses.FastAPLoss(bins=2)  # centers at squared distances 0, 2 and 4
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
        """One histogram `(batch, bins + 1)` per row, of positions in steps. No array exceeds the size of `steps`."""
        rows, centers = tf.shape(steps)[0], self.bins + 1
        # Rounding can leave a position just outside of the range, and NaN has none: keep the indices valid.
        left = tf.clip_by_value(tf.cast(tf.floor(steps), tf.int32), 0, self.bins - 1)
        right_share = tf.where(mask, steps - tf.cast(left, steps.dtype), tf.zeros_like(steps))
        left_share = tf.cast(mask, steps.dtype) - right_share
        place = left + centers * tf.range(rows)[:, None]
        counts = tf.math.unsorted_segment_sum(left_share, place, rows * centers) + tf.math.unsorted_segment_sum(
            right_share, place + 1, rows * centers
        )
        return tf.reshape(counts, (rows, centers))
