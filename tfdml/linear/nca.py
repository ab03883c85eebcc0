"""Neighborhood components analysis, blockwise."""

from __future__ import annotations

import numpy as np

from tfdml._utils.arguments import check_positive, check_whole_number
from tfdml._utils.types import ArrayLike, Labels
from tfdml.linear.base import MahalanobisEstimator
from tfdml.linear.blocks import BLOCK_BYTES, squared_distance_factors
from tfdml.linear.inputs import component_count, labeled_samples
from tfdml.linear.optimization import minimize, start_matrix, warn_if_stopped


class NCA(MahalanobisEstimator):
    r"""Maximize the expected leave-one-out accuracy of a stochastic nearest neighbor.

    $$\max_W \sum_i \sum_{j: y_j = y_i, j \ne i} p_{ij}, \qquad
    p_{ij} = \frac{\exp(-\lVert W (x_i - x_j) \rVert^2)}{\sum_{k \ne i} \exp(-\lVert W (x_i - x_k) \rVert^2)}$$

    The objective is not concave, so the result depends on `init`. Its scale is part of what is learned: on data with
    large distances each sample has one neighbor of weight 1 and the gradient vanishes, so standardize features first.
    Distances are computed in blocks of rows: memory is linear in the number of samples, time per iteration quadratic.

    Args:
        n_components: int or `None`. Number of rows of $W$. Default `None`, all features.
        init: `"identity"`, `"pca"`, `"lda"`, an array `(n_components, features)`, or `"auto"`: the identity with all
            components, principal components otherwise. Default `"auto"`.
        max_iter: int. Largest number of iterations. Default 500.
        tol: float. Relative decrease in an iteration that ends the search. Default 1e-7.
        block_bytes: int. Approximate size of a block of distances, in bytes. A few of them are in memory at a time.
            Default: 2**25.

    Attributes:
        components_: float64 array `(n_components, features)`, the matrix $W$.
        objective_: float. The sum above, the expected number of correct samples.
        n_iter_: int. Number of iterations.

    Raises:
        ValueError: In `fit`, if an argument is out of range, or there are no similar or no dissimilar pairs.

    Example:
        >>> from tfdml.linear import NCA
        >>> X, y = np.array([[0.0, 0.0], [0.1, 3.0], [2.0, 0.0], [2.1, 3.0]]), [0, 0, 1, 1]
        >>> round(NCA().fit(X, y).objective_, 2)
        4.0

    Reference:
        J. Goldberger, S. Roweis, G. Hinton, R. Salakhutdinov. Neighbourhood Components Analysis. NIPS 2004.
    """

    def __init__(
        self,
        n_components: int | None = None,
        init: str | ArrayLike = "auto",
        max_iter: int = 500,
        tol: float = 1e-7,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.n_components = n_components
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.block_bytes = block_bytes

    def fit(self, X: ArrayLike, y: Labels) -> NCA:
        """Learn from labeled samples.

        Args:
            X: Array `(n, features)`.
            y: Array `(n,)`. Class labels, integers or strings.

        Returns:
            self.
        """
        X, numbers = labeled_samples(self, X, y)
        max_iter = check_whole_number("max_iter", self.max_iter, minimum=1)
        tol = check_positive("tol", self.tol)
        block_bytes = check_whole_number("block_bytes", self.block_bytes, minimum=1)
        start = start_matrix(self.init, X, numbers, component_count(self.n_components, X.shape[1]))
        X = X - X.mean(axis=0)

        def negative(W):
            value, gradient = expected_correct(W, X, numbers, block_bytes)
            return -value, -gradient

        self.components_, value, self.n_iter_ = minimize(negative, start, max_iter, tol)
        self.objective_ = -value
        warn_if_stopped(self, self.n_iter_)
        return self


def expected_correct(W, X, numbers, block_bytes=BLOCK_BYTES):
    """The objective of NCA, and its gradient.

    Args:
        W: float64 array `(r, d)`.
        X: float64 array `(n, d)`, centered.
        numbers: int array `(n,)`. Numbers of the classes.
        block_bytes: int. Memory of a block of distances.

    Returns:
        The pair (value, gradient `(r, d)`).
    """
    Z = X @ W.T
    left, right = squared_distance_factors(Z)
    step = max(1, block_bytes // (8 * len(X)))
    value, gradient = 0.0, np.zeros_like(Z)
    for start in range(0, len(X), step):
        rows = slice(start, min(start + step, len(X)))
        weights = left[rows] @ right.T
        own = np.arange(start, rows.stop)
        weights[own - start, own] = np.inf
        # The nearest neighbor gets the logit 0, so that no row underflows as a whole.
        weights -= weights.min(axis=1, keepdims=True)
        np.exp(np.negative(weights, out=weights), out=weights)
        weights /= weights.sum(axis=1, keepdims=True)
        same = numbers[rows, None] == numbers
        correct = np.einsum("ij,ij->i", weights, same)
        value += float(correct.sum())
        # p_ij (p_i - [y_j = y_i]): the derivative by the squared distance of i and j. Its rows sum to 0.
        weights *= correct[:, None] - same
        gradient[rows] -= 2 * (weights @ Z)
        gradient += 2 * (weights.sum(axis=0)[:, None] * Z - weights.T @ Z[rows])
    return value, gradient.T @ X
