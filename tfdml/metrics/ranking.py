"""Ranking metrics: where the relevant items of a query stand among all items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import ArrayLike
from tfdml.ops.rankings import (
    BLOCK_BYTES,
    Similarities,
    check_every_query_has_items,
    ranks_of_relevant,
    relevant_items,
)

_ADVICE = " Pass empty='skip' to leave such queries out of the averages."


def ranking_metrics(
    queries: ArrayLike,
    items: ArrayLike,
    relevant: Sequence[Any],
    ks: Sequence[int] = (1, 5, 10),
    similarity: Literal["cosine", "dot", "l2"] = "cosine",
    exclude: Sequence[Any] | None = None,
    gain: Literal["linear", "exponential"] = "linear",
    empty: Literal["error", "skip"] = "error",
    average: bool = True,
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, Any]:
    r"""Compute NDCG, MRR, MAP, recall and hit rate of queries that search among items.

    Use it for retrieval with relevance per query: questions and passages, users and products, captions and
    images. Queries and items may come from different encoders. `retrieval_metrics` is its counterpart for classes.

    Each query ranks all items by their similarity; of equally similar items, the one with the lower index comes first,
    whatever the block size. A query has $R$ relevant items with grades $g_j > 0$ at the ranks $r_1 < r_2 < \dots$. With
    the gain $G(g) = g$, or $2^g - 1$ for `gain="exponential"`, and the relevant items in descending order of their
    grades $g^*_1 \ge g^*_2 \ge \dots$:

    - $\mathrm{NDCG@}k = \sum_{r_j \le k} \frac{G(g_j)}{\log_2 (r_j + 1)} \Big/
      \sum_{j \le \min(R, k)} \frac{G(g^*_j)}{\log_2 (j + 1)}$
    - $\mathrm{MRR} = 1 / r_1$ among all items, and MRR@k, which is 0 if $r_1 > k$
    - $\mathrm{MAP@}k = \frac{1}{\min(R, k)} \sum_{r_j \le k} \frac{j}{r_j}$
    - $\mathrm{recall@}k = |\{j : r_j \le k\}| / R$, and the hit rate at k, whether $r_1 \le k$

    Each is averaged over the queries. The computation needs copies of both matrices in float64 and blocks of
    similarities, never the whole queries × items matrix.

    Args:
        queries: `(n, d)`. Embeddings of the queries; NumPy array, tensor or nested lists.
        items: `(m, d)`. Embeddings of the items.
        relevant: For each query its relevant items: a sequence or set of indices of items, a dict from index to grade,
            or one index. A grade of 0 means that the item is not relevant.
        ks: Sequence of ints. Cutoffs. Default: (1, 5, 10).
        similarity: `"cosine"`, `"dot"` ($x^\top y$) or `"l2"` ($-\lVert x - y \rVert$). Default: `"cosine"`.
        exclude: For each query the indices of items that its ranking leaves out, such as those seen in training, or the
            query itself if queries are items; `None` for none. Default: `None`.
        gain: `"linear"` or `"exponential"`. Default: `"linear"`.
        empty: `"error"`, or `"skip"` to leave queries without a relevant item out of the averages and count them.
            Default: `"error"`.
        average: bool. Return averages, or arrays with a value for each query, such as for a confidence interval; NaN
            for queries that are skipped. Default: `True`.
        block_bytes: int. Approximate memory of a block of similarities, in bytes. It does not change the results.
            Default: 2**26.

    Returns:
        dict with `"ndcg_at_<k>"`, `"mrr_at_<k>"`, `"map_at_<k>"`, `"recall_at_<k>"` and `"hit_rate_at_<k>"` for each k,
        `"mrr"`, and the integers `"queries"` (the number of queries averaged over) and `"queries_without_items"`.

    Raises:
        ValueError: If there are no queries or no items, their sizes differ, a query has no relevant item, an index is
            out of range, repeats, or is both relevant and excluded, a grade is negative, embeddings are not finite,
            or an option is unknown.
        TypeError: If indices are not integers, or embeddings are not numbers.

    Reference:
        Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", ACM TOIS 2002.

    Example:
        >>> from tfdml import metrics
        >>> items = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> found = metrics.ranking_metrics([[1.0, 0.1], [0.0, 1.0]], items, relevant=[[1], {2: 2.0, 0: 1.0}], ks=(2,))
        >>> {name: round(value, 3) for name, value in found.items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'ndcg_at_2': 0.696, 'mrr_at_2': 0.75, 'map_at_2': 0.5, 'recall_at_2': 0.75, 'hit_rate_at_2': 1.0, 'mrr': 0.75,
         'queries': 2, 'queries_without_items': 0}
    """
    options = _checked_options(ks, gain, empty)
    similarities = Similarities(queries, items, similarity, check_whole_number("block_bytes", block_bytes, 1))
    number, size = len(similarities.queries), len(similarities.items)
    pairs = _checked_relevant(relevant, number, size, empty)
    excluded = None if exclude is None else relevant_items(exclude, number, size, "exclude")
    if excluded is not None:
        both = np.isin(pairs.query * size + pairs.item, excluded.query * size + excluded.item)
        if both.any():
            query = pairs.query[both][0]
            raise ValueError(
                f"An item is both relevant and excluded. Received: item {pairs.item[both][0]} for query {query}. "
                "Expected: exclude without relevant items."
            )
    return _metrics(pairs, ranks_of_relevant(similarities, pairs, excluded).astype(np.float64), average, *options)


def ranked_list_metrics(
    rankings: Sequence[Any],
    relevant: Sequence[Any],
    ks: Sequence[int] = (1, 5, 10),
    gain: Literal["linear", "exponential"] = "linear",
    empty: Literal["error", "skip"] = "error",
    average: bool = True,
) -> dict[str, Any]:
    """Compute the metrics of `ranking_metrics` from ranked lists, such as those of BM25 or of a gallery.

    Args:
        rankings: For each query the indices of the items that were found, best first. A relevant item that is not in
            the list counts as not found, so `"mrr"` is that of the first items if lists are shortened. An entry of -1
            stands for no item.
        relevant: As for `ranking_metrics`.
        ks: Sequence of ints. Cutoffs. Default: (1, 5, 10).
        gain: As for `ranking_metrics`. Default: `"linear"`.
        empty: As for `ranking_metrics`. Default: `"error"`.
        average: As for `ranking_metrics`. Default: `True`.

    Returns:
        dict as from `ranking_metrics`.

    Raises:
        ValueError: If there are no queries, the number of rankings differs, a ranking names an item twice, or a query
            has no relevant item.
        TypeError: If indices are not integers.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.ranked_list_metrics([[4, 7, 2], [1, 0, 5]], relevant=[[7], [3]], ks=(3,))
        >>> found["mrr"], found["recall_at_3"]
        (0.25, 0.5)
    """
    options = _checked_options(ks, gain, empty)
    lists = [np.asarray(ranking) for ranking in rankings]
    if not lists:
        raise ValueError("There are no queries. Received: no rankings. Expected: at least one.")
    for query, ranking in enumerate(lists):
        if ranking.ndim != 1 or (len(ranking) and ranking.dtype.kind not in "iu"):
            raise TypeError(
                f"A ranking must be a list of indices. Received: rankings[{query}] of shape {ranking.shape} and type "
                f"{ranking.dtype}. Expected: integers (k,)."
            )
    pairs = _checked_relevant(relevant, len(lists), np.iinfo(np.int64).max, empty)
    ranks = np.full(len(pairs.item), np.inf)
    for query, ranking in enumerate(lists):
        found = ranking[ranking >= 0]
        if len(np.unique(found)) != len(found):
            raise ValueError(
                f"A ranking names an item twice. Received: rankings[{query}]. Expected: different indices."
            )
        mine = slice(pairs.starts[query], pairs.starts[query + 1])
        place_of = dict(zip(ranking.tolist(), range(1, len(ranking) + 1)))
        ranks[mine] = [place_of.get(item, np.inf) for item in pairs.item[mine].tolist()]
    return _metrics(pairs, ranks, average, *options)


def _checked_options(ks, gain, empty):
    try:
        ks = tuple(ks)
    except TypeError:
        raise TypeError(
            f"ks is not a sequence. Received: ks={ks!r}. Expected: a sequence of positive integers, such as (1, 10)."
        ) from None
    check_choice("empty", empty, ("error", "skip"))
    return tuple(check_whole_number("k in ks", k, 1) for k in ks), check_choice("gain", gain, ("linear", "exponential"))


def _checked_relevant(relevant, queries, items, empty):
    pairs = relevant_items(relevant, queries, items)
    if empty == "error":
        check_every_query_has_items(pairs, advice=_ADVICE)
    return pairs


def _metrics(pairs, ranks, average, ks, gain):
    """Compute the metrics from the ranks of the relevant items; infinite for those not found."""
    count, relevant = len(pairs.counts), pairs.counts
    gains = pairs.grade if gain == "linear" else np.exp2(pairs.grade) - 1
    place = np.arange(len(ranks)) - pairs.starts[pairs.query] + 1
    best_first = np.lexsort((-gains, pairs.query))
    ideal = gains[best_first] / np.log2(place + 1)
    order = np.lexsort((ranks, pairs.query))
    ranks, gains = ranks[order], gains[order]
    first = np.full(count, np.inf)
    np.minimum.at(first, pairs.query, ranks)

    def total(values):
        return np.bincount(pairs.query, values, count)

    values = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for k in ks:
            found = ranks <= k
            gained = np.where(found, gains / np.log2(ranks + 1), 0.0)
            values[f"ndcg_at_{k}"] = total(gained) / total(np.where(place <= k, ideal, 0.0))
            values[f"mrr_at_{k}"] = np.where(first <= k, 1 / first, 0.0)
            values[f"map_at_{k}"] = total(np.where(found, place / ranks, 0.0)) / np.minimum(relevant, k)
            values[f"recall_at_{k}"] = total(found.astype(np.float64)) / relevant
            values[f"hit_rate_at_{k}"] = (first <= k).astype(np.float64)
        values["mrr"] = 1 / first
    counted = relevant > 0
    number = int(np.count_nonzero(counted))
    result = {name: np.where(counted, value, np.nan) for name, value in values.items()}
    if average:
        result = {name: float(value[counted].mean()) if number else np.nan for name, value in result.items()}
    return {**result, "queries": number, "queries_without_items": count - number}
