"""Greedy k-center: few points that cover many."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32


def greedy_k_center(
    points: TensorLike, k: int, initial: TensorLike | None = None, mask: TensorLike | None = None
) -> tf.Tensor:
    r"""Chooses `k` points, each the one that lies farthest from all chosen before it.

    $$q = \arg\max_{u \in P \setminus R} \; \min_{v \in \rho \cup R} \lVert u - v \rVert_2, \qquad
      R \leftarrow R \cup \{q\}, \qquad \text{until } |R| = k.$$

    The largest distance of a point to its nearest centre (the covering radius) is at most twice the optimum.
    Without `initial` centres the first point is chosen first: shuffle the points to begin at random.
    A point is chosen once; among equally far points the first is taken.

    Args:
        points: `(n, d)`, or `(classes, n, d)` for one problem per class.
        k: How many points to choose, at most `n`.
        initial: Centres that are there already, `(p, d)` or `(classes, p, d)`.
        mask: Boolean, `(n,)` or `(classes, n)`: the points that exist. They are chosen before any other; where
            there are fewer than `k` of them, the rest of that class' indices is -1.

    Returns:
        Indices into the points, `(k,)` or `(classes, k)`, int32, in the order of choice.

    Raises:
        ValueError: If `k` is not in 1..n or the ranks do not fit.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, Algorithm 2;
        T. Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985.
    """
    points = at_least_float32(points)
    if points.shape.rank == 2:
        batched = greedy_k_center(
            points[None], k, None if initial is None else initial[None], None if mask is None else mask[None]
        )
        return batched[0]
    if points.shape.rank != 3:
        raise ValueError(
            f"points must be (n, d) or (classes, n, d). Received: points of shape {tuple(points.shape)}."
        )
    count = points.shape[1]
    if k < 1 or (count is not None and k > count):
        raise ValueError(f"k must lie in 1..n. Received: k={k}, n={count} points.")
    shape = tf.shape(points)[:2]
    if mask is None:
        mask = tf.ones(shape, tf.bool)

    if initial is None:
        nearest = tf.fill(shape, points.dtype.max)
    else:
        centres = tf.cast(initial, points.dtype)
        # One centre at a time: (classes, n, d) is held, not (classes, n, p, d).
        nearest = tf.reduce_min(
            tf.map_fn(lambda centre: _squared_distances(points, centre), tf.transpose(centres, (1, 0, 2))), axis=0
        )
    # What may not be chosen (missing, or chosen already) is nearer than anything can be.
    excluded = tf.constant(-1.0, points.dtype)
    nearest = tf.where(mask, nearest, excluded)

    def choose(step, nearest, chosen):
        index = tf.argmax(nearest, axis=1, output_type=tf.int32)
        exists = tf.gather(nearest, index, axis=1, batch_dims=1) >= 0.0
        centre = tf.gather(points, index, axis=1, batch_dims=1)
        nearest = tf.minimum(nearest, _squared_distances(points, centre))
        nearest = tf.where(tf.one_hot(index, shape[1], on_value=True, off_value=False), excluded, nearest)
        return step + 1, nearest, chosen.write(step, tf.where(exists, index, -1))

    chosen = tf.TensorArray(tf.int32, size=k, element_shape=points.shape[:1])
    _, _, chosen = tf.while_loop(lambda step, *_: step < k, choose, (0, nearest, chosen), maximum_iterations=k)
    indices = tf.transpose(chosen.stack())
    indices.set_shape((points.shape[0], k))
    return indices


def _squared_distances(points, centre):
    return tf.reduce_sum(tf.square(points - centre[:, None, :]), axis=-1)
