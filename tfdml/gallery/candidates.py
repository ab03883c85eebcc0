"""Exact order of candidates from stored vectors."""

from __future__ import annotations

import concurrent.futures
import os

import numpy as np

_SLACK = 8
# The differences of a block stay in the cache of a core.
_BLOCK_VALUES = 2**16


def nearest_candidates(vectors, queries, candidates, k):
    """Return the nearest of the candidates of each query; of equal distances, the lower row comes first.

    The order is that of sums of squared differences in float64. If there are many candidates, those of the `k + 8`
    smallest sums in float32 are compared. Blocks of queries run in threads, because NumPy uses one core.

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

    def rank(start):
        part = slice(start, start + size)
        some, near = candidates[part], queries[part, None]
        if width > kept:
            some = _preselected(vectors, near, some, kept)
        rows[part], squared[part] = some, squared_distances(near, vectors.read(some))

    size = max(1, _BLOCK_VALUES // (width * queries.shape[1]))
    starts = range(0, count, size)
    if len(starts) > 1:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(rank, starts))
    elif count:
        rank(0)
    squared[rows < 0] = np.inf
    order = np.lexsort((rows, squared))[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)


def _preselected(vectors, queries, rows, kept):
    # A copy, because rows are an array.
    differences = vectors.read(rows)
    with np.errstate(over="ignore", invalid="ignore"):
        differences -= queries
        squared = np.einsum("ijk,ijk->ij", differences, differences)
    if not np.isfinite(squared).all():
        squared = squared_distances(queries, vectors.read(rows))
    squared[rows < 0] = np.inf
    return np.take_along_axis(rows, np.argpartition(squared, kept - 1, axis=1)[:, :kept], 1)


def squared_distances(queries, vectors):
    """As `metrics.search.squared_distances`, bit for bit, but without conversion in small buffers and copies."""
    differences = vectors.astype(np.float64)
    differences -= queries.astype(np.float64)
    np.square(differences, out=differences)
    return differences.sum(axis=-1)
