"""Greedy k-center: a few points that cover many."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.types import TensorLike
from tfdml.ops.precision import at_least_float32


def greedy_k_center(
    points: TensorLike, k: int, initial: TensorLike | None = None, mask: TensorLike | None = None
) -> tf.Tensor:
    r"""Select `k` points, each the one farthest from all selected before it.

    Used to initialize prototypes (`PrototypePooling.adapt`) and the proxies of CCP.

    $$q = \arg\max_{u \in P \setminus R} \; \min_{v \in \rho \cup R} \lVert u - v \rVert_2, \qquad
      R \leftarrow R \cup \{q\}, \qquad \text{until } |R| = k.$$

    The largest distance of a point to its nearest center (the covering radius) is at most twice the optimum. Without
    `initial` centers, the first point is selected first: shuffle the points to start at random. A point is selected at
    most once. Of equally distant points, the first one is selected.

    Args:
        points: float tensor, `(n, d)`, or `(classes, n, d)` for one problem per class.
        k: int, at most `n`. Number of points to select.
        initial: float tensor or `None`, `(p, d)` or `(classes, p, d)`. Existing centers. Default: `None`.
        mask: bool tensor or `None`, `(n,)` or `(classes, n)`. `True` for valid points. If a class has fewer than `k` of
            them, the rest of its indices are -1. Default: `None`, all points are valid.

    Returns:
        int32 tensor `(k,)` or `(classes, k)`. Indices of points, in the order of selection.

    Raises:
        ValueError: If `k` is not in 1..n or the ranks do not match.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, Algorithm 2; T. Gonzalez,
        "Clustering to minimize the maximum intercluster distance", 1985.

    Example:
        >>> from tfdml import ops
        >>> import tensorflow as tf
        >>> ops.greedy_k_center(tf.constant([[0.0], [1.0], [9.0], [4.0]]), k=3).numpy().tolist()
        [0, 2, 3]
    """
    points = at_least_float32(points)
    if points.shape.rank == 2:
        batched = greedy_k_center(
            points[None], k, None if initial is None else initial[None], None if mask is None else mask[None]
        )
        return batched[0]
    if points.shape.rank != 3:
        raise ValueError(
            f"The points have the wrong rank. Received: points of shape {tuple(points.shape)}. Expected: (n, d) or "
            "(classes, n, d)."
        )
    count = points.shape[1]
    if k < 1 or (count is not None and k > count):
        raise ValueError(f"k is out of range. Received: k={k}, n={count} points. Expected: 1 <= k <= n.")
    shape = tf.shape(points)[:2]
    if mask is None:
        mask = tf.ones(shape, tf.bool)

    if initial is None:
        nearest = tf.fill(shape, points.dtype.max)
    else:
        centers = tf.cast(initial, points.dtype)
        # One center at a time needs (classes, n, d) instead of (classes, n, p, d).
        nearest = tf.reduce_min(
            tf.map_fn(lambda center: _squared_distances(points, center), tf.transpose(centers, (1, 0, 2))), axis=0
        )
    # Points that are masked or already selected get a distance below any other.
    excluded = tf.constant(-1.0, points.dtype)
    nearest = tf.where(mask, nearest, excluded)

    def choose(step, nearest, chosen):
        index = tf.argmax(nearest, axis=1, output_type=tf.int32)
        exists = tf.gather(nearest, index, axis=1, batch_dims=1) >= 0.0
        center = tf.gather(points, index, axis=1, batch_dims=1)
        nearest = tf.minimum(nearest, _squared_distances(points, center))
        nearest = tf.where(tf.one_hot(index, shape[1], on_value=True, off_value=False), excluded, nearest)
        return step + 1, nearest, chosen.write(step, tf.where(exists, index, -1))

    chosen = tf.TensorArray(tf.int32, size=k, element_shape=points.shape[:1])
    _, _, chosen = tf.while_loop(lambda step, *_: step < k, choose, (0, nearest, chosen), maximum_iterations=k)
    indices = tf.transpose(chosen.stack())
    indices.set_shape((points.shape[0], k))
    return indices


def _squared_distances(points, center):
    return tf.reduce_sum(tf.square(points - center[:, None, :]), axis=-1)
