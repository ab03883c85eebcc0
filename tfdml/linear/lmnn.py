"""Large margin nearest neighbors (LMNN), blockwise."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import scipy.sparse
from sklearn.neighbors import NearestNeighbors

from tfdml._utils.arguments import check_between, check_positive, check_whole_number
from tfdml._utils.types import ArrayLike, Labels
from tfdml.linear.base import MahalanobisEstimator
from tfdml.linear.blocks import other_class_blocks, squared_distance_factors
from tfdml.linear.inputs import component_count, labeled_samples
from tfdml.linear.optimization import minimize, start_matrix, warn_if_stopped

# Pairs that are processed at a time, and numbers of the samples that are copied for it, which stay in the caches.
_CHUNK, _GATHERED = 2**19, 2**15
# Of a block, all samples may be impostors, which take several times its size.
_BLOCK_BYTES = 2**23
# Iterations between two searches for impostors.
_ITERATIONS_PER_SEARCH = 50
# Widths of the parabolas that round off the kink of the hinge, relative to the margin. With kinks, L-BFGS stalls.
_WIDTHS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
# Differences of listed pairs take about this number of times as long as products of all pairs.
_LISTED_SHARE = 16
# Directions of W whose size relative to the largest one is below this are lost.
_LOST = 0.01
# Samples that are outside of the margin by less than this are listed, too, as they may enter it before the next search.
_SLACK = 0.5


class LMNN(MahalanobisEstimator):
    r"""Pull target neighbors of each sample close, and push impostors out of their margin.

    $$\varepsilon(W) = \mu \sum_{i, j \sim i} \lVert W (x_i - x_j) \rVert^2 + (1 - \mu) \sum_{i, j \sim i} \sum_{l:
    y_l \ne y_i} \big[1 + \lVert W (x_i - x_j) \rVert^2 - \lVert W (x_i - x_l) \rVert^2\big]_+$$

    where $j \sim i$ are the target neighbors of $i$: the `n_neighbors` samples of its class that are nearest in the
    input space. A sample $l$ of another class with a positive bracket is an impostor.

    The margin of 1 is absolute, so a good scale of the data saves iterations: $W$ can learn any scale. As a function of
    $M = W^\top W$ the objective is convex, and with all components a local minimum is a global one.

    The sum over impostors has as many terms as there are triplets of samples. It is exact, but few of its terms are
    positive: a blockwise search lists the impostors, L-BFGS minimizes the objective on this list, and searches and
    minimization alternate until a search finds nothing that changes the objective. If a list would be too long, as for
    few samples or little memory, every evaluation searches instead. The kink of the hinge is rounded off at first, and
    less and less later, because L-BFGS stalls at kinks.

    With few samples per feature, directions that do not generalize meet the margins of the training samples.
    `shrinkage` moves the result toward the Euclidean distance, as for covariances: to $(1 - s) M + s \frac{\mathrm{tr}
    M}{d} I$. If `n_components` is smaller than $d$, $I$ is the identity of the row space of $W$, and $d$ its dimension.

    Args:
        n_neighbors: int. Number of target neighbors. Classes with fewer samples have fewer. Default 3.
        mu: float in 0–1. Weight $\mu$ of pulling, relative to pushing. Default 0.5.
        n_components: int or `None`. Number of rows of $W$. Fewer rows make the problem nonconvex. Default `None`, all
            features.
        init: `"identity"`, `"pca"`, `"lda"`, an array `(n_components, features)`, or `"auto"`: the identity with all
            components, principal components otherwise. Default `"auto"`.
        max_iter: int. Largest number of iterations of L-BFGS. Default 1000.
        tol: float. Relative decrease in an iteration, and relative difference between the objective on the list and the
            exact one, that end the search. Default 1e-6.
        memory_bytes: int. Approximate memory of the search in addition to a few copies of the samples, in bytes.
            Default 2**29.
        shrinkage: float in 0–1. Share $s$ of the Euclidean distance. Default 0.

    Attributes:
        components_: float64 array `(n_components, features)`, the matrix $W$.
        objective_: float. $\varepsilon(W)$ before shrinkage, with the exact hinge.
        n_iter_: int. Number of iterations.

    Raises:
        ValueError: In `fit`, if an argument is out of range, or there are no similar or no dissimilar pairs.

    Example:
        >>> from tfdml.linear import LMNN
        >>> X, y = np.array([[0.0, 0.0], [0.1, 3.0], [2.0, 0.0], [2.1, 3.0]]), [0, 0, 1, 1]
        >>> lmnn = LMNN(n_neighbors=1).fit(X, y)
        >>> bool(lmnn.score_pairs([X[:2]])[0] < lmnn.score_pairs([X[[0, 2]]])[0])
        True

    Reference:
        K. Q. Weinberger, L. K. Saul. Distance Metric Learning for Large Margin Nearest Neighbor Classification. Journal
        of Machine Learning Research 10, 2009.
    """

    def __init__(
        self,
        n_neighbors: int = 3,
        mu: float = 0.5,
        n_components: int | None = None,
        init: str | ArrayLike = "auto",
        max_iter: int = 1000,
        tol: float = 1e-6,
        memory_bytes: int = 2**29,
        shrinkage: float = 0.0,
    ) -> None:
        self.n_neighbors = n_neighbors
        self.mu = mu
        self.n_components = n_components
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.memory_bytes = memory_bytes
        self.shrinkage = shrinkage

    def fit(self, X: ArrayLike, y: Labels) -> LMNN:
        """Learn from labeled samples.

        Args:
            X: Array `(n, features)`.
            y: Array `(n,)`. Class labels, integers or strings.

        Returns:
            self.
        """
        n_neighbors = check_whole_number("n_neighbors", self.n_neighbors, minimum=1)
        mu = check_between("mu", self.mu, 0.0, 1.0)
        max_iter = check_whole_number("max_iter", self.max_iter, minimum=1)
        memory_bytes = check_whole_number("memory_bytes", self.memory_bytes, minimum=1)
        tol = check_positive("tol", self.tol)
        shrinkage = check_between("shrinkage", self.shrinkage, 0.0, 1.0)
        X, numbers = labeled_samples(self, X, y)
        start = start_matrix(self.init, X, numbers, component_count(self.n_components, X.shape[1]))
        order = np.argsort(numbers, kind="stable")
        problem = Triplets(X[order], numbers[order], n_neighbors, mu, memory_bytes)
        W, self.objective_, self.n_iter_ = _minimize(problem, start, max_iter, tol)
        self.components_ = shrunk(W, shrinkage)
        warn_if_stopped(self, self.n_iter_)
        return self


def shrunk(W, shrinkage):
    """Move the squared singular values of a matrix `(r, d)` toward their mean, up to a rotation of its rows."""
    if not shrinkage:
        return W
    _, scales, rows = np.linalg.svd(W, full_matrices=False)
    squares = (1 - shrinkage) * scales**2 + shrinkage * np.mean(scales**2)
    return np.sqrt(squares)[:, None] * rows


def _minimize(problem, start, max_iter, tol):
    """Minimize with ever narrower parabolas; at each width, alternate between minimization on a list and searches."""
    W, best, best_value, iterations = start, start, np.inf, 0
    impostors = problem.impostors(start)
    for width in _WIDTHS:
        previous = np.inf
        while True:
            listed, left = impostors, min(max_iter - iterations, _ITERATIONS_PER_SEARCH)
            W, value, done = minimize(functools.partial(problem.objective, impostors=listed, width=width), W, left, tol)
            iterations += done
            found = problem.impostors(W)
            exact = problem.objective(W, found)[0]
            if exact < best_value:
                best, best_value = W, exact
            if iterations >= max_iter:
                return best, best_value, iterations
            missed = 0.0 if listed is None else problem.objective(W, found, width)[0] - value
            small = tol * max(1.0, abs(value))
            gain, previous = previous - (value + missed), value + missed
            # The value on a list is a lower bound, so a minimum is exact if the list misses nothing there.
            impostors = found if gain > small else problem.union(found, listed)
            if missed <= small and (done < left or gain <= small):
                escaped = _escape(problem, W, found, width, small)
                if escaped is None:
                    break
                W, previous = escaped, np.inf
    return best, best_value, iterations


def _escape(problem, W, impostors, width, small):
    """Return a better matrix where a lost direction would decrease the objective; None if there is none.

    The objective is convex in M. Where its gradient by M has no negative eigenvalue, M is a minimum. W can also be
    stationary because one of its directions became 0, and stays 0.
    """
    _, scales, rows = np.linalg.svd(W, full_matrices=False)
    if scales[-1] > _LOST * scales[0]:
        return None
    value = problem.objective(W, impostors, width)[0]
    slopes, directions = np.linalg.eigh(problem.gradient_by_metric(W, impostors, width))
    size = float(np.sum(scales**2))
    while -slopes[0] * size > small:
        moved = scales[:, None] * rows
        moved[-1] = np.sqrt(size) * directions[:, 0]
        if problem.objective(moved, impostors, width)[0] < value - small:
            return moved
        size /= 4
    return None


class Triplets:
    """The objective of LMNN on samples and their target neighbors.

    A list of impostors is an int32 array `(p, 2)` of samples of different classes, lower index first, in ascending
    order. Either may be an impostor of the other.

    Args:
        X: float64 array `(n, d)`, sorted by class.
        numbers: int array `(n,)`, sorted. Numbers of the classes.
        n_neighbors: int. Number of target neighbors.
        mu: float. Weight of pulling.
        memory_bytes: int. Memory of a list of impostors and of blocks of distances.
    """

    def __init__(self, X, numbers, n_neighbors, mu, memory_bytes):
        self.X, self.numbers, self.mu = X - X.mean(axis=0), numbers, mu
        targets, self._is_target = target_neighbors(self.X, numbers, n_neighbors)
        self._targets = targets[self._is_target]
        self._owners = np.nonzero(self._is_target)[0]
        # An impostor takes 8 bytes, and about 64 while lists are joined. A long list is slower than all products.
        counts = np.bincount(numbers)
        self._most = min(memory_bytes // 64, int(len(X) ** 2 - np.sum(counts**2)) // 2 // _LISTED_SHARE)
        # Of a block there are the distances, two masks and the indices found.
        self._block_bytes = min(_BLOCK_BYTES, max(8, memory_bytes // 8))

    def objective(self, W, impostors=None, width=0.0):
        """The objective with the impostors in a list, or with all of them, and its gradient by W.

        With a positive `width` the hinge $[h]_+$ is a parabola for $0 < h <$ `width`, and smaller by half of it beyond.
        """
        Z = self.X @ W.T
        value, gradient = self._evaluate(Z, impostors, width, Z)
        return value, 2 * gradient.T @ self.X

    def gradient_by_metric(self, W, impostors, width):
        """The gradient by $M = W^\\top W$, `(d, d)`."""
        return self._evaluate(self.X @ W.T, impostors, width, self.X)[1].T @ self.X

    def _evaluate(self, Z, impostors, width, values):
        """The objective, and the product of the Laplacian of the weighted pairs with values of the samples."""
        distances, margins = self._margins(Z)
        places = np.arange(margins.shape[1])
        counts = np.zeros(margins.size)
        push, gradient = 0.0, np.zeros_like(values)
        chunks = self._blocks(Z, margins) if impostors is None else self._listed(Z, margins, impostors)
        for first, second, squared in chunks:
            weights = np.zeros(len(first))
            for side in (first, second):
                excess = np.maximum(margins[side] - squared[:, None], 0.0)
                slopes = np.minimum(excess / width, 1.0) if width else np.sign(excess)
                push += float(np.sum(slopes * (excess - 0.5 * width * slopes)))
                weights += slopes.sum(axis=1)
                entries = (side.astype(np.int64)[:, None] * len(places) + places).ravel()
                counts += np.bincount(entries, slopes.ravel(), len(counts))
            _add_laplacian(gradient, values, first, second, (self.mu - 1) * weights)
        coefficients = self.mu + (1 - self.mu) * counts.reshape(margins.shape)[self._is_target]
        _add_laplacian(gradient, values, self._owners, self._targets, coefficients)
        return self.mu * float(distances.sum()) + (1 - self.mu) * push, gradient

    def impostors(self, W):
        """List all impostors and samples just outside of a margin; None if there are too many for the memory."""
        Z = self.X @ W.T
        found, count = [np.empty((0, 2), np.int32)], 0
        for first, second, _ in self._blocks(Z, self._margins(Z)[1] + _SLACK):
            found.append(np.stack([first, second], axis=1).astype(np.int32))
            count += len(first)
            if count > self._most:
                return None
        return np.concatenate(found)

    def _margins(self, Z):
        """Squared distances of targets, and the margins `(n, n_neighbors)`, which nothing violates without a target."""
        distances = _squared(Z, self._owners, self._targets)
        margins = np.full(self._is_target.shape, -np.inf)
        margins[self._is_target] = 1.0 + distances
        return distances, margins

    def union(self, found, listed):
        """Join two lists of impostors; None if one is missing or the result is too long."""
        if found is None or listed is None:
            return found
        keys = np.union1d(*(pairs.astype(np.int64) @ np.array([len(self.X), 1]) for pairs in (found, listed)))
        return np.stack(np.divmod(keys, len(self.X)), axis=1).astype(np.int32) if len(keys) <= self._most else None

    def _listed(self, Z, margins, impostors):
        """Yield the impostors of a list that are inside of a margin in chunks, as `_blocks` does."""
        radii = margins.max(axis=1)
        for start in range(0, len(impostors), _CHUNK):
            first, second = impostors[start : start + _CHUNK].T
            squared = _squared(Z, first, second)
            inside = np.flatnonzero(squared < np.maximum(radii[first], radii[second]))
            yield first[inside], second[inside], squared[inside]

    def _blocks(self, Z, margins):
        """Yield all impostors in chunks (first, second, squared distances)."""
        left, right = squared_distance_factors(Z)
        radii = margins.max(axis=1)
        found, count = [], 0
        for rows, columns in other_class_blocks(self.numbers, self._block_bytes):
            squared = left[rows] @ right[columns].T
            inside = squared < radii[rows, None]
            inside |= squared < radii[columns]
            flat = np.flatnonzero(inside)
            first, second = np.divmod(flat, squared.shape[1])
            found.append((first + rows.start, second + columns.start, squared.ravel()[flat]))
            count += len(flat)
            # Few impostors of many blocks share a chunk, because a chunk takes time for each sample.
            if count >= _CHUNK:
                yield tuple(map(np.concatenate, zip(*found)))
                found, count = [], 0
        if count:
            yield tuple(map(np.concatenate, zip(*found)))


def target_neighbors(X, numbers, n_neighbors):
    """Find the nearest samples of the same class of each sample.

    Args:
        X: float64 array `(n, d)`.
        numbers: int array `(n,)`. Numbers of the classes.
        n_neighbors: int. Number of neighbors.

    Returns:
        The pair (targets, is_target), both `(n, n_neighbors)`. Where a class has too few samples, a target is the
        sample itself and `is_target` is False.
    """
    targets = np.repeat(np.arange(len(X))[:, None], n_neighbors, axis=1)
    is_target = np.zeros(targets.shape, bool)
    small = 0
    for number in range(numbers[-1] + 1):
        members = np.flatnonzero(numbers == number)
        count = min(n_neighbors, len(members) - 1)
        small += 0 < count < n_neighbors
        if count:
            search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(X[members])
            targets[members, :count] = members[search.kneighbors(return_distance=False)]
            is_target[members, :count] = True
    if small:
        warnings.warn(
            f"{small} classes have fewer than {n_neighbors + 1} samples. Their samples have fewer targets than "
            f"{n_neighbors}.",
            stacklevel=4,
        )
    return targets, is_target


def _squared(Z, first, second):
    """Squared distances of the rows of two index vectors."""
    squared = np.empty(len(first))
    step = max(1, _GATHERED // Z.shape[1])
    for start in range(0, len(first), step):
        chosen = slice(start, start + step)
        differences = Z.take(first[chosen], axis=0)
        differences -= Z.take(second[chosen], axis=0)
        squared[chosen] = np.einsum("ij,ij->i", differences, differences)
    return squared


def _add_laplacian(gradient, values, first, second, weights):
    """Add the gradient, by values of the samples, of half the sum of the weighted squared differences of pairs.

    `first` is in ascending order, so the pairs are the rows of a sparse matrix.
    """
    if not len(first):
        return
    sums = np.bincount(first, weights, len(values)) + np.bincount(second, weights, len(values))
    starts = np.concatenate([[0], np.cumsum(np.bincount(first, minlength=len(values)))])
    matrix = scipy.sparse.csr_matrix((weights, second, starts), shape=(len(values),) * 2)
    gradient += sums[:, None] * values - matrix @ values - matrix.T @ values
