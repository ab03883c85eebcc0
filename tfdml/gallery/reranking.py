"""Re-rankers of search results: k-reciprocal neighbors, query expansion and diversity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tfdml._utils.arguments import check_between, check_not_negative, check_whole_number
from tfdml._utils.types import ArrayLike
from tfdml.gallery.k_reciprocal import check_options, k_reciprocal_distances
from tfdml.gallery.results import without
from tfdml.metrics.exclusion import first_kept
from tfdml.metrics.inputs import as_embeddings, same_space
from tfdml.metrics.neighbors import nearest_neighbors
from tfdml.metrics.search import parts, squared_distances


@dataclasses.dataclass(frozen=True)
class CandidateSource:
    """What a re-ranker asks of a gallery.

    Rows number the items; -1 stands for a missing one. The queries are always all of a search, in their order.

    Args:
        nearest: Function of float32 vectors `(n, d)` and k, which returns the rows of the nearest items `(n, k)`.
        vectors: Function of rows, which returns float32 vectors `(…, d)`; any vector for -1.
        labels: Function of rows, which returns an object array of labels; `None` for -1 and for items without one.
        size: int. Number of items.
    """

    nearest: Callable[[np.ndarray, int], np.ndarray]
    vectors: Callable[[np.ndarray], np.ndarray]
    labels: Callable[[np.ndarray], np.ndarray]
    size: int


def search_reranked(search, rerank, vectors, k, store, items):
    """Search with one re-ranker or several in their order.

    Args:
        search: Function of float32 queries and k, which returns rows and squared distances, `(n, k)`.
        rerank: Re-ranker, or list of re-rankers.
        vectors: float32 array `(n, d)`. Queries.
        k: int. Number of items per query.
        store: `StoredVectors`.
        items: `Items`.

    Returns:
        Rows, int64 `(n, k)`, and squared distances to the queries, float64 `(n, k)`; -1 and infinity for missing items.

    Raises:
        TypeError: If a re-ranker cannot be called.
        ValueError: If a re-ranker returns something else than rows, or the store does not return vectors.
    """

    def vectors_of(rows):
        different, places = np.unique(np.maximum(rows, 0), return_inverse=True)
        return store.read(different)[places.reshape(rows.shape)]

    candidates = CandidateSource(
        nearest=lambda queries, count: search(queries, count)[0],
        vectors=vectors_of,
        labels=lambda rows: without(items.columns(rows)[1], rows < 0),
        size=len(items),
    )
    for step in rerank if isinstance(rerank, (list, tuple)) else [rerank]:
        if not callable(step) or isinstance(step, type):
            raise TypeError(
                f"A re-ranker cannot be called. Received: {step!r}. Expected: KReciprocal(), QueryExpansion(), "
                "LabelLimit(), MarginalRelevance(), a function (candidates, queries, k), or a list of these."
            )
        candidates = dataclasses.replace(candidates, nearest=_step(step, candidates))
    rows = np.asarray(candidates.nearest(vectors, k))
    if rows.shape != (len(vectors), k) or rows.dtype.kind != "i" or rows.min() < -1 or rows.max() >= len(items):
        raise ValueError(
            f"A re-ranker does not return rows. Received: {rows.dtype} of shape {rows.shape}. Expected: integers from "
            f"-1 to {len(items) - 1} of shape {(len(vectors), k)}."
        )
    squared = np.empty(rows.shape)
    for part in parts(len(rows), 24 * k * vectors.shape[1]):
        squared[part] = squared_distances(vectors[part, None], candidates.vectors(rows[part]))
    return rows, np.where(rows < 0, np.inf, squared)


def _step(step, candidates):
    return lambda queries, k: step(candidates, queries, k)


@dataclasses.dataclass(frozen=True)
class KReciprocal:
    """Re-rank the nearest items of a query by `k_reciprocal_distances` among these.

    Neighborhoods are those within the query and its candidates, so the time of a query depends on the number of
    candidates, but not on the size of the gallery.

    Args:
        k1: int. Number of neighbors that are compared. Default 20.
        k2: int, at most `k1` + 1. Number of neighborhoods that are averaged. Default 6.
        weight: float, 0 to 1. Weight of the relative distance. Default 0.3.
        candidates: int. Number of nearest items that are ordered again; farther ones follow in their order. Default
            100.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> from tfdml import Gallery
        >>> gallery = Gallery()
        >>> ids = gallery.add([[0.0], [1.0], [2.2], [9.0]])
        >>> gallery.search([[1.7]], k=2, rerank=KReciprocal(k1=2, k2=1)).ids.tolist()
        [[2, 1]]

    Reference:
        Zhong et al., Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017.
    """

    k1: int = 20
    k2: int = 6
    weight: float = 0.3
    candidates: int = 100

    def __post_init__(self) -> None:
        check_whole_number("candidates", self.candidates, 1)
        check_options(self.k1, self.k2, self.weight)

    def __call__(self, candidates: CandidateSource, queries: np.ndarray, k: int) -> np.ndarray:
        """Return rows of items, `(n, k)`."""
        rows = np.array(candidates.nearest(queries, min(candidates.size, max(k, self.candidates))))
        for query, found in zip(queries, rows):
            # Views into `rows`; missing items are at the end.
            near = found[: min(self.candidates, np.count_nonzero(found >= 0))]
            if len(near):
                vectors = candidates.vectors(near)
                distances = k_reciprocal_distances(query[None], vectors, self.k1, self.k2, self.weight)[0]
                near[:] = near[np.argsort(distances, kind="stable")]
        return rows[:, :k]


def expand_queries(
    embeddings: ArrayLike, reference_embeddings: ArrayLike | None = None, neighbors: int = 10, alpha: float = 3.0
) -> np.ndarray:
    r"""Move queries toward their nearest references: alpha query expansion.

    $$\hat q = \frac{q + \sum_{i=1}^{n} w_i\, x_i}{1 + \sum_{i=1}^{n} w_i}, \qquad
      w_i = \max(\cos(q, x_i), 0)^\alpha,$$

    where $x_1, \dots, x_n$ are the nearest references. $\alpha = 0$ averages the query and its neighbors. Normalized
    references are ranked as by the normalized sum of the paper, because the length of $\hat q$ changes all distances
    alike.

    Args:
        embeddings: Queries, `(n, d)`; NumPy array, tensor or nested lists.
        reference_embeddings: `(m, d)`, or `None` to expand with the other queries. Default `None`.
        neighbors: int. Number of references per query. Default 10.
        alpha: float, >= 0. Large values trust only the most similar references. Default 3.

    Returns:
        Array `(n, d)` in the type of the embeddings (float32 for half precision).

    Raises:
        ValueError: If shapes do not match, values are not finite, there are fewer than `neighbors` references, or an
            option is out of range.
        TypeError: If the embeddings are not numbers.

    Example:
        >>> expand_queries([[1.0, 0.0]], [[0.6, 0.8], [-1.0, 0.0]], neighbors=1, alpha=0).tolist()
        [[0.8, 0.4]]

    Reference:
        Radenović, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation, TPAMI 2018, section 3.5.
    """
    check_not_negative("alpha", alpha)
    queries = references = as_embeddings(embeddings)
    if reference_embeddings is not None:
        queries, references = same_space(queries, as_embeddings(reference_embeddings, "reference_embeddings"))
    near, _ = nearest_neighbors(queries, neighbors, None if reference_embeddings is None else references)
    result = np.empty_like(queries)
    for part in parts(len(queries), 24 * near.shape[1] * queries.shape[1]):
        result[part] = _expanded(queries[part], references[near[part]], np.ones(near[part].shape, bool), alpha)
    return result


def _expanded(queries, neighbors, present, alpha):
    """Return expanded queries `(b, d)` from those neighbors `(b, k, d)` that are `present`, bool `(b, k)`."""
    queries, neighbors = queries.astype(np.float64), neighbors.astype(np.float64)
    cosines = np.einsum("bd,bkd->bk", _directions(queries), _directions(neighbors))
    weights = np.where(present, np.clip(cosines, 0, 1) ** alpha, 0)
    return (queries + np.einsum("bk,bkd->bd", weights, neighbors)) / (1 + weights.sum(axis=1, keepdims=True))


def _directions(vectors):
    # In two steps, so that no square overflows or vanishes.
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest > 0, largest, 1)
    norms = np.linalg.norm(scaled, axis=-1, keepdims=True)
    return scaled / np.where(norms > 0, norms, 1)


@dataclasses.dataclass(frozen=True)
class QueryExpansion:
    """Search again with queries that `expand_queries` moves toward their nearest items.

    Args:
        neighbors: int. Number of items per query; all items if there are fewer. Default 10.
        alpha: float, >= 0. Exponent of the cosine similarity. Default 3.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> from tfdml import Gallery
        >>> gallery = Gallery()
        >>> ids = gallery.add([[1.0, 0.0], [0.0, 1.0], [0.9, 0.3]])
        >>> gallery.search([[0.6, 0.5]], k=1, rerank=QueryExpansion(neighbors=2)).ids.tolist()
        [[2]]

    Reference:
        Radenović, Tolias and Chum, Fine-tuning CNN image retrieval with no human annotation, TPAMI 2018.
    """

    neighbors: int = 10
    alpha: float = 3.0

    def __post_init__(self) -> None:
        check_whole_number("neighbors", self.neighbors, 1)
        check_not_negative("alpha", self.alpha)

    def __call__(self, candidates: CandidateSource, queries: np.ndarray, k: int) -> np.ndarray:
        """Return rows of items, `(n, k)`."""
        rows = candidates.nearest(queries, min(candidates.size, self.neighbors))
        moved = np.empty_like(queries)
        for part in parts(len(queries), 24 * rows.shape[1] * queries.shape[1]):
            moved[part] = _expanded(queries[part], candidates.vectors(rows[part]), rows[part] >= 0, self.alpha)
        return candidates.nearest(moved, k)


def limit_per_label(labels: ArrayLike, per_label: int = 1, k: int | None = None) -> np.ndarray:
    """Choose the first items of each row of which at most `per_label` have the same label.

    Args:
        labels: `(n, c)`. Labels of ranked items, such as `SearchResult.labels`. `None` is not limited.
        per_label: int. Number of items per label. Default 1.
        k: int. Number of items that are chosen. `None` chooses all that are permitted. Default `None`.

    Returns:
        int64 array `(n, k)`, or `(n, c)` for `k=None`. Positions in the rows, in increasing order, filled up with -1.
        `SearchResult.take` accepts it.

    Raises:
        ValueError: If the shape is wrong, or an option is not a positive integer.

    Example:
        >>> limit_per_label([["cat", "cat", "dog", "cat", "dog"]], per_label=1, k=3).tolist()
        [[0, 2, -1]]
    """
    per_label = check_whole_number("per_label", per_label, 1)
    labels = _as_rows(labels)
    count = labels.shape[1]
    k = count if k is None else check_whole_number("k", k, 1)
    keep = np.zeros(labels.shape, bool)
    for row, kept in zip(labels.tolist(), keep):
        seen: dict[Any, int] = {}
        for place, label in enumerate(row):
            seen[label] = seen.get(label, 0) + 1
            kept[place] = label is None or seen[label] <= per_label
    chosen = first_kept(np.broadcast_to(np.arange(count), labels.shape), keep, min(k, count))
    return np.pad(chosen, ((0, 0), (0, k - chosen.shape[1])), constant_values=-1)


def _as_rows(labels):
    rows = np.asarray(labels)
    if rows.ndim != 2:
        raise ValueError(f"Labels are not rows. Received: labels of shape {rows.shape}. Expected: (queries, items).")
    return rows


@dataclasses.dataclass(frozen=True)
class LabelLimit:
    """Return at most `per_label` items of the same label, the nearest ones.

    Args:
        per_label: int. Number of items per label; items without a label are not limited. Default 1.
        candidates: int. Number of nearest items that are considered. If too few of them remain, the others are missing
            from the result. Default 100.

    Raises:
        ValueError: If an option is not a positive integer.

    Example:
        >>> from tfdml import Gallery
        >>> gallery = Gallery()
        >>> ids = gallery.add([[1.0], [2.0], [3.0]], labels=["cat", "cat", "dog"])
        >>> gallery.search([[0.0]], k=2, rerank=LabelLimit()).labels.tolist()
        [['cat', 'dog']]
    """

    per_label: int = 1
    candidates: int = 100

    def __post_init__(self) -> None:
        check_whole_number("per_label", self.per_label, 1)
        check_whole_number("candidates", self.candidates, 1)

    def __call__(self, candidates: CandidateSource, queries: np.ndarray, k: int) -> np.ndarray:
        """Return rows of items, `(n, k)`."""
        rows = candidates.nearest(queries, min(candidates.size, max(k, self.candidates)))
        return _taken(rows, limit_per_label(candidates.labels(rows), self.per_label, k))


def marginal_relevance(
    embeddings: ArrayLike, candidate_embeddings: ArrayLike, k: int, balance: float = 0.7
) -> np.ndarray:
    r"""Choose items that are near the query and far from each other, one after the other.

    With the chosen items $S$, the next one is

    $$\arg\min_{i \notin S} \; \beta \lVert q - x_i \rVert - (1 - \beta) \min_{j \in S} \lVert x_i - x_j \rVert,$$

    without the second term while $S$ is empty. Of equal values, the first candidate is chosen.

    Args:
        embeddings: Queries, `(n, d)`; NumPy array, tensor or nested lists.
        candidate_embeddings: `(n, c, d)`. The candidates of each query.
        k: int. Number of items that are chosen, at most `c`.
        balance: float, 0 to 1. $\beta$. 1 ranks by the distance to the query; 0 spreads items as far apart as
            possible. Default 0.7.

    Returns:
        int64 array `(n, k)`. Positions among the candidates, in the order in which they were chosen.

    Raises:
        ValueError: If shapes do not match, values are not finite, there are fewer than `k` candidates, or `balance` is
            out of range.
        TypeError: If the embeddings are not numbers.

    Example:
        >>> marginal_relevance([[0.0]], [[[1.0], [1.1], [-1.5]]], k=2).tolist()
        [[0, 2]]

    Reference:
        Carbonell and Goldstein, The use of MMR, diversity-based reranking for reordering documents and producing
        summaries, SIGIR 1998; here with distances instead of similarities.
    """
    queries = as_embeddings(embeddings)
    candidates = np.asarray(candidate_embeddings)
    if candidates.ndim != 3 or 0 in candidates.shape or len(candidates) != len(queries):
        raise ValueError(
            f"Candidates have the wrong shape. Received: candidate_embeddings of shape {candidates.shape} for "
            f"{len(queries)} queries. Expected: ({len(queries)}, candidates, {queries.shape[1]})."
        )
    flat = as_embeddings(candidates.reshape(-1, candidates.shape[2]), "candidate_embeddings")
    queries, flat = same_space(queries, flat, other_name="candidate_embeddings")
    k, balance = check_whole_number("k", k, 1), check_between("balance", balance, 0, 1)
    if k > candidates.shape[1]:
        raise ValueError(f"There are too few candidates. Received: k={k}. Expected: at most {candidates.shape[1]}.")
    candidates = flat.reshape(candidates.shape)
    chosen = np.empty((len(queries), k), np.int64)
    for part in parts(len(queries), 24 * candidates[0].size):
        chosen[part] = _chosen(queries[part].astype(np.float64), candidates[part].astype(np.float64), k, balance)
    return chosen


def _chosen(queries, candidates, k, balance):
    everyone = np.arange(len(queries))
    relevance = balance * np.linalg.norm(candidates - queries[:, None], axis=2)
    apart = np.zeros(relevance.shape)
    chosen = np.empty((len(queries), k), np.int64)
    for place in range(k):
        chosen[:, place] = last = np.argmin(relevance - (1 - balance) * apart, axis=1)
        relevance[everyone, last] = np.inf
        distances = np.linalg.norm(candidates - candidates[everyone, last][:, None], axis=2)
        apart = distances if place == 0 else np.minimum(apart, distances)
    return chosen


@dataclasses.dataclass(frozen=True)
class MarginalRelevance:
    """Return items that are near the query and far from each other, by `marginal_relevance`.

    Args:
        balance: float, 0 to 1. 1 ranks by the distance to the query; 0 spreads items as far apart as possible. Default
            0.7.
        candidates: int. Number of nearest items from which the result is chosen. Default 100.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> from tfdml import Gallery
        >>> gallery = Gallery()
        >>> ids = gallery.add([[1.0], [1.1], [-1.5]])
        >>> gallery.search([[0.0]], k=2, rerank=MarginalRelevance()).ids.tolist()
        [[0, 2]]

    Reference:
        Carbonell and Goldstein, The use of MMR, diversity-based reranking, SIGIR 1998.
    """

    balance: float = 0.7
    candidates: int = 100

    def __post_init__(self) -> None:
        check_between("balance", self.balance, 0, 1)
        check_whole_number("candidates", self.candidates, 1)

    def __call__(self, candidates: CandidateSource, queries: np.ndarray, k: int) -> np.ndarray:
        """Return rows of items, `(n, k)`."""
        rows = candidates.nearest(queries, min(candidates.size, max(k, self.candidates)))
        positions = np.full((len(rows), k), -1)
        for query, found, chosen in zip(queries, rows, positions):
            near = found[found >= 0]
            if len(near):
                count = min(k, len(near))
                chosen[:count] = marginal_relevance(query[None], candidates.vectors(near)[None], count, self.balance)[0]
        return _taken(rows, positions)


def _taken(rows, positions):
    return np.where(positions < 0, -1, np.take_along_axis(rows, np.maximum(positions, 0), axis=1))
