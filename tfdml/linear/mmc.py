"""Large distances of dissimilar pairs under a bound on those of similar ones (MMC)."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.utils import check_random_state

from tfdml._utils.arguments import check_choice, check_positive, check_whole_number
from tfdml._utils.types import ArrayLike, Labels
from tfdml.linear.base import MahalanobisEstimator
from tfdml.linear.inputs import RANK_TOLERANCE, component_count, given_pairs, labeled_samples, regularized
from tfdml.linear.optimization import minimize, warn_if_stopped
from tfdml.linear.pairs import ClassPairs, ListedPairs, draw_pairs


class MMC(MahalanobisEstimator):
    r"""Maximize distances of dissimilar pairs while similar pairs stay close.

    $$\max_{M \succeq 0} \sum_{(x, x') \in D} \rho_M(x, x') \quad \text{subject to} \quad
    \sum_{(x, x') \in S} \rho_M^2(x, x') \le 1$$

    The program is convex. It is solved over $M = W^\top W$ in coordinates in which the constraint is
    $\lVert W \rVert_F \le 1$; the objective is homogeneous, so the constraint is met by scaling, and L-BFGS needs no
    projection. $W$ has as many rows as features, so a local minimum is a global one.

    With squared distances in the objective (`distance="squared_l2"`) the program is linear in $M$. Its solution is one
    direction, the leading generalized eigenvector of the two scatter matrices, in closed form. Unsquared distances,
    the default, keep more directions, because they reward the many moderate distances over few large ones.

    If the scatter of similar pairs is singular where dissimilar pairs differ, as with fewer pairs than features, the
    objective is unbounded. The scatter is then regularized, with a warning.

    Args:
        distance: `"l2"` or `"squared_l2"`. The distance in the objective. Default `"l2"`.
        n_components: int or `None`. Number of rows of $W$. The search is restricted to this rank, and may then end in a
            local maximum. Default `None`, all features.
        n_pairs: int or `None`. Number of similar and of dissimilar pairs that `fit` draws. Default `None`: all pairs,
            which takes time quadratic in the number of samples per iteration and little memory.
        max_iter: int. Largest number of iterations. Default 500.
        tol: float. Relative decrease in an iteration that ends the search. Default 1e-7.
        random_state: int, `RandomState` or `None`. Seed of the pairs drawn. Default `None`.

    Attributes:
        components_: float64 array `(n_components, features)`, the matrix $W$.
        objective_: float. The sum of the distances of dissimilar pairs (squared, if `distance` says so).
        n_iter_: int. Number of iterations.

    Raises:
        ValueError: In `fit`, if an argument is out of range, there are no similar or no dissimilar pairs, or all
            dissimilar pairs are equal.

    Example:
        >>> from tfdml.linear import MMC
        >>> X, y = np.array([[0.0, 0.0], [0.1, 3.0], [2.0, 0.0], [2.2, 3.0]]), [0, 0, 1, 1]
        >>> mmc = MMC().fit(X, y)
        >>> bool(mmc.score_pairs([X[:2]])[0] < mmc.score_pairs([X[[0, 2]]])[0])
        True

    Reference:
        E. P. Xing, A. Y. Ng, M. I. Jordan, S. Russell. Distance Metric Learning, with Application to Clustering with
        Side-Information. NIPS 2002.
    """

    def __init__(
        self,
        distance: str = "l2",
        n_components: int | None = None,
        n_pairs: int | None = None,
        max_iter: int = 500,
        tol: float = 1e-7,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.distance = distance
        self.n_components = n_components
        self.n_pairs = n_pairs
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: Labels) -> MMC:
        """Learn from labeled samples: all pairs, or `n_pairs` drawn ones.

        Args:
            X: Array `(n, features)`.
            y: Array `(n,)`. Class labels, integers or strings.

        Returns:
            self.
        """
        X, numbers = labeled_samples(self, X, y)
        if self.n_pairs is None:
            return self._fit(ClassPairs(X, numbers))
        return self._fit(ListedPairs(X, *draw_pairs(numbers, self.n_pairs, check_random_state(self.random_state))))

    def fit_pairs(self, X: ArrayLike, pairs: ArrayLike, same: ArrayLike) -> MMC:
        """Learn from given pairs.

        Args:
            X: Array `(n, features)`.
            pairs: int array `(m, 2)`. Rows of `X`.
            same: bool array `(m,)`. `True` for similar pairs.

        Returns:
            self.
        """
        return self._fit(ListedPairs(*given_pairs(self, X, pairs, same)))

    def _fit(self, pairs):
        check_choice("distance", self.distance, ("l2", "squared_l2"))
        max_iter = check_whole_number("max_iter", self.max_iter, minimum=1)
        tol = check_positive("tol", self.tol)
        count = component_count(self.n_components, pairs.X.shape[1])
        similar, dissimilar = pairs.scatters()
        whitening = _whitening(similar, dissimilar)
        # Eigenvalues of the dissimilar scatter relative to the similar one: the solution for squared distances.
        values, vectors = np.linalg.eigh(whitening @ dissimilar @ whitening.T)
        if self.distance == "squared_l2":
            self.components_, self.objective_, self.n_iter_ = vectors[:, -1:].T @ whitening, float(values[-1]), 1
            return self
        start = vectors[:, : -count - 1 : -1].T / np.sqrt(min(count, len(values)))

        def negative_log_ratio(V):
            total, gradient = pairs.sum_of_distances(V @ whitening)
            square = np.sum(V**2)
            return 0.5 * np.log(square) - np.log(total), V / square - gradient @ whitening.T / total

        V, value, self.n_iter_ = minimize(negative_log_ratio, start, max_iter, tol)
        warn_if_stopped(self, self.n_iter_)
        self.components_ = V @ whitening / np.linalg.norm(V)
        if len(self.components_) < count:
            # Directions in which no pair differs.
            self.components_ = np.pad(self.components_, ((0, count - len(self.components_)), (0, 0)))
        self.objective_ = float(np.exp(-value))
        return self


def _whitening(similar, dissimilar):
    """Matrix `(k, d)` that makes the scatter of similar pairs the identity where pairs differ, in k directions."""
    values, vectors = np.linalg.eigh(similar + dissimilar)
    basis = vectors[:, values > RANK_TOLERANCE * values[-1]].T
    if np.trace(dissimilar) <= RANK_TOLERANCE * np.trace(similar):
        raise ValueError(
            "Dissimilar pairs are equal. Received: distances of 0 for all of them. Expected: pairs that differ."
        )
    if np.trace(similar) <= RANK_TOLERANCE * np.trace(dissimilar):
        warnings.warn(
            "All similar pairs are equal, so that every metric satisfies the constraint. The trace of M is bounded by "
            "1 instead.",
            stacklevel=4,
        )
        similar = np.eye(len(similar))
    similar = regularized(similar, "scatter of similar pairs", basis)
    values, vectors = np.linalg.eigh(basis @ similar @ basis.T)
    return (vectors / np.sqrt(values)).T @ basis
