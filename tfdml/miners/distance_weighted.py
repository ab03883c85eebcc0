"""Distance-weighted sampling."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_between, check_whole_number
from tfdml.miners.base import Miner
from tfdml.ops.pair_masks import PairMasks
from tfdml.ops.pairs import Pairs


@keras.saving.register_keras_serializable(package="tfdml")
class DistanceWeightedMiner(Miner):
    r"""Draws negatives so that all distances are equally likely, no matter how rare they are on the unit sphere.

    Random negatives almost all have the same distance (about 1.41 on the unit sphere), and hard negatives are dominated
    by noise; this draws from the whole range. The paper combines it with `MarginLoss`. It normalizes the embeddings
    itself.

    Distances $d$ of points spread evenly over the unit sphere in $n$ dimensions have the density

    $$q(d) \propto d^{n-2} \big( 1 - \tfrac14 d^2 \big)^{\frac{n-3}{2}}.$$

    Each sample keeps its positives and draws the same number of different negatives, or all if there are fewer, with
    the weights $1 / q(\max(d, \text{cutoff}))$ on L2-normalized embeddings, among those with $d <$ `nonzero_cutoff`. If
    there are none, it draws among all its negatives with equal weights.

    Deviation from the paper: a sample draws without replacement (one after another, each by its weight among the
    remaining ones), so it has as many negatives as positives. Drawing with replacement results in fewer.

    The draw depends only on `seed` and the bits of the embeddings, so it differs between batches, and a resumed
    training run repeats it.

    Args:
        cutoff: float, 0 < cutoff < nonzero_cutoff. Negatives closer than this get the weight of this distance, so that
            noise does not dominate. Default: 0.5.
        nonzero_cutoff: float, <= 2. Negatives at this distance or farther are not drawn. Default: 1.4.
        seed: int, >= 0. Seed of the draw. Default: 0.

    Raises:
        ValueError: If the cutoffs are in the wrong order or out of range, or the seed is invalid.

    Reference:
        Wu et al., "Sampling matters in deep embedding learning", ICCV 2017, section 4.2. Keeping the largest sums of
        log-weights and Gumbel noise draws without replacement: Kool et al., "Stochastic beams and where to find them",
        ICML 2019, section 2.3.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import miners
        >>> x = tf.random.stateless_normal((6, 8), seed=(0, 1))
        >>> miners.DistanceWeightedMiner()([0, 0, 1, 1, 2, 2], x).negatives.numpy().sum(axis=1).tolist()
        [1, 1, 1, 1, 1, 1]
    """

    def __init__(self, cutoff: float = 0.5, nonzero_cutoff: float = 1.4, seed: int = 0) -> None:
        self.nonzero_cutoff = check_between("nonzero_cutoff", nonzero_cutoff, 0.0, 2.0)
        self.cutoff = check_between("cutoff", cutoff, 0.0, 2.0)
        if not 0 < cutoff < nonzero_cutoff:
            raise ValueError(
                f"The cutoffs are in the wrong order. Received: cutoff={cutoff!r}, nonzero_cutoff={nonzero_cutoff!r}. "
                "Expected: 0 < cutoff < nonzero_cutoff."
            )
        self.seed = check_whole_number("seed", seed, 0)

    def choose(self, pairs: Pairs) -> PairMasks:
        distances = pairs.with_embeddings(ops.l2_normalize).distances("l2")
        near = pairs.negatives & (distances < self.nonzero_cutoff)
        any_near = tf.reduce_any(near, axis=1, keepdims=True)
        candidates = tf.where(any_near, near, pairs.negatives)
        weights = self._log_weights(distances, tf.shape(pairs.embeddings)[1])
        keys = tf.where(any_near, weights, tf.zeros_like(weights)) + self._gumbel(pairs.embeddings, tf.shape(distances))
        ranks = _descending_ranks(tf.where(candidates, keys, tf.fill(tf.shape(keys), keys.dtype.min)))
        wanted = tf.math.count_nonzero(pairs.positives, axis=1, keepdims=True, dtype=ranks.dtype)
        return ops.PairMasks(pairs.positives, candidates & (ranks < wanted))

    def _log_weights(self, distances, dimension):
        dimension = tf.cast(dimension, distances.dtype)
        # Weights are not used beyond the upper cutoff; clipping keeps the logarithm finite.
        distances = tf.clip_by_value(distances, self.cutoff, self.nonzero_cutoff)
        remainder = tf.maximum(1.0 - 0.25 * tf.square(distances), np.finfo(np.float32).eps)
        return (2.0 - dimension) * tf.math.log(distances) + 0.5 * (3.0 - dimension) * tf.math.log(remainder)

    def _gumbel(self, embeddings, shape):
        bits = tf.bitcast(embeddings, tf.int32 if embeddings.dtype == tf.float32 else tf.int64)
        # A sum of integers does not depend on the order of summation.
        total = tf.cast(tf.reduce_sum(tf.cast(bits, tf.int64)), tf.uint64)
        # tf.random.stateless_uniform draws different numbers under XLA; these integers are the same everywhere.
        integers = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=shape,
            key=tf.constant([self.seed], tf.uint64),
            counter=tf.stack([tf.zeros_like(total), total]),
            alg=tf.random.Algorithm.PHILOX.value,
            dtype=tf.uint32,
        )
        # Midpoints of 2^23 equal intervals of (0, 1): Gumbel noise is infinite at both ends.
        uniform = (tf.cast(tf.bitwise.right_shift(integers, 9), tf.float32) + 0.5) * 2.0**-23
        return tf.cast(-tf.math.log(-tf.math.log(uniform)), embeddings.dtype)


def _descending_ranks(values):
    """Rank, from 0, of each value in its row in descending order; equal values get different ranks."""
    return tf.argsort(tf.argsort(values, axis=1, direction="DESCENDING", stable=True), axis=1)
