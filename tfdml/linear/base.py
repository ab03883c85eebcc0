"""What all linear metrics share: the transformation, distances of pairs and the interface of scikit-learn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from tfdml._utils.types import ArrayLike


class MahalanobisEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Base class of metrics $\rho(x, y) = \sqrt{(x - y)^\top M (x - y)}$ with $M = W^\top W$.

    A subclass sets `components_`, the matrix $W$, when it is fitted. Everything else follows from it: `transform` maps
    $x$ to $W x$, so Euclidean distances after `transform` are the learned distances, and `KNeighborsClassifier` or any
    other estimator can follow in a pipeline.

    Attributes:
        components_: float64 array `(n_components, features)`, the matrix $W$.
        metric_matrix_: float64 array `(features, features)`, the matrix $M$.
        n_features_in_: int. Number of features.

    Example:
        >>> from tfdml.linear import MahalanobisEstimator
        >>> class FirstFeature(MahalanobisEstimator):
        ...     def fit(self, X, y=None):
        ...         self.components_, self.n_features_in_ = np.eye(1, X.shape[1]), X.shape[1]
        ...         return self
        >>> X = np.array([[1.0, 5.0], [3.0, 0.0]])
        >>> FirstFeature().fit(X).score_pairs([X]).tolist()
        [2.0]
    """

    components_: np.ndarray

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def metric_matrix_(self) -> np.ndarray:
        r"""The matrix $M = W^\top W$, `(features, features)`."""
        check_is_fitted(self)
        return self.components_.T @ self.components_

    @property
    def _n_features_out(self):
        return len(self.components_)

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Map samples to the space in which Euclidean distances are the learned distances.

        Args:
            X: Array `(n, features)`.

        Returns:
            Array `(n, n_components)`, float32 if `X` is float32 and float64 otherwise.

        Raises:
            ValueError: If the shape is different or values are not finite.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return (X @ self.components_.T).astype(X.dtype, copy=False)

    def score_pairs(self, pairs: ArrayLike) -> np.ndarray:
        """Compute the learned distance of each pair. Similar pairs have small distances.

        Args:
            pairs: Array `(m, 2, features)`.

        Returns:
            float64 array `(m,)`, unsquared distances.

        Raises:
            ValueError: If the shape is different or values are not finite.
        """
        check_is_fitted(self)
        pairs = np.asarray(pairs, np.float64)
        if pairs.ndim != 3 or pairs.shape[1:] != (2, self.n_features_in_):
            raise ValueError(
                f"Pairs have the wrong shape. Received: {pairs.shape}. Expected: (m, 2, {self.n_features_in_})."
            )
        if not np.isfinite(pairs).all():
            raise ValueError("Pairs are not finite. Received: NaN or infinity. Expected: finite values.")
        return np.linalg.norm((pairs[:, 0] - pairs[:, 1]) @ self.components_.T, axis=1)

    def get_metric(self) -> Callable[..., float]:
        """Return the learned distance as a function of two vectors, independent of later fits.

        Returns:
            Function `(u, v, squared=False)` of two vectors that returns a float. It can be pickled and is accepted by
            `sklearn.neighbors` as `metric`; `transform` followed by Euclidean distances is much faster.
        """
        check_is_fitted(self)
        return functools.partial(_distance, self.components_.copy())


def _distance(components: np.ndarray, u: Any, v: Any, squared: bool = False) -> float:
    difference = components @ (np.asarray(u, np.float64) - np.asarray(v, np.float64))
    value = float(difference @ difference)
    return value if squared else value**0.5
