"""Squared distances between samples of different classes, block by block."""

from __future__ import annotations

import numpy as np

BLOCK_BYTES = 2**25


def squared_distance_factors(Z):
    """Return (left, right) with `left[i] @ right[j]` equal to the squared distance of rows i and j up to rounding."""
    squares = np.einsum("ij,ij->i", Z, Z)[:, None]
    ones = np.ones_like(squares)
    return np.hstack([-2.0 * Z, squares, ones]), np.hstack([Z, ones, squares])


def other_class_blocks(numbers, block_bytes=BLOCK_BYTES):
    """Yield blocks that cover each unordered pair of samples of different classes once.

    Args:
        numbers: int array `(n,)`, sorted. Numbers of the classes.
        block_bytes: int. Memory of a block of float64 values.

    Yields:
        (rows, columns): slices. The rows belong to one class, the columns to all later ones.
    """
    ends = np.flatnonzero(np.diff(numbers, append=numbers[-1] + 1)) + 1
    start = 0
    for end in ends[:-1]:
        columns = slice(end, len(numbers))
        step = max(1, block_bytes // (8 * (len(numbers) - end)))
        for first in range(start, end, step):
            yield slice(first, min(first + step, end)), columns
        start = end
