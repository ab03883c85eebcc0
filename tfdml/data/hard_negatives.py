"""Mine hard negatives: items that are similar to a query without being relevant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tfdml._utils.arguments import check_between, check_choice, check_not_negative, check_whole_number, is_integer
from tfdml._utils.types import ArrayLike
from tfdml.ops.rankings import (
    BLOCK_BYTES,
    Similarities,
    check_every_query_has_items,
    relevant_items,
)


class HardNegatives(NamedTuple):
    """Hard negatives of queries.

    Attributes:
        items: int64 array `(queries, count)`. Indices of items; -1 where a query has no further negative.
        similarities: float64 array `(queries, count)`. Similarities of the queries and these items; NaN for none.
        skipped: dict of ints, over all queries: `"positives"` that stood among the candidates, candidates within the
            rank range that the `"margin"`, the `"relative_margin"` or the `"guide"` left out (each is counted for the
            first of these), `"missing"` negatives, and `"queries_without_negatives"`.

    Example:
        >>> from tfdml import data
        >>> found = data.mine_hard_negatives([[1.0, 0.0]], [[1.0, 0.1], [1.0, 0.5], [0.0, 1.0]], [[0]], count=3)
        >>> found.items.tolist(), found.skipped["missing"]
        ([[1, 2, -1]], 1)
    """

    items: np.ndarray
    similarities: np.ndarray
    skipped: dict[str, int]


def mine_hard_negatives(
    queries: ArrayLike,
    items: ArrayLike,
    positives: Sequence[Any],
    count: int = 1,
    rank_range: tuple[int, int] = (0, 100),
    margin: float | None = None,
    relative_margin: float | None = None,
    guide: tuple[ArrayLike, ArrayLike] | None = None,
    guide_margin: float = 0.0,
    sampling: Literal["top", "random"] = "top",
    seed: int = 0,
    similarity: Literal["cosine", "dot", "l2"] = "cosine",
    same: bool = False,
    block_bytes: int = BLOCK_BYTES,
) -> HardNegatives:
    r"""Find items that an embedder ranks high for a query although they are not known to be relevant.

    Train on them with `DualEncoder`, for example through `query_item_batches`. The highest-ranked items of a good
    embedder are often relevant ones that nobody marked; skip them by rank, by a margin to the positives, or by a second
    embedder.

    For each query, the items without its positives are ranked by their similarity $s$; of equal ones, the lower index
    comes first. Those with ranks in `rank_range` are candidates. With the least similar positive of the query,
    $s^+ = \min_{p} s_p$, a candidate $n$ is kept if all of the given conditions hold:

    - margin $m$: $s_n \le s^+ - m$
    - relative margin $\rho$: $s_n \le s^+ - \rho \, |s^+|$
    - guide with the similarities $g$ of another embedder and the guide margin $\gamma$: $g_n \le g^+ - \gamma$, where
      $g^+ = \min_p g_p$

    Args:
        queries: `(n, d)`. Embeddings of the queries; NumPy array, tensor or nested lists.
        items: `(m, d)`. Embeddings of the items.
        positives: For each query its relevant items: a sequence or set of indices of items, a dict from index to grade,
            or one index.
        count: int, >= 1. Number of negatives per query. Default: 1.
        rank_range: (first, end). Ranks of the candidates among the items that are not positives, from 0; the end is not
            included. Default: (0, 100).
        margin: float, >= 0. $m$; `None` for no condition. Default: `None`.
        relative_margin: float in 0–1. $\rho$: 0.05 keeps candidates with at most 95 % of the positive's similarity. Not
            for `"l2"`. `None` for no condition. Default: `None`.
        guide: Pair of embeddings of the same queries and items by another embedder; `None` for no guide. Default:
            `None`.
        guide_margin: float, >= 0. $\gamma$. Default: 0.
        sampling: `"top"`, the most similar ones, or `"random"`, drawn among those that are kept. Default: `"top"`.
        seed: int. Seed of the draws. They do not depend on the block size. Default: 0.
        similarity: `"cosine"`, `"dot"` or `"l2"` ($-\lVert x - y \rVert$), also of the guide. Default: `"cosine"`.
        same: bool. Whether queries and items are the same things in the same order; a query is then not its own
            negative. Default: `False`.
        block_bytes: int. Approximate memory of a block of similarities, in bytes. Default: 2**26.

    Returns:
        `HardNegatives`.

    Raises:
        ValueError: If there are no queries or no items, sizes differ, a query has no positive, an index is out of range
            or repeats, the rank range is empty or begins behind the last item, `same` is set although the embeddings
            differ in number, or an option is out of range.
        TypeError: If indices are not integers, or embeddings are not numbers.

    Reference:
        Moreira et al., "NV-Retriever: improving text embedding models with effective hard-negative mining", 2024
        (margins); Solatorio, "GISTEmbed: guided in-sample selection of training negatives", 2024 (guide).

    Example:
        >>> from tfdml import data
        >>> items = [[1.0, 0.0], [1.0, 0.02], [1.0, 0.5], [0.0, 1.0]]
        >>> found = data.mine_hard_negatives([[1.0, 0.01]], items, positives=[[0]], relative_margin=0.05)
        >>> found.items.tolist(), found.skipped["relative_margin"]
        ([[2]], 1)
    """
    count = check_whole_number("count", count, 1)
    first, end = _rank_range(rank_range)
    margin = None if margin is None else check_not_negative("margin", margin)
    relative_margin = None if relative_margin is None else check_between("relative_margin", relative_margin, 0, 1)
    guide_margin = check_not_negative("guide_margin", guide_margin)
    check_choice("sampling", sampling, ("top", "random"))
    seed = check_whole_number("seed", seed, 0)
    if relative_margin is not None and similarity == "l2":
        raise ValueError(
            "A relative margin needs similarities that are positive. Received: relative_margin with similarity='l2'. "
            "Expected: margin, or similarity='cosine'."
        )
    found = Similarities(queries, items, similarity, check_whole_number("block_bytes", block_bytes, 1))
    size, number = len(found.items), len(found.queries)
    if same and number != size:
        raise ValueError(
            f"Queries and items cannot be the same. Received: same=True with {number} queries and {size} items. "
            "Expected: equal numbers."
        )
    relevant = relevant_items(positives, number, size, "positives")
    check_every_query_has_items(relevant, "positives")
    if first >= size:
        raise ValueError(
            f"No item has such a rank. Received: rank_range={rank_range!r} with {size} items. Expected: a first rank "
            "below the number of items."
        )
    guides = None if guide is None else _guide(guide, number, size, similarity)

    chosen = np.full((number, count), -1)
    values = np.full((number, count), np.nan)
    skipped = dict.fromkeys(("positives", "margin", "relative_margin", "guide"), 0)
    for start, block in found.blocks():
        for place, row in enumerate(block):
            query = start + place
            own = relevant.of(query)
            least = found.exact(query, own).min()
            ranked, of_ranked = found.best(query, row, end + len(own) + same)
            is_positive = np.isin(ranked, own)
            places = np.flatnonzero(~is_positive & (ranked != query) if same else ~is_positive)[:end]
            # Positives behind the last candidate are not in its way.
            last = places[-1] if len(places) else len(ranked)
            skipped["positives"] += int(np.count_nonzero(is_positive[:last]))
            candidates, of_candidates = ranked[places[first:]], of_ranked[places[first:]]
            for name, limit in (
                ("margin", None if margin is None else least - margin),
                ("relative_margin", None if relative_margin is None else least - relative_margin * abs(least)),
            ):
                if limit is not None:
                    kept = of_candidates <= limit
                    skipped[name] += int(np.count_nonzero(~kept))
                    candidates, of_candidates = candidates[kept], of_candidates[kept]
            if guides is not None:
                kept = guides.exact(query, candidates) <= guides.exact(query, own).min() - guide_margin
                skipped["guide"] += int(np.count_nonzero(~kept))
                candidates, of_candidates = candidates[kept], of_candidates[kept]
            if sampling == "random" and len(candidates) > count:
                drawn = np.random.default_rng((seed, query)).choice(len(candidates), count, replace=False)
                candidates, of_candidates = candidates[np.sort(drawn)], of_candidates[np.sort(drawn)]
            candidates = candidates[:count]
            chosen[query, : len(candidates)] = candidates
            values[query, : len(candidates)] = of_candidates[:count]
    none = chosen < 0
    skipped["missing"] = int(np.count_nonzero(none))
    skipped["queries_without_negatives"] = int(np.count_nonzero(none.all(axis=1)))
    return HardNegatives(chosen, values, skipped)


def _rank_range(given):
    first: Any
    end: Any
    try:
        first, end = given
    except (TypeError, ValueError):
        first = end = None
    if not (is_integer(first) and is_integer(end) and 0 <= first < end):
        raise ValueError(
            f"The rank range is not valid. Received: rank_range={given!r}. Expected: integers (first, end) with 0 <= "
            "first < end."
        )
    return int(first), int(end)


def _guide(guide, queries, items, similarity):
    try:
        of_queries, of_items = guide
    except (TypeError, ValueError):
        raise ValueError(
            f"The guide must be two matrices. Received: {type(guide).__name__}. Expected: (embeddings of the queries, "
            "embeddings of the items)."
        ) from None
    guides = Similarities(of_queries, of_items, similarity, names=("guide[0]", "guide[1]"))
    received = len(guides.queries), len(guides.items)
    if received != (queries, items):
        raise ValueError(
            f"The guide has other queries or items. Received: embeddings of {received[0]} queries and {received[1]} "
            f"items. Expected: {queries} and {items}."
        )
    return guides
