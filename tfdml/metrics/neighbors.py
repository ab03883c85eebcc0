"""Nearest neighbours in the embedding space."""

from __future__ import annotations

import numbers

import numpy as np

from tfdml._utils.types import ArrayLike
from tfdml.metrics.inputs import as_embeddings, same_space
from tfdml.metrics.search import BLOCK_BYTES, NeighborSearch, squared_distances


def nearest_neighbors(
    embeddings: ArrayLike, k: int, reference_embeddings: ArrayLike | None = None, block_bytes: int = BLOCK_BYTES
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the exact nearest neighbours under the L2 distance.

    Of equally near references the one of lower index is first. Distances are taken by differences in float64.

    Args:
        embeddings: Queries, `(n, d)`, NumPy or a tensor.
        k: How many neighbours each query gets.
        reference_embeddings: `(m, d)`; `None` searches among the queries themselves, each without itself (by
            its index, so an equal embedding is a neighbour).
        block_bytes: About how much memory the search takes beside its arguments and results.

    Returns:
        (indices, distances): int64 `(n, k)`, nearest first, and their unsquared distances, `(n, k)` in the
        embeddings' type (float32 for half precisions).

    Raises:
        ValueError: If shapes do not fit, values are not finite, or there are fewer than `k` neighbours.
        TypeError: If the embeddings are no numbers, or `k` or `block_bytes` is no integer.

    Example:
        >>> indices, distances = nearest_neighbors([[0.0], [1.0], [3.0]], k=2)
        >>> indices.tolist()
        [[1, 2], [0, 2], [1, 0]]
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
            f"Received: k={k}; expected at most {available}, the number of neighbours there are."
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
    """Gives a positive integer as `int`."""
    if not isinstance(number, numbers.Integral) or isinstance(number, bool):
        raise TypeError(
            f"Received: {name}={number!r} of type {type(number).__name__}; expected a positive integer."
        )
    if number < 1:
        raise ValueError(f"Received: {name}={number!r}; expected a positive integer.")
    return int(number)
