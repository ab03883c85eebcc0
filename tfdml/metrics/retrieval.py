"""How well nearest neighbours share the query's class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from tfdml._utils.arguments import check_choice, check_part
from tfdml._utils.types import ArrayLike, Labels, Part
from tfdml.metrics.approximate import ApproximateSearch, neighbor_recall
from tfdml.metrics.inputs import as_embeddings, as_labels, class_numbers, same_space
from tfdml.metrics.neighbors import check_positive
from tfdml.metrics.search import BLOCK_BYTES, NeighborSearch

SEARCHES = ("exact", "faiss")


def retrieval_metrics(
    embeddings: ArrayLike,
    labels: Labels,
    reference_embeddings: ArrayLike | None = None,
    reference_labels: Labels | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    block_bytes: int = BLOCK_BYTES,
    neighbors: Literal["exact", "faiss"] = "exact",
    probes: float = 0.1,
    part: Part | None = None,
) -> dict[str, float]:
    r"""Retrieval metrics, exact by default: precision at 1, recall at k, R-precision and MAP@R.

    A query with $R$ references of its class, itself left out, ranks the references by their L2 distance; of
    equally near ones the lower index is first. With $\mathrm{rel}(i)$ 1 if the i-th is of the query's class,
    else 0, and $P(i) = \frac1i \sum_{j \le i} \mathrm{rel}(j)$:

    - precision at 1: $\mathrm{rel}(1)$
    - recall at k: $\max_{i \le k} \mathrm{rel}(i)$, whether one of the first k is right
    - R-precision: $P(R)$
    - MAP@R: $\frac1R \sum_{i=1}^{R} P(i)\,\mathrm{rel}(i)$

    Each is averaged over the queries with $R \ge 1$. Queries without a reference of their class have no right
    answer; they stay out of the averages and are counted.

    The work goes block by block, never as a whole query × reference matrix: beside its arguments it takes
    about `block_bytes` and a copy of the references (two for a moment; three where float32 cannot order them).

    Args:
        embeddings: Queries, `(n, d)`; NumPy, a tensor or nested lists, of any real type.
        labels: Their classes, `(n,)` or `(n, 1)` integers (of any size) or strings.
        reference_embeddings: What is searched, `(m, d)`; `None` searches the queries themselves, each without
            itself. It is left out by its index: an equal embedding of another image is a reference like any
            other.
        reference_labels: Classes of `reference_embeddings`, `(m,)` or `(m, 1)`.
        ks: The k of recall at k.
        block_bytes: About how much memory a block of queries takes; it does not change the results.
        neighbors: `"exact"`, or `"faiss"` for an approximate search (`pip install 'tfdml[faiss]'`): the references lie
            in lists about √m centres, and a query is compared with the nearest lists only. A reference that is not
            found counts as if it were wrong, or leaves its place to one farther away.
        probes: Of the approximate search: the share of the lists, above 0 and up to 1; with 1 it is exact but for
            rounding among nearly equal distances.
        part: `(index, count)`: only every `count`-th query from `index` on is evaluated, as by one of several workers.
            The averages of all parts, weighted by their `"queries"`, are those of the whole. `None` evaluates all.

    Returns:
        A dict with the floats `"precision_at_1"`, `"recall_at_<k>"` for each k, `"r_precision"` and
        `"map_at_r"`, and the integers `"queries"` (those averaged) and `"queries_without_reference"`. If no
        query has a reference of its class the floats are NaN. An approximate search also gives
        `"neighbor_recall"`: the mean, over a fixed sample of 1,000 of those queries, of the share of their
        max(R, largest k) true nearest references that it found, the truth being the exact search's.

    Raises:
        ValueError: If shapes do not fit, a set is empty, embeddings are not finite, only one of the
            references' arguments is given, a k is not positive, `neighbors` is unknown, `probes` out of range, or
            there is no such part.
        TypeError: If embeddings are no numbers, labels neither integers nor strings, or a k is no integer.
        ImportError: If `neighbors` is `"faiss"` and Faiss is not installed.

    Reference:
        Musgrave, Belongie and Lim, A metric learning reality check, ECCV 2020, section 3.2.

    Example:
        >>> metrics = retrieval_metrics([[0.0], [1.0], [3.0], [7.0]], ["a", "a", "b", "a"], ks=(1, 2))
        >>> {name: round(value, 3) for name, value in metrics.items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'precision_at_1': 0.667, 'recall_at_1': 0.667, 'recall_at_2': 1.0, 'r_precision': 0.5,
         'map_at_r': 0.417, 'queries': 3, 'queries_without_reference': 1}
    """
    ks = _check_ks(ks)
    block_bytes = check_positive(block_bytes, "block_bytes")
    check_choice("neighbors", neighbors, SEARCHES)
    probes = _check_probes(probes)
    if (reference_embeddings is None) != (reference_labels is None):
        given = "reference_labels" if reference_embeddings is None else "reference_embeddings"
        raise ValueError(
            f"Received: {given} alone; expected both reference_embeddings and reference_labels, or neither."
        )
    alone = reference_embeddings is None
    queries = references = as_embeddings(embeddings)
    query_labels = labels_of_references = as_labels(labels, len(queries))
    if not alone:
        references = as_embeddings(reference_embeddings, "reference_embeddings")
        labels_of_references = as_labels(reference_labels, len(references), "reference_labels")
        queries, references = same_space(queries, references)
    classes, reference_classes = class_numbers(query_labels, labels_of_references)
    relevant = np.bincount(reference_classes, minlength=classes.max() + 1)[classes] - alone
    counts = np.minimum(np.maximum(relevant, max(ks, default=1)), len(references) - alone)
    mine = _in_part(len(queries), part)
    relevant = np.where(mine, relevant, 0)
    counts_query = relevant > 0
    approximate = neighbors == "faiss"
    # Where every reference is of the query's class, all metrics are 1 whatever the order, if all are found.
    settled = counts_query & (relevant == len(references) - alone) & (not approximate)
    counts[~counts_query | settled] = 0

    values = {name: np.where(settled, 1.0, np.nan) for name in _names(ks)}
    own = np.arange(len(queries)) if alone else None
    search = (
        ApproximateSearch(references, probes, block_bytes) if approximate else NeighborSearch(references, block_bytes)
    )
    for rows, found in search.blocks(queries, counts, own):
        right = (reference_classes[found] == classes[rows, None]) & (found >= 0)
        for name, of_rows in zip(values, _metrics_of_queries(right, relevant[rows], ks)):
            values[name][rows] = of_rows
    number = int(np.count_nonzero(counts_query))
    result = {name: float(value[counts_query].mean()) if number else float("nan") for name, value in values.items()}
    if approximate:
        exact = NeighborSearch(references, block_bytes)
        result["neighbor_recall"] = neighbor_recall(search, exact, queries, counts, own)
    return {**result, "queries": number, "queries_without_reference": int(np.count_nonzero(mine)) - number}


def query_gallery_metrics(
    embeddings: ArrayLike,
    labels: Labels,
    is_query: ArrayLike | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    neighbors: Literal["exact", "faiss"] = "exact",
    part: Part | None = None,
) -> dict[str, float]:
    """Retrieval metrics of images that are queries or gallery, as those of the In-shop data set.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        is_query: `(n,)` bools: queries are to be found among those that are none. `None`: each among all others.
        ks: The k of recall at k.
        neighbors: `"exact"` or `"faiss"`, as for `retrieval_metrics`.
        part: As for `retrieval_metrics`.

    Returns:
        What `retrieval_metrics` gives.

    Raises:
        ValueError: If `is_query` is of another length, or there is no query or no gallery.
    """
    if is_query is None:
        return retrieval_metrics(embeddings, labels, ks=ks, neighbors=neighbors, part=part)
    embeddings, labels, is_query = np.asarray(embeddings), np.asarray(labels), np.asarray(is_query, bool)
    if is_query.shape != labels.shape or is_query.all() or not is_query.any():
        raise ValueError(
            f"Received: is_query of shape {is_query.shape} with {np.count_nonzero(is_query)} queries; expected one for "
            f"each of {len(labels)} labels, some of them queries and some not."
        )
    return retrieval_metrics(
        embeddings[is_query], labels[is_query], embeddings[~is_query], labels[~is_query], ks=ks,
        neighbors=neighbors, part=part,
    )  # fmt: skip


def _names(ks):
    return ["precision_at_1", *(f"recall_at_{k}" for k in ks), "r_precision", "map_at_r"]


def _metrics_of_queries(right, relevant, ks):
    """Metrics of single queries, in the order of `_names`.

    Args:
        right: Whether the i-th neighbour is of the query's class, `(b, k)`.
        relevant: R of each query, `(b,)`, at most k.
        ks: The k of recall at k.

    Yields:
        `(b,)` values.
    """
    places = np.arange(1, right.shape[1] + 1)
    yield right[:, 0]
    for k in ks:
        yield right[:, :k].any(axis=1)
    counted = right & (places <= relevant[:, None])
    hits = np.cumsum(counted, axis=1)
    yield hits[:, -1] / relevant
    # One by one, so that the sum does not depend on what else is in the block.
    yield np.cumsum(np.where(counted, hits / places, 0.0), axis=1)[:, -1] / relevant


def _in_part(count, part):
    """Which of so many queries belong to a part."""
    if part is None:
        return np.ones(count, bool)
    index, parts = check_part(part)
    return np.arange(count) % parts == index


def _check_ks(ks):
    try:
        ks = tuple(ks)
    except TypeError:
        raise TypeError(
            f"Received: ks={ks!r}; expected a sequence of positive integers, such as (1, 2, 4, 8)."
        ) from None
    return tuple(check_positive(k, "k in ks") for k in ks)


def _check_probes(probes):
    if not 0 < probes <= 1:
        raise ValueError(f"Received: probes={probes!r}; expected 0 < probes <= 1.")
    return float(probes)
