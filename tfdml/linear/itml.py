"""Information-theoretic metric learning (ITML)."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.utils import check_random_state

from tfdml._utils.arguments import check_positive, check_whole_number
from tfdml._utils.types import ArrayLike, Labels
from tfdml.linear.base import MahalanobisEstimator
from tfdml.linear.inputs import component_count, given_pairs, labeled_samples, regularized
from tfdml.linear.optimization import minimize, warn_if_stopped
from tfdml.linear.pairs import draw_pairs

# Pairs of samples whose distances determine the default bounds.
_SAMPLED = 20_000


class ITML(MahalanobisEstimator):
    r"""Find the metric nearest to a prior whose distances of similar and dissimilar pairs meet bounds.

    With upper bound $u$ for similar and lower bound $l$ for dissimilar pairs, both on squared distances, and slack:

    $$\min_{M \succ 0} D(M, M_0) + \gamma \sum_{(x, x') \in S} \phi\Big(\max\big(1, \tfrac{\rho_M^2(x, x')}{u}\big)\Big)
    + \gamma \sum_{(x, x') \in D} \phi\Big(\min\big(1, \tfrac{\rho_M^2(x, x')}{l}\big)\Big)$$

    with $D(M, M_0) = \mathrm{tr}(M M_0^{-1}) - \log\det(M M_0^{-1}) - d$, the LogDet divergence, and
    $\phi(t) = t - \log t - 1$, the same divergence of the slack variables, which are at their optimum here. The program
    is convex and smooth, so L-BFGS minimizes it over $M = W^\top W$; the logarithm of the determinant keeps $W$
    regular, and every stationary point is the minimum. The paper's Bregman projections, one pair at a time,
    approach the same solution.

    Args:
        gamma: float. Weight of the bounds relative to the prior. Default 1.
        prior: `"identity"`, `"covariance"` (the inverse covariance of the samples, the classical Mahalanobis distance),
            or a positive definite array `(features, features)`. Default `"identity"`.
        bounds: tuple (u, l) of squared distances, or `None`: the 5th and the 95th percentile of the squared distances
            under the prior. Default `None`.
        n_components: int or `None`. Keep only the largest eigenvalues of $M$. LogDet divergence is infinite for
            matrices of lower rank, so this is done after the search. Default `None`, all features.
        n_pairs: int or `None`. Number of similar and of dissimilar pairs that `fit` draws. Default `None`: 20 times the
            squared number of classes.
        max_iter: int. Largest number of iterations. Default 1000.
        tol: float. Relative decrease in an iteration that ends the search. Default 1e-9.
        random_state: int, `RandomState` or `None`. Seed of the pairs drawn. Default `None`.

    Attributes:
        components_: float64 array `(n_components, features)`, the matrix $W$.
        bounds_: float64 array `(2,)`. The bounds (u, l).
        objective_: float. The minimum above, before `n_components` is applied.
        n_iter_: int. Number of iterations.

    Raises:
        ValueError: In `fit`, if an argument is out of range, there are no similar or no dissimilar pairs, or the prior
            is not positive definite.

    Example:
        >>> from tfdml.linear import ITML
        >>> X, y = np.array([[0.0, 0.0], [0.1, 3.0], [2.0, 0.0], [2.1, 3.0]]), [0, 0, 1, 1]
        >>> itml = ITML(n_pairs=2, random_state=0).fit(X, y)
        >>> bool(itml.score_pairs([X[:2]])[0] < itml.score_pairs([X[[0, 2]]])[0])
        True

    Reference:
        J. V. Davis, B. Kulis, P. Jain, S. Sra, I. S. Dhillon. Information-Theoretic Metric Learning. ICML 2007.
    """

    def __init__(
        self,
        gamma: float = 1.0,
        prior: str | ArrayLike = "identity",
        bounds: tuple[float, float] | None = None,
        n_components: int | None = None,
        n_pairs: int | None = None,
        max_iter: int = 1000,
        tol: float = 1e-9,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.gamma = gamma
        self.prior = prior
        self.bounds = bounds
        self.n_components = n_components
        self.n_pairs = n_pairs
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Labels) -> ITML:
        """Learn from labeled samples, of which `n_pairs` similar and dissimilar pairs are drawn.

        Args:
            X: Array `(n, features)`.
            y: Array `(n,)`. Class labels, integers or strings.

        Returns:
            self.
        """
        X, numbers = labeled_samples(self, X, y)
        generator = check_random_state(self.random_state)
        if self.n_pairs is None:
            # Small samples have fewer pairs than the default; only a number that was asked for causes a warning.
            counts = np.bincount(numbers)
            fewest = min(np.sum(counts * (counts - 1)), len(X) ** 2 - np.sum(counts**2)) // 2
            n_pairs = min(20 * len(counts) ** 2, int(fewest))
        else:
            n_pairs = self.n_pairs
        pairs, same = draw_pairs(numbers, n_pairs, generator)
        return self._fit(X, pairs, same, generator)

    def fit_pairs(self, X: ArrayLike, pairs: ArrayLike, same: ArrayLike) -> ITML:
        """Learn from given pairs.

        Args:
            X: Array `(n, features)`.
            pairs: int array `(m, 2)`. Rows of `X`.
            same: bool array `(m,)`. `True` for similar pairs.

        Returns:
            self.
        """
        X, pairs, same = given_pairs(self, X, pairs, same)
        return self._fit(X, pairs, same, check_random_state(self.random_state))

    def _fit(self, X, pairs, same, generator):
        gamma, tol = check_positive("gamma", self.gamma), check_positive("tol", self.tol)
        max_iter = check_whole_number("max_iter", self.max_iter, minimum=1)
        count = component_count(self.n_components, X.shape[1])
        root = _prior_root(self.prior, X)
        # In coordinates in which the prior is the identity.
        X = X @ root.T
        self.bounds_ = _bounds(self.bounds, X, generator)
        similar, dissimilar = (X[chosen[:, 0]] - X[chosen[:, 1]] for chosen in (pairs[same], pairs[~same]))
        differ = np.einsum("ij,ij->i", dissimilar, dissimilar) > 0
        if not differ.all():
            warnings.warn(
                f"{np.sum(~differ)} of {len(differ)} dissimilar pairs are equal: no metric can separate them, and they "
                "are skipped.",
                stacklevel=3,
            )
            dissimilar = dissimilar[differ]

        def function(V):
            return _objective(V, similar, dissimilar, self.bounds_, gamma)

        V, self.objective_, self.n_iter_ = minimize(function, np.eye(X.shape[1]), max_iter, tol)
        warn_if_stopped(self, self.n_iter_)
        W = V @ root
        if count < len(W):
            # The largest eigenvalues of M are the largest squared singular values of W.
            _, values, rows = np.linalg.svd(W, full_matrices=False)
            W = values[:count, None] * rows[:count]
        self.components_ = W
        return self


def _objective(V, similar, dissimilar, bounds, gamma):
    """The objective for the prior I, and its gradient by V. Infinite for a singular V."""
    sign, log_determinant = np.linalg.slogdet(V)
    if sign == 0:
        return np.inf, np.zeros_like(V)
    value = np.sum(V**2) - 2 * log_determinant - len(V)
    gradient = 2 * V - 2 * np.linalg.inv(V).T
    for differences, bound, active in ((similar, bounds[0], np.maximum), (dissimilar, bounds[1], np.minimum)):
        moved = differences @ V.T
        ratios = active(1.0, np.einsum("ij,ij->i", moved, moved) / bound)
        with np.errstate(divide="ignore"):
            value += gamma * np.sum(ratios - np.log(ratios) - 1)
            slopes = 2 * gamma / bound * (1 - 1 / ratios)
        gradient += (slopes[:, None] * moved).T @ differences
    return value, gradient


def _bounds(bounds, X, generator):
    """Bounds of squared distances: those given, or percentiles among the samples."""
    if bounds is not None:
        bounds = np.array(bounds, np.float64)
        if bounds.shape != (2,) or not np.isfinite(bounds).all() or not 0 < bounds[0] <= bounds[1]:
            raise ValueError(f"Invalid bounds. Received: {bounds.tolist()}. Expected: (u, l) with 0 < u <= l.")
        return bounds
    n = len(X)
    if n * (n - 1) // 2 <= _SAMPLED:
        first, second = np.triu_indices(n, 1)
    else:
        first = generator.randint(0, n, _SAMPLED)
        second = (first + generator.randint(1, n, _SAMPLED)) % n
    squared = np.sum((X[first] - X[second]) ** 2, axis=1)
    squared = squared[squared > 0]
    if not len(squared):
        raise ValueError("All samples are equal. Received: distances of 0. Expected: samples that differ.")
    return np.percentile(squared, (5, 95))


def _prior_root(prior, X):
    """Matrix R with R'R the prior."""
    if isinstance(prior, str):
        if prior == "identity":
            return np.eye(X.shape[1])
        if prior != "covariance":
            raise ValueError(
                f"Unknown prior. Received: prior={prior!r}. Expected: 'identity', 'covariance' or an array."
            )
        covariance = np.atleast_2d(np.cov(X, rowvar=False))
        if not np.trace(covariance):
            raise ValueError("All samples are equal. Received: a covariance of 0. Expected: samples that differ.")
        values, vectors = np.linalg.eigh(regularized(covariance, "covariance of the samples"))
        return (vectors / np.sqrt(values)).T
    matrix = np.array(prior, np.float64)
    shape = (X.shape[1],) * 2
    if matrix.shape != shape or not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise ValueError(
            f"Invalid prior. Received: an array of shape {matrix.shape}. Expected: a finite symmetric matrix {shape}."
        )
    values, vectors = np.linalg.eigh(matrix)
    if values[0] <= 0:
        raise ValueError(
            f"The prior is not positive definite. Received: an eigenvalue of {values[0]:.3g}. Expected: > 0."
        )
    return (vectors * np.sqrt(values)).T
