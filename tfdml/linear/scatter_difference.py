"""The weighted difference of squared distances of similar and dissimilar pairs, in closed form."""

from __future__ import annotations

import numpy as np

from tfdml._utils.arguments import check_between, check_choice
from tfdml._utils.types import ArrayLike, Labels
from tfdml.linear.base import MahalanobisEstimator
from tfdml.linear.inputs import component_count, given_pairs, labeled_samples
from tfdml.linear.pairs import ClassPairs, ListedPairs


class ScatterDifference(MahalanobisEstimator):
    r"""Minimize a weighted difference of squared distances, in closed form.

    $$\Psi(M) = \lambda \sum_{(x, x') \in S} \rho_M^2(x, x') - (1 - \lambda) \sum_{(x, x') \in D} \rho_M^2(x, x')
    = \langle M, C \rangle, \qquad C = \lambda C_S - (1 - \lambda) C_D$$

    where $C_S$ and $C_D$ are the sums of the outer products of the differences. $\Psi$ is linear in $M$, so without a
    bound on $M$ it has no minimum, apart from $M = 0$ if $C$ is positive semidefinite: it decreases forever along every
    direction in which dissimilar pairs differ enough. `bound` limits $M$:

    - `"frobenius"`: adds $\frac{1}{2} \lVert M \rVert_F^2$. The solution is $M = [-C]_+$, the negative eigenvalues of
      $C$ with the opposite sign. With `n_components`, the largest of them, which is the solution among matrices of this
      rank.
    - `"orthonormal"`: $W W^\top = I$. The rows of $W$ are the eigenvectors of the `n_components` smallest
      eigenvalues of $C$; the maximum margin criterion of Li et al. With all components, $W$ is a rotation, which
      changes no distance, so `None` keeps the negative eigenvalues only.

    The result does not depend on an optimizer, and takes one pass over the samples.

    Args:
        lam: float in 0–1. Weight $\lambda$ of similar pairs. Default 0.5.
        average: bool. Average over similar and over dissimilar pairs instead of summing, so that `lam` does not depend
            on how many more dissimilar pairs there are. `False` is the formula. Default `True`.
        bound: `"frobenius"` or `"orthonormal"`. Default `"frobenius"`.
        n_components: int or `None`. Largest number of rows of $W$. Default `None`, the number of negative eigenvalues.

    Attributes:
        components_: float64 array `(n_components, features)`, the matrix $W$.
        objective_: float. $\Psi$ of the result, without the term of `bound`.

    Raises:
        ValueError: In `fit`, if an argument is out of range, there are no similar or no dissimilar pairs, or no
            direction has a negative eigenvalue, so that the solution is $M = 0$. The message gives the largest `lam`.

    Example:
        >>> from tfdml.linear import ScatterDifference
        >>> X, y = np.array([[0.0, 0.0], [0.0, 3.0], [2.0, 0.0], [2.0, 3.0]]), [0, 0, 1, 1]
        >>> ScatterDifference(lam=0.9).fit(X, y).metric_matrix_.round(2).tolist()
        [[0.4, 0.0], [0.0, 0.0]]

    Reference:
        H. Li, T. Jiang, K. Zhang. Efficient and Robust Feature Extraction by Maximum Margin Criterion. NIPS 2003.
    """

    def __init__(
        self, lam: float = 0.5, average: bool = True, bound: str = "frobenius", n_components: int | None = None
    ) -> None:
        self.lam = lam
        self.average = average
        self.bound = bound
        self.n_components = n_components

    def fit(self, X: ArrayLike, y: Labels) -> ScatterDifference:
        """Learn from all pairs of labeled samples.

        Args:
            X: Array `(n, features)`.
            y: Array `(n,)`. Class labels, integers or strings.

        Returns:
            self.
        """
        return self._fit(ClassPairs(*labeled_samples(self, X, y)))

    def fit_pairs(self, X: ArrayLike, pairs: ArrayLike, same: ArrayLike) -> ScatterDifference:
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
        lam = check_between("lam", self.lam, 0.0, 1.0)
        check_choice("bound", self.bound, ("frobenius", "orthonormal"))
        count = component_count(self.n_components, pairs.X.shape[1])
        similar, dissimilar = pairs.scatters()
        if self.average:
            similar, dissimilar = similar / pairs.similar_count, dissimilar / pairs.dissimilar_count
        values, vectors = np.linalg.eigh(lam * similar - (1 - lam) * dissimilar)
        negative = values < -_rounding(similar, dissimilar)
        if not negative.any():
            raise ValueError(
                f"The solution is M = 0: similar pairs outweigh dissimilar ones in every direction. Received: "
                f"lam={self.lam}. Expected: a smaller value{_largest_weight(similar, dissimilar)}."
            )
        kept = np.flatnonzero(negative)[:count]
        if self.bound == "orthonormal" and self.n_components is not None:
            kept = np.arange(count)
        scales = np.sqrt(-values[kept]) if self.bound == "frobenius" else np.ones(len(kept))
        self.components_ = scales[:, None] * vectors[:, kept].T
        self.objective_ = float(np.sum(scales**2 * values[kept]))
        return self


def _rounding(similar, dissimilar):
    return 1e-12 * max(np.trace(similar), np.trace(dissimilar))


def _largest_weight(similar, dissimilar):
    """Text on the weight below which a direction has a negative eigenvalue, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = 0.5 * (low + high)
        if np.linalg.eigvalsh(middle * similar - (1 - middle) * dissimilar)[0] < -_rounding(similar, dissimilar):
            low = middle
        else:
            high = middle
    return f", below {low:.3g}" if low > 0 else "; all dissimilar pairs are equal"
