"""Map of a gallery: its vectors in three dimensions, for the page of the server."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg

from tfdml.gallery import Gallery

LARGEST_COUNT = 20_000
_BLOCK_ROWS = 1024
_AXES = 3


def principal_map(gallery: Gallery, count: int) -> dict[str, Any]:
    """Return a sample of the vectors of a gallery in their first three principal components.

    Vectors are read in blocks, so memory is that of a few blocks and of a matrix of covariances.

    Args:
        gallery: `Gallery` with at least one item.
        count: int. Largest number of items of the sample, which is the same in each call.

    Returns:
        dict: `items`, the rows of the sample in the order of the items; `points`, a list of `[x, y, z]` from -1 to 1;
        `explained`, the shares of the variance of the sample along the axes; `total`, the number of items.
    """
    ids = gallery.ids
    rows = np.arange(len(ids))
    if len(ids) > count:
        rows = np.sort(np.random.default_rng(0).choice(len(ids), count, replace=False))

    def blocks():
        for start in range(0, len(rows), _BLOCK_ROWS):
            yield start, gallery.vectors([ids[row] for row in rows[start : start + _BLOCK_ROWS]]).astype(np.float64)

    # Scaled, so that no square overflows.
    extent = max(np.abs(block).max() for _, block in blocks()) or 1.0
    center = sum((block / extent).sum(axis=0) for _, block in blocks()) / len(rows)
    covariance = np.zeros((len(center), len(center)))
    for _, block in blocks():
        centered = block / extent - center
        covariance += centered.T @ centered / len(rows)
    kept = min(_AXES, len(center))
    variances, axes = linalg.eigh(covariance, subset_by_index=[len(center) - kept, len(center) - 1])
    variances, axes = np.maximum(variances[::-1], 0), axes[:, ::-1]
    # The sign of a component is arbitrary: its largest coefficient is positive.
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(kept)])
    points = np.zeros((len(rows), _AXES))
    for start, block in blocks():
        points[start : start + len(block), :kept] = (block / extent - center) @ axes
    points /= np.abs(points).max() or 1.0
    total = np.trace(covariance)
    explained = [round(float(variance / total), 4) if total > 0 else 0.0 for variance in variances]
    return {
        "items": rows.tolist(),
        "points": np.round(points, 4).tolist(),
        "explained": explained + [0.0] * (_AXES - kept),
        "total": len(ids),
    }
