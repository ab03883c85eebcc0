"""Nearest neighbors in the embedding space."""

from __future__ import annotations

import numbers

import numpy as np

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
        (indices, distances): int64 array `(n, k)`, nearest first, and an array `(n, k)` of the unsquared distances in
        the type of the embeddings (float32 for half precision).

    Raises:
        ValueError: If shapes do not match, values are not finite, or there are fewer than `k` neighbors.
        TypeError: If the embeddings are not numbers, or `k` or `block_bytes` is not an integer.

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
    k, block_bytes = check_positive(k, "k"), check_positive(block_bytes, "block_bytes")
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


def check_positive(number, name):
    """Return a positive integer as `int`, or raise an error that names the argument."""
    if not isinstance(number, numbers.Integral) or isinstance(number, bool):
        raise TypeError(
            f"{name} has the wrong type. Received: {name}={number!r} of type {type(number).__name__}. "
            "Expected: a positive integer."
        )
    if number < 1:
        raise ValueError(f"{name} is out of range. Received: {name}={number!r}. Expected: a positive integer.")
    return int(number)
