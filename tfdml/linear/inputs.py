"""Validation of samples, labels, pairs and sizes."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from tfdml._utils.arguments import check_whole_number

_SHOWN = 5
# Eigenvalues below this share of the largest one count as zero.
RANK_TOLERANCE = 1e-10


def labeled_samples(estimator, X, y):
    """Validate samples and labels, and number the classes from 0.

    Args:
        estimator: Its `n_features_in_` is set.
        X: Array `(n, features)`.
        y: Array `(n,)` of integers or strings.

    Returns:
        The pair (X, numbers): float64 `(n, features)` and int64 `(n,)`.

    Raises:
        ValueError: If values are not finite, labels are continuous, or no pair of samples has the same class, or no
            pair has different classes.
    """
    X, y = validate_data(estimator, X, y, dtype=np.float64, ensure_min_samples=2)
    check_classification_targets(y)
    classes, numbers = np.unique(y, return_inverse=True)
    counts = np.bincount(numbers)
    if len(classes) < 2:
        raise ValueError(
            f"There are no dissimilar pairs. Received: one class, {classes.tolist()[0]!r}. Expected: at least two "
            "classes."
        )
    if counts.max() < 2:
        raise ValueError(
            f"There are no similar pairs. Received: {len(classes)} classes with one sample each. Expected: a class "
            "with at least two samples."
        )
    single = classes[counts == 1]
    if len(single):
        shown = ", ".join(map(str, single[:_SHOWN])) + ", …" * (len(single) > _SHOWN)
        warnings.warn(
            f"{len(single)} of {len(classes)} classes have one sample, which has no similar sample and is used as a "
            f"dissimilar one only: {shown}.",
            stacklevel=3,
        )
    return X, numbers.astype(np.int64)


def given_pairs(estimator, X, pairs, same):
    """Validate samples and pairs of their indices.

    Args:
        estimator: Its `n_features_in_` is set.
        X: Array `(n, features)`.
        pairs: int array `(m, 2)` of rows of `X`.
        same: bool array `(m,)`.

    Returns:
        The triple (X, pairs, same): float64, int64 and bool arrays.

    Raises:
        ValueError: If values are not finite, shapes do not match, indices are out of range, there are no similar or no
            dissimilar pairs, a sample is paired with itself, or a pair is both similar and dissimilar.
    """
    X = validate_data(estimator, X, dtype=np.float64, ensure_min_samples=2)
    pairs, same = np.asarray(pairs), np.asarray(same)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu" or not len(pairs):
        raise ValueError(
            f"Invalid pairs. Received: pairs of shape {pairs.shape} and type {pairs.dtype}. Expected: integers (m, 2), "
            "rows of X."
        )
    if pairs.min() < 0 or pairs.max() >= len(X):
        raise ValueError(
            f"Pairs are out of range. Received: indices from {pairs.min()} to {pairs.max()}. Expected: 0 <= index < "
            f"{len(X)}, rows of X."
        )
    if same.shape != (len(pairs),) or not np.isin(same, (0, 1)).all():
        raise ValueError(
            f"Invalid same. Received: same of shape {same.shape} with values {np.unique(same)[:_SHOWN].tolist()}. "
            f"Expected: booleans ({len(pairs)},), True for similar pairs."
        )
    pairs, same = pairs.astype(np.int64), same.astype(bool)
    for present, kind, value in ((same.any(), "similar", True), ((~same).any(), "dissimilar", False)):
        if not present:
            raise ValueError(
                f"There are no {kind} pairs. Received: same is {not value} for all {len(pairs)} pairs. Expected: at "
                f"least one pair with same={value}."
            )
    own = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    if len(own):
        raise ValueError(
            f"A sample is paired with itself. Received: pairs[{own[0]}]={pairs[own[0]].tolist()}. Expected: two "
            "different rows."
        )
    keys = np.sort(pairs, axis=1) @ np.array([len(X), 1])
    both = np.flatnonzero(np.isin(keys, np.intersect1d(keys[same], keys[~same])))
    if len(both):
        raise ValueError(
            f"Pairs contradict each other. Received: {pairs[both[0]].tolist()} as similar and as dissimilar. Expected: "
            "one of them."
        )
    return X, pairs, same


def component_count(n_components, features):
    """Return the number of rows of the transformation, or raise a ValueError. `None` is all features."""
    if n_components is None:
        return features
    count = check_whole_number("n_components", n_components, minimum=1)
    if count > features:
        raise ValueError(
            f"There are too many components. Received: n_components={count}. Expected: at most {features}, the number "
            "of features."
        )
    return count


def regularized(matrix, name, needed=None):
    """Add a small multiple of the identity to a scatter matrix that is singular where this matters, and warn.

    Args:
        matrix: Symmetric positive semidefinite array `(d, d)`, not zero.
        name: str. What the matrix is, for the warning.
        needed: Array `(k, d)` of orthonormal directions in which the matrix must be regular. Default: all.

    Returns:
        Array `(d, d)`.
    """
    basis = np.eye(len(matrix)) if needed is None else needed
    values = np.linalg.eigvalsh(basis @ matrix @ basis.T)
    if values[0] > RANK_TOLERANCE * values[-1]:
        return matrix
    rank = int(np.sum(values > RANK_TOLERANCE * values[-1]))
    share = 1e-3
    warnings.warn(
        f"The {name} is singular: rank {rank} in {len(values)} dimensions. {share:g} of its mean variance is added to "
        "all of them. More pairs, or fewer features (PCA), avoid this.",
        stacklevel=4,
    )
    return matrix + share * np.trace(matrix) / len(values) * np.eye(len(matrix))
