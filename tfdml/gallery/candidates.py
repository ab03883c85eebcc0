"""Exact order of candidates from stored vectors."""

from __future__ import annotations

import numpy as np

from tfdml.metrics.search import squared_distances

_SLACK = 8
# The differences of a block stay in the cache of a core.
_BLOCK_VALUES = 2**17


def nearest_candidates(vectors, queries, candidates, k):
    """Return the nearest of the candidates of each query; of equal distances, the lower row comes first.

    The order is that of sums of squared differences in float64. If there are many candidates, those of `k + 8` smallest
    sums in float32 are compared.

    Args:
        vectors: `StoredVectors`.
        queries: float32 array `(n, d)`.
        candidates: int64 array `(n, c)`, c >= k. Rows of `vectors`, -1 for none.
        k: int. Number of neighbors.

    Returns:
        Rows, int64 `(n, k)`, -1 where there are fewer candidates; and squared distances, float64 `(n, k)`.
    """
    count, width = candidates.shape
    kept = min(width, k + _SLACK)
    rows, squared = np.empty((count, kept), np.int64), np.empty((count, kept))
    size = max(1, _BLOCK_VALUES // (width * queries.shape[1]))
    for start in range(0, count, size):
        part = slice(start, start + size)
        some, near = candidates[part], queries[part, None]
        stored = vectors.read(some)
        if width > kept:
            some, stored = _preselect(some, stored, near, kept)
        rows[part], squared[part] = some, squared_distances(near, stored)
    squared[rows < 0] = np.inf
    order = np.lexsort((rows, squared))[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)


def _preselect(rows, stored, queries, kept):
    with np.errstate(over="ignore", invalid="ignore"):
        differences = stored - queries
        scores = np.einsum("ijk,ijk->ij", differences, differences)
    if not np.isfinite(scores).all():
        scores = squared_distances(queries, stored)
    scores[rows < 0] = np.inf
    best = np.argpartition(scores, kept - 1, axis=1)[:, :kept]
    return np.take_along_axis(rows, best, 1), np.take_along_axis(stored, best[..., None], 1)
