"""Nearest neighbors in the embedding space."""

from __future__ import annotations

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import ArrayLike
from tfdml.metrics.inputs import as_embeddings, same_space
from tfdml.metrics.search import BLOCK_BYTES, NeighborSearch, squared_distances


def nearest_neighbors(
    embeddings: ArrayLike, k: int, reference_embeddings: ArrayLike | None = None, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """Find the exact nearest neighbors in L2 distance.

    Distances are computed from differences in float64. Of equally distant references, the one with the lower index
    comes first.

    Args:
        embeddings: Queries, `(n, d)`; NumPy array, tensor or nested lists.
        k: int. Number of neighbors per query.
        reference_embeddings: `(m, d)`, or `None` to search among the queries themselves. Each query is then excluded by
            its index, so an equal embedding of another image is a neighbor. Default: `None`.
        block_bytes: int. Approximate memory of the search in addition to its arguments and results, in bytes. Default:
            2**26.

    Returns:
        The pair (indices, distances). Indices are an int64 array `(n, k)`, nearest first. Distances are unsquared,
        `(n, k)`, in the type of the embeddings (float32 for half precision).

    Raises:
        ValueError: If shapes do not match, values are not finite, there are fewer than `k` neighbors, or `k` or
            `block_bytes` is not a positive integer.
        TypeError: If the embeddings are not numbers.

    Example:
        >>> from tfdml import metrics
        >>> indices, distances = metrics.nearest_neighbors([[0.0], [1.0], [3.0]], k=2)
        >>> indices.tolist(), distances.tolist()
        ([[1, 2], [0, 2], [1, 0]], [[1.0, 3.0], [1.0, 2.0], [2.0, 3.0]])
    """
    queries = as_embeddings(embeddings)
    alone = reference_embeddings is None
    references = queries if alone else as_embeddings(reference_embeddings, "reference_embeddings")
    if not alone:
        queries, references = same_space(queries, references)
    k, block_bytes = check_whole_number("k", k, 1), check_whole_number("block_bytes", block_bytes, 1)
    available = len(references) - alone
    if k > available:
        raise ValueError(
            f"There are too few references. Received: k={k}. Expected: at most {available}, the number of neighbors."
        )
    indices = np.empty((len(queries), k), np.int64)
    distances = np.empty((len(queries), k), queries.dtype)
    own = np.arange(len(queries)) if alone else None
    search = NeighborSearch(references, block_bytes)
    part = max(1, block_bytes // (32 * k * queries.shape[1]))
    for rows, neighbors in search.blocks(queries, np.full(len(queries), k), own):
        indices[rows] = neighbors
        for start in range(0, len(rows), part):
            some = slice(start, start + part)
            squared = squared_distances(queries[rows[some], None], references[neighbors[some]])
            distances[rows[some]] = np.sqrt(squared)
    return indices, distances
