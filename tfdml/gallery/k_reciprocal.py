"""Re-ranking by k-reciprocal neighbors."""

from __future__ import annotations

import numpy as np

from tfdml._utils.arguments import check_between, check_whole_number
from tfdml._utils.types import ArrayLike
from tfdml.metrics.inputs import as_embeddings, same_space
from tfdml.metrics.search import NeighborSearch, parts

# Largest number of items whose distances are computed as one matrix.
_MATRIX_ITEMS = 2048


def k_reciprocal_distances(
    embeddings: ArrayLike,
    reference_embeddings: ArrayLike | None = None,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> np.ndarray:
    r"""Compute distances from queries to references that also compare their neighborhoods.

    Two items are similar if they have the same k-reciprocal neighbors. With $N(p, k)$, the item $p$ and its $k$ nearest
    others among all queries and references,

    $$R(p, k) = \{q \in N(p, k) : p \in N(q, k)\}, \quad
      R^*(p) = R(p, k_1) \cup \bigcup_{q \in R(p, k_1)}
      \{R(q, \tfrac{k_1}{2}) : |R(p, k_1) \cap R(q, \tfrac{k_1}{2})| \ge \tfrac23 |R(q, \tfrac{k_1}{2})|\}.$$

    With the relative distance $\bar d_{pq} = \lVert p - q \rVert^2 / \max_r \lVert p - r \rVert^2$, the neighborhood is
    the vector $v_p$ with entries proportional to $e^{-\bar d_{pq}}$ for $q \in R^*(p)$ and 0 otherwise, of sum 1,
    averaged over the first $k_2$ of $N(p, k_1)$. The result is

    $$d^*_{pq} = (1 - \lambda) \Bigl(1 - \frac{\sum_r \min(v_{pr}, v_{qr})}{\sum_r \max(v_{pr}, v_{qr})}\Bigr)
      + \lambda\, \bar d_{pq}.$$

    Memory beyond the result grows with the number of items, not with its square.

    Args:
        embeddings: Queries, `(n, d)`; NumPy array, tensor or nested lists.
        reference_embeddings: `(m, d)`, or `None` for the distances among the queries. Default `None`.
        k1: int. Number of neighbors that are compared; reduced to the number of other items. About the number of images
            of a class, or less. Default 20.
        k2: int, at most `k1` + 1. Number of neighborhoods that are averaged, with its own; 1 averages nothing.
            Default 6.
        weight: float, 0 to 1. $\lambda$, the weight of the relative distance; 1 ranks by it alone. Default 0.3.

    Returns:
        float64 array `(n, m)`, or `(n, n)` without references. `metrics.retrieval_metrics_from_distances` evaluates it.

    Raises:
        ValueError: If shapes do not match, values are not finite, or an option is out of range.
        TypeError: If the embeddings are not numbers.

    Example:
        >>> from tfdml import metrics
        >>> points, labels = [[0.0], [1.0], [2.2], [9.0], [9.5]], [0, 0, 0, 1, 1]
        >>> distances = k_reciprocal_distances(points, k1=2, k2=1)
        >>> metrics.retrieval_metrics_from_distances(distances, labels)["map_at_r"]
        1.0

    Reference:
        Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017. Their code requires
        more than two thirds where their formula, used here, requires at least two thirds.
    """
    queries = as_embeddings(embeddings)
    items, first = queries, 0
    if reference_embeddings is not None:
        items = np.concatenate(same_space(queries, as_embeddings(reference_embeddings, "reference_embeddings")))
        first = len(queries)
    space = _Vectors(items)
    if len(items) <= _MATRIX_ITEMS:
        from scipy.spatial.distance import cdist

        wide = space.items.astype(np.float64)
        space = _Matrix(cdist(wide, wide, "sqeuclidean"))
    return _distances(space, len(queries), first, k1, k2, weight)


def k_reciprocal_from_distances(
    distances: ArrayLike,
    query_distances: ArrayLike | None = None,
    reference_distances: ArrayLike | None = None,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
) -> np.ndarray:
    r"""Compute the distances of `k_reciprocal_distances` from matrices of distances.

    Args:
        distances: `(n, m)`. Distances $d_{pq} \ge 0$ from queries to references; they are squared:
            $\bar d_{pq} = d_{pq}^2 / \max_r d_{pr}^2$.
        query_distances: `(n, n)`. Distances among the queries. `None`, together with `reference_distances`, means that
            the queries are the references. Default `None`.
        reference_distances: `(m, m)`. Distances among the references. Default `None`.
        k1: int, as for `k_reciprocal_distances`. Default 20.
        k2: int, as for `k_reciprocal_distances`. Default 6.
        weight: float, as for `k_reciprocal_distances`. Default 0.3.

    Returns:
        float64 array `(n, m)`.

    Raises:
        ValueError: If shapes do not match, distances are negative or not finite, or an option is out of range.
        TypeError: If the distances are not numbers.

    Example:
        >>> points = np.array([0.0, 1.0, 2.2, 9.0, 9.5])
        >>> found = k_reciprocal_from_distances(np.abs(points[:, None] - points), k1=2, k2=1)
        >>> np.allclose(found, k_reciprocal_distances(points[:, None], k1=2, k2=1))
        True

    Reference:
        Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017.
    """
    matrix = _checked_distances("distances", distances)
    count, others = matrix.shape
    if (query_distances is None) != (reference_distances is None):
        given = "reference_distances" if query_distances is None else "query_distances"
        raise ValueError(
            f"Distances are incomplete. Received: {given} alone. Expected: both query_distances and "
            "reference_distances, or neither."
        )
    if query_distances is None:
        if count != others:
            raise ValueError(
                f"Distances are not those among the queries. Received: distances of shape {matrix.shape} alone. "
                "Expected: a square matrix, or query_distances and reference_distances."
            )
        return _distances(_Matrix(np.square(matrix)), count, 0, k1, k2, weight)
    own = _checked_distances("query_distances", query_distances, (count, count))
    of_references = _checked_distances("reference_distances", reference_distances, (others, others))
    everything = np.block([[own, matrix], [matrix.T, of_references]])
    return _distances(_Matrix(np.square(everything)), count, count, k1, k2, weight)


def check_options(k1, k2, weight):
    """Return the options of `k_reciprocal_distances`, or raise a ValueError."""
    k1, k2 = check_whole_number("k1", k1, 1), check_whole_number("k2", k2, 1)
    if k2 > k1 + 1:
        raise ValueError(
            f"More neighborhoods are averaged than are known. Received: k2={k2} and k1={k1}. Expected: k2 <= k1 + 1."
        )
    return k1, k2, check_between("weight", weight, 0, 1)


def _checked_distances(name, distances, shape=None):
    matrix = np.asarray(distances)
    if matrix.dtype.kind not in "biuf" and matrix.dtype.name != "bfloat16":
        raise TypeError(f"Distances are not numbers. Received: {name} of type {matrix.dtype}. Expected: real numbers.")
    matrix = matrix.astype(np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape or shape not in (None, matrix.shape):
        expected = "(queries, references)" if shape is None else shape
        raise ValueError(
            f"Distances have the wrong shape. Received: {name} of shape {matrix.shape}. Expected: {expected}."
        )
    if not (np.isfinite(matrix) & (matrix >= 0)).all():
        raise ValueError(f"Distances are invalid. Received: {name} with negative, infinite or NaN values.")
    return matrix


class _Matrix:
    """Items by their squared distances `(n, n)`."""

    def __init__(self, squared):
        self.squared = squared
        self.count = len(squared)
        self.largest = _not_zero(squared.max(axis=1))

    def nearest(self, k):
        """Return the `k` nearest others of each item, `(n, k)`; of equal distances, the lower index comes first."""
        order = np.argsort(self.squared, axis=1, kind="stable")
        return order[order != np.arange(self.count)[:, None]].reshape(self.count, -1)[:, :k]

    def pairs(self, rows, columns):
        """Return relative distances of pairs."""
        return self.squared[rows, columns] / self.largest[rows]

    def rows(self, part, first):
        """Return relative distances of a slice of items to the items from `first`."""
        return self.squared[part, first:] / self.largest[part, None]


class _Vectors:
    """Items by their vectors `(n, d)`, with the interface of `_Matrix`."""

    def __init__(self, items):
        self.items, self.count = items, len(items)
        self.centered = (items - items.mean(axis=0, dtype=np.float64)).astype(np.float64)
        self.squares = np.square(self.centered).sum(axis=1)
        self._largest = None

    @property
    def largest(self):
        if self._largest is None:
            self._largest = np.empty(self.count)
            for part in parts(self.count, 24 * self.count):
                self._largest[part] = self._squared(part).max(axis=1)
            self._largest = _not_zero(self._largest)
        return self._largest

    def _squared(self, part, first=0):
        products = self.centered[part] @ self.centered[first:].T
        return np.maximum(self.squares[part, None] + self.squares[first:] - 2 * products, 0.0)

    def nearest(self, k):
        found = np.empty((self.count, k), np.int64)
        for rows, near in NeighborSearch(self.items).blocks(self.items, np.full(self.count, k), np.arange(self.count)):
            found[rows] = near
        return found

    def pairs(self, rows, columns):
        squared = np.empty(len(rows))
        for part in parts(len(rows), 24 * self.items.shape[1]):
            differences = self.centered[rows[part]] - self.centered[columns[part]]
            squared[part] = np.einsum("ij,ij->i", differences, differences)
        return squared / self.largest[rows]

    def rows(self, part, first):
        return self._squared(part, first) / self.largest[part, None]


def _not_zero(values):
    return np.where(values > 0, values, 1.0)


def _distances(space, queries, first, k1, k2, weight):
    """Return distances from the first `queries` items to the items from `first`."""
    k1, k2, weight = check_options(k1, k2, weight)
    result = np.empty((queries, space.count - first))
    if weight < 1:
        encoded = _encoded(space, k1, k2)
        references = encoded[first:].tocsc()
        for query in range(queries):
            mine = slice(*encoded.indptr[query : query + 2])
            columns = references[:, encoded.indices[mine]]
            least = np.minimum(columns.data, np.repeat(encoded.data[mine], np.diff(columns.indptr)))
            shared = np.bincount(columns.indices, least, minlength=len(result[query]))
            # Both vectors have the sum 1, so the sums of minima and maxima add up to 2.
            result[query] = (1 - weight) * (1 - shared / (2 - shared))
    else:
        result[:] = 0
    if weight > 0:
        for part in parts(queries, 24 * result.shape[1]):
            result[part] += weight * space.rows(slice(part.start, min(part.stop, queries)), first)
    return result


def _encoded(space, k1, k2):
    """Return the neighborhoods $v_p$ as a sparse matrix `(n, n)`."""
    from scipy.sparse import csr_matrix, diags

    count = space.count
    near = np.concatenate([np.arange(count)[:, None], space.nearest(min(k1, count - 1))], axis=1)
    half = near[:, : round(k1 / 2) + 1]
    mask, half_mask = _reciprocal(near), _reciprocal(half)
    sizes = half_mask.sum(axis=1)
    codes = []
    for part in parts(count, 16 * near.shape[1] ** 2 * half.shape[1]):
        members, right = near[part], mask[part]
        theirs, theirs_right = half[members], half_mask[members]
        shared = ((theirs[..., None] == members[:, None, None]) & right[:, None, None]).any(axis=-1) & theirs_right
        accepted = right & (3 * shared.sum(axis=-1) >= 2 * sizes[members])
        rows, places = np.nonzero(right)
        own = (part.start + rows) * count + members[rows, places]
        rows, places, further = np.nonzero(accepted[..., None] & theirs_right)
        added = (part.start + rows) * count + theirs[rows, places, further]
        codes.append(np.unique(np.concatenate([own, added])))
    rows, columns = np.divmod(np.concatenate(codes), count)
    values = np.exp(-space.pairs(rows, columns))
    encoded = csr_matrix((values, (rows, columns)), shape=(count, count))
    encoded = diags(1 / np.bincount(rows, values, minlength=count)) @ encoded
    k2 = min(k2, near.shape[1])
    if k2 > 1:
        places = np.repeat(np.arange(count), k2), near[:, :k2].reshape(-1)
        encoded = csr_matrix((np.full(count * k2, 1 / k2), places), shape=(count, count)) @ encoded
    return encoded.tocsr()


def _reciprocal(near):
    """Return whether the item of each row, its first entry, is among those of its neighbors, bool `(n, k + 1)`."""
    mask = np.empty(near.shape, bool)
    for part in parts(len(near), 9 * near.shape[1] ** 2):
        mask[part] = (near[near[part]] == near[part, :1, None]).any(axis=2)
    return mask
