"""Triplet loss."""

from __future__ import annotations

from typing import Any, Literal

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_choice, check_not_negative
from tfdml._utils.types import DistanceName
from tfdml.losses.base import MarginRequirements, MetricLoss, per_sample_share
from tfdml.ops.pairs import Pairs

MINING = ("all", "semi_hard", "hard")


@keras.saving.register_keras_serializable(package="tfdml")
class TripletLoss(MetricLoss):
    r"""Requires each positive to be closer to its anchor than the negatives, by a margin.

    Use it inside the batch or with a memory, with batches of several samples per class. It only compares distances with
    each other, so classes may have different sizes. The loss is the mean over triplets $(i, p, n)$ of
    $\phi(d_{ip} - d_{in})$ with $\phi(x) = [x + m]_+$ or, for a soft margin, $\phi(x) = \log(1 + e^x)$. `mining`
    selects the triplets:

    - `"all"`: every positive $p$ of a sample with every negative $n$.
    - `"semi_hard"`: for each positive pair, the nearest negative that is farther away than the positive; if there is
      none, the farthest negative. A robust default.
    - `"hard"`: for each sample, its farthest positive with its nearest negative. The strongest signal, but sensitive to
      label noise and prone to collapse early in training.

    A sample without a positive or without a negative has no triplet, and a batch without triplets has the value 0.

    Margins on `"l2"` distances are meant for unit vectors. `"l2"` and `"squared_l2"` distances lose precision far from
    the origin: in float32, vectors closer to each other than 0.1 % of their lengths are at distance 0, without a
    gradient. `"hard"` mining has no gradient at all if the whole batch is that close together, which can happen with an
    untrained embedder with a large bias. Normalize the embeddings.

    There is no array of all triplets. With the hinge,
    $\sum_{p, n} [d_p + m - d_n]_+ = \sum_p c_p (d_p + m) - \sum_n k_n d_n$, where $c_p$ counts the negatives below
    $d_p + m$ and $k_n$ the positives with $d_p + m$ above $d_n$: two sorted searches, O(b² log b) in time and O(b²) in
    memory. With the soft margin, the positives are processed one after another: O(b² · positives per sample) in time.

    Args:
        margin: float, >= 0, or `"soft"`. $m$. Default: 0.1.
        mining: `"all"`, `"semi_hard"` or `"hard"`, as above. Default: `"semi_hard"`.
        distance: `"l2"` (unsquared), `"squared_l2"` or `"cosine"` ($1 - s$, so the margin is one of cosine similarity).
            Default: `"l2"`.
        average: `"all"` averages over all mined triplets, `"nonzero"` over those with a nonzero term. The terms of a
            soft margin are never zero. Default: `"all"`.
        name: str. Name of the loss.
        **kwargs: `miner` and `reduction`, see `MetricLoss`.

    Raises:
        ValueError: If the margin is negative or a choice is unknown.

    Reference:
        Schroff et al., "FaceNet", CVPR 2015 (semi-hard); Hermans et al., "In defense of the triplet loss for person
        re-identification", 2017 (hard, all, soft margin).

    Example:
        >>> from tfdml import losses
        >>> loss = losses.TripletLoss(margin=0.5, mining="hard")
        >>> float(loss([0, 0, 1], [[0.0], [1.0], [2.0]]))  # [1 - 2 + 0.5]+ and [1 - 1 + 0.5]+
        0.25
    """

    def __init__(
        self,
        margin: float | Literal["soft"] = 0.1,
        mining: str = "semi_hard",
        distance: DistanceName = "l2",
        average: Literal["all", "nonzero"] = "all",
        name: str = "triplet",
        **kwargs: Any,
    ) -> None:
        super().__init__(name, **kwargs)
        self.margin = margin if margin == "soft" else _check_margin(margin)
        self.mining = check_choice("mining", mining, MINING)
        self.distance = check_choice("distance", distance, ops.DISTANCES)
        self.average = check_choice("average", average, ("all", "nonzero"))

    @property
    def margin_requirements(self) -> MarginRequirements | None:
        if self.margin == "soft":
            return None
        return MarginRequirements(self.margin, self.margin, self.distance)

    def compare(self, pairs: Pairs) -> tf.Tensor:
        distances = pairs.distances(self.distance)
        sums, triplets, nonzero = getattr(self, f"_{self.mining}")(distances, pairs.positives, pairs.negatives)
        return per_sample_share(sums, tf.reduce_sum(triplets if self.average == "all" else nonzero), pairs)

    # Each returns per sample: the sum of the terms, the number of triplets, and the number of nonzero terms.

    def _hard(self, distances, positives, negatives):
        complete = tf.reduce_any(positives, axis=1) & tf.reduce_any(negatives, axis=1)
        excess = ops.masked_max(distances, positives, default=0.0) - ops.masked_min(distances, negatives, default=0.0)
        terms = self._terms(excess, complete)
        return terms, _count(complete), _count(terms > 0)

    def _semi_hard(self, distances, positives, negatives):
        still = tf.stop_gradient(distances)
        order = tf.argsort(tf.where(negatives, still, tf.fill(tf.shape(still), still.dtype.max)), axis=1)
        ordered = ops.sort_masked(still, negatives)
        farther = ops.count_sorted_below(ordered, still, or_equal=True)
        count = tf.reduce_sum(tf.cast(negatives, tf.int32), axis=1, keepdims=True)
        place = tf.maximum(tf.minimum(farther, count - 1), 0)
        chosen = _of_columns(distances, tf.gather(order, place, batch_dims=1))
        complete = positives & (count > 0)
        terms = self._terms(distances - chosen, complete)
        return tf.reduce_sum(terms, axis=1), _count(complete), _count(terms > 0)

    def _all(self, distances, positives, negatives):
        triplets = _count(positives) * _count(negatives)
        if self.margin == "soft":
            return _soft_sums(distances, positives, negatives), triplets, triplets
        reach = distances + self.margin
        beaten = ops.count_below(distances, negatives, reach)
        spared = ops.count_below(reach, positives, distances, or_equal=True)
        of_positives = tf.where(positives, beaten, 0)
        of_negatives = tf.where(negatives, tf.reduce_sum(tf.cast(positives, tf.int32), axis=1)[:, None] - spared, 0)
        sums = tf.reduce_sum(
            tf.cast(of_positives, distances.dtype) * reach - tf.cast(of_negatives, distances.dtype) * distances, axis=1
        )
        # Without nonzero terms, the sum is only rounding error.
        nonzero = tf.reduce_sum(tf.cast(of_positives, tf.int64), axis=1)
        return tf.where(nonzero > 0, tf.nn.relu(sums), tf.zeros_like(sums)), triplets, nonzero

    def _terms(self, excess, counts):
        terms = tf.nn.softplus(excess) if self.margin == "soft" else tf.nn.relu(excess + self.margin)
        return tf.where(counts, terms, tf.zeros_like(terms))


def _check_margin(margin):
    try:
        return check_not_negative("margin", margin)
    except ValueError as error:
        raise ValueError(f"{error} Or pass margin='soft'.") from None


def _of_columns(values, columns):
    """`tf.gather` with `batch_dims=1`, whose gradient fails on an empty batch under TensorFlow 2.15."""
    places = columns + tf.shape(values)[1] * tf.range(tf.shape(values)[0])[:, None]
    return tf.gather(tf.reshape(values, (-1,)), places)


def _count(mask):
    return tf.reduce_sum(tf.cast(tf.reshape(mask, (tf.shape(mask)[0], -1)), tf.int64), axis=1)


def _soft_sums(distances, positives, negatives):
    r"""$\sum_{p, n} \log(1 + e^{d_p - d_n})$ of each row, with its gradient, one positive of all rows after another."""

    @tf.custom_gradient
    def sums(distances):
        first_positives = tf.argsort(tf.cast(~positives, tf.int32), axis=1, stable=True)
        count = tf.reduce_sum(tf.cast(positives, tf.int32), axis=1)
        columns = tf.shape(distances)[1]

        def add_positive(k, total, slope):
            column = tf.gather(first_positives, k, axis=1)
            counts = negatives & (k < count)[:, None]
            excess = tf.gather(distances, column[:, None], batch_dims=1) - distances
            total += ops.masked_sum(tf.nn.softplus(excess), counts)
            pull = tf.where(counts, tf.sigmoid(excess), tf.zeros_like(excess))
            here = tf.one_hot(column, columns, dtype=distances.dtype)
            return k + 1, total, slope + here * tf.reduce_sum(pull, axis=1, keepdims=True) - pull

        start = 0, tf.zeros_like(distances[:, 0]), tf.zeros_like(distances)
        _, total, slope = tf.while_loop(lambda k, *_: k < tf.reduce_max(count), add_positive, start)
        return total, lambda upstream: upstream[:, None] * slope

    return sums(distances)
