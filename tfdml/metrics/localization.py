"""Localization: the position of the nearest reference as an estimate of the position of a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfdml._utils.arguments import check_positive
from tfdml._utils.types import ArrayLike
from tfdml.metrics.neighbors import nearest_neighbors


def localization_metrics(
    embeddings: ArrayLike,
    positions: ArrayLike,
    reference_embeddings: ArrayLike | None = None,
    reference_positions: ArrayLike | None = None,
    k: int = 1,
    thresholds: float | Sequence[float] = (),
) -> dict[str, float]:
    r"""Compute the errors of positions that are estimated from the nearest references.

    Use it to evaluate embeddings of images by where they were taken, or of any samples with continuous labels. With the
    $k$ nearest references $r_1, \dots, r_k$ of query $q$ in L2 distance of embeddings and the positions $x$, the error
    of the query is

    $$e_q = \Big\lVert x_q - \frac{1}{k} \sum_{i=1}^{k} x_{r_i} \Big\rVert_2.$$

    Args:
        embeddings: Queries, `(n, d)`; NumPy array, tensor or nested lists of any real type.
        positions: `(n,)` or `(n, p)`. Positions of the queries.
        reference_embeddings: `(m, d)`, or `None` to search among the other queries. Default: `None`.
        reference_positions: `(m,)` or `(m, p)`. Positions of the references. Default: `None`.
        k: int. Number of references whose positions are averaged. Default: 1.
        thresholds: float or sequence of float, > 0. Errors for which the share of queries within them is computed.
            Default: ().

    Returns:
        dict with the floats `"mean_error"`, `"median_error"`, `"p95_error"` (95 % of the errors are at most this) and
        `"within_<threshold>"` for each threshold, in the unit of the positions.

    Raises:
        ValueError: If shapes do not match, embeddings or positions are not finite, or an argument is out of range.

    Reference:
        Spera et al., "EgoCart: a benchmark dataset for large-scale indoor image-based localization in retail stores",
        IEEE TCSVT 31, 2021 (1-NN localization).

    Example:
        >>> from tfdml import metrics
        >>> gallery, places = [[0.0], [1.0]], [2.0, 8.0]
        >>> found = metrics.localization_metrics([[0.1], [0.9]], [2.0, 9.0], gallery, places, thresholds=(0.5,))
        >>> found["mean_error"], found["within_0.5"]
        (0.5, 0.5)
    """
    thresholds = [check_positive("thresholds", threshold) for threshold in np.ravel(thresholds).tolist()]
    if (reference_embeddings is None) != (reference_positions is None):
        given = "reference_positions" if reference_embeddings is None else "reference_embeddings"
        raise ValueError(
            f"References are incomplete. Received: {given} alone. Expected: both reference_embeddings and "
            "reference_positions, or neither."
        )
    indices, _ = nearest_neighbors(embeddings, k, reference_embeddings)
    places = as_positions(positions, len(indices), "positions")
    references = places
    if reference_positions is not None:
        references = as_positions(reference_positions, len(np.asarray(reference_embeddings)), "reference_positions")
    if places.shape[1] != references.shape[1]:
        raise ValueError(
            f"Positions differ in size. Received: positions of shape {places.shape} and reference_positions of shape "
            f"{references.shape}. Expected: the same second axis."
        )
    errors = np.linalg.norm(places - references[indices].mean(axis=1), axis=1)
    result = {
        "mean_error": float(errors.mean()),
        "median_error": float(np.median(errors)),
        "p95_error": float(np.quantile(errors, 0.95)),
    }
    return {**result, **{f"within_{threshold:g}": float((errors <= threshold).mean()) for threshold in thresholds}}


def as_positions(positions, count, name):
    """Convert positions to a float64 matrix.

    Args:
        positions: `(count,)` or `(count, p)`.
        count: int. The expected number of positions.
        name: str. Name of the argument in error messages.

    Raises:
        ValueError: If the shape is different or a position is not finite.
    """
    array = np.asarray(positions, np.float64)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or len(array) != count:
        raise ValueError(
            f"Positions must be one for each sample. Received: {name} of shape {np.shape(positions)}. Expected: "
            f"({count},) or ({count}, p)."
        )
    wrong = ~np.isfinite(array).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"Positions are not finite. Received: {name} with NaN or infinity in {np.count_nonzero(wrong)} of {count} "
            f"rows, first in row {int(np.argmax(wrong))}. Expected: numbers; leave samples of unknown position out."
        )
    return array
