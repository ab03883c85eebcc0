"""Retrieval metrics: how often the nearest neighbors share the class of the query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tfdml import relations
from tfdml._utils.arguments import check_choice, check_part, check_whole_number
from tfdml._utils.types import ArrayLike, Identifier, Labels, Part
from tfdml.metrics.approximate import ApproximateSearch, neighbor_recall
from tfdml.metrics.exclusion import Exclusion, FilteredSearch, first_kept
from tfdml.metrics.inputs import as_embeddings, as_labels, class_numbers, same_space
from tfdml.metrics.related import RelatedPairs, related_metrics
from tfdml.metrics.search import BLOCK_BYTES, NeighborSearch, parts
from tfdml.ops.labels import squeeze_column

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
    exclude: Any = None,
    exclude_rule: Literal["class_and_group", "group"] = "class_and_group",
    relation: Identifier | None = None,
) -> dict[str, float]:
    r"""Compute retrieval metrics, exact by default: precision at 1, recall at k, R-precision and MAP@R.

    Use it to evaluate an embedder on classes that it was not trained on. MAP@R is the most informative of the four for
    model selection: unlike recall at k it considers the whole ranking of a class.

    References are ranked by their L2 distance to a query with $R$ references of its class, itself excluded. Of equally
    distant references, the one with the lower index comes first. With $\mathrm{rel}(i) = 1$ if the i-th neighbor is of
    the query's class, otherwise 0, and $P(i) = \frac1i \sum_{j \le i} \mathrm{rel}(j)$:

    - precision at 1: $\mathrm{rel}(1)$
    - recall at k: $\max_{i \le k} \mathrm{rel}(i)$, whether one of the first k is correct
    - R-precision: $P(R)$
    - MAP@R: $\frac1R \sum_{i=1}^{R} P(i)\,\mathrm{rel}(i)$

    Each is averaged over the queries with $R \ge 1$. Queries without a reference of their class have no correct answer;
    they are excluded from the averages and counted.

    With `exclude`, query $q$ is ranked without the references of its group, such as its camera, session or product:

    - `"class_and_group"` leaves out $\{r : g_r = g_q \wedge y_r = y_q\}$, where $g$ is the group and $y$ the class.
      This is how re-identification is evaluated: images of the same identity by the same camera do not count, and
      those of other identities by this camera remain.
    - `"group"` leaves out $\{r : g_r = g_q\}$.

    $R$ counts the references that remain, and the query itself is always left out if there are no separate references.

    With `relation`, the correct references of a query are its positives: those with common tags, those closer than a
    threshold, those given. Pairs that are neither positive nor negative count for nothing, so each query is ranked
    without them. If the relation is graded, with the relevance $g_{qi}$ of the i-th of all neighbors and $g^*_{qi}$ in
    the best order, $\mathrm{NDCG}_q@k = \sum_{i \le k} \frac{g_{qi}}{\log_2(i + 1)} \big/ \sum_{i \le k}
    \frac{g^*_{qi}}{\log_2(i + 1)}$ is added. All pairs of labels are compared, block by block.

    The computation is blockwise, never with a whole query × reference matrix. In addition to its arguments it needs
    about `block_bytes` and a copy of the references (two at times; three if float32 cannot order them).

    Args:
        embeddings: Queries, `(n, d)`; NumPy array, tensor or nested lists of any real type.
        labels: `(n,)` or `(n, 1)`. Classes of the queries, integers (of any size) or strings; or what `relation`
            compares.
        reference_embeddings: `(m, d)`, or `None` to search among the queries themselves. Each query is then excluded by
            its index: an equal embedding of another image is a reference like any other. Default: `None`.
        reference_labels: `(m,)` or `(m, 1)`. Classes of the references. Default: `None`.
        ks: Sequence of ints. The k of recall at k. Default: (1, 2, 4, 8).
        block_bytes: int. Approximate memory of a block of queries, in bytes. It does not change the results. Default:
            2**26.
        neighbors: `"exact"`, or `"faiss"` for an approximate search (`pip install 'tfdml[faiss]'`): references are
            divided into lists around √m centers, and a query is compared with the nearest lists only. A reference that
            is not found counts as wrong or is replaced by one farther away. Default: `"exact"`.
        probes: float, 0 < probes <= 1. The share of the lists that the approximate search visits; with 1 it is exact
            except for rounding between nearly equal distances. Default: 0.1.
        part: `(index, count)` or `None`. Evaluate only every `count`-th query, starting with `index`, as one of several
            workers. The averages of all parts, weighted by their `"queries"`, are those of the whole. Default: `None`,
            all queries.
        exclude: Groups of the samples, integers or strings: `(n,)` or `(n, 1)`, or a pair (groups of the queries,
            groups of the references) if references are passed. `None` excludes only the query itself. Default: `None`.
        exclude_rule: `"class_and_group"` leaves out references of the query's class and group, `"group"` all references
            of its group. Default: `"class_and_group"`.
        relation: `tfdml.relations.Relation`, a name or a configuration, or `None` for classes. It requires the exact
            search and no `exclude`. Default: `None`.

    Returns:
        dict with the floats `"precision_at_1"`, `"recall_at_<k>"` for each k, `"r_precision"` and `"map_at_r"`, and the
        integers `"queries"` (the number of queries averaged over) and `"queries_without_reference"`. If no query has a
        reference of its class, the floats are NaN. An approximate search adds `"neighbor_recall"`: the share of the
        max(R, largest k) true nearest references that it found, compared with the exact search and averaged over a
        fixed sample of 1,000 of the queries. A graded relation adds `"ndcg_at_<k>"` for each k.

    Raises:
        ValueError: If shapes do not match, there are no embeddings, embeddings are not finite, only one of
            `reference_embeddings` and `reference_labels` is passed, a k is not a positive integer, `neighbors` or
            `exclude_rule` is unknown, `probes` or `part` is out of range, or `relation` does not accept a label or is
            passed with `exclude` or an approximate search.
        TypeError: If embeddings are not numbers, or labels or groups are neither integers nor strings.
        ImportError: If `neighbors` is `"faiss"` and Faiss is not installed.

    Reference:
        Musgrave, Belongie and Lim, A metric learning reality check, ECCV 2020, section 3.2. Zheng et al., Scalable
        person re-identification: a benchmark, ICCV 2015, section 3.3, for `"class_and_group"`.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.retrieval_metrics([[0.0], [1.0], [3.0], [7.0]], ["a", "a", "b", "a"], ks=(1, 2))
        >>> {name: round(value, 3) for name, value in found.items()}
        ... # doctest: +NORMALIZE_WHITESPACE
        {'precision_at_1': 0.667, 'recall_at_1': 0.667, 'recall_at_2': 1.0, 'r_precision': 0.5,
         'map_at_r': 0.417, 'queries': 3, 'queries_without_reference': 1}
    """
    ks = _check_ks(ks)
    block_bytes = check_whole_number("block_bytes", block_bytes, 1)
    check_choice("neighbors", neighbors, SEARCHES)
    probes = _check_probes(probes)
    if (reference_embeddings is None) != (reference_labels is None):
        given = "reference_labels" if reference_embeddings is None else "reference_embeddings"
        raise ValueError(
            f"References are incomplete. Received: {given} alone. Expected: both reference_embeddings and "
            "reference_labels, or neither."
        )
    alone = reference_embeddings is None
    queries = references = as_embeddings(embeddings)
    relation = None if relation is None else relations.get(relation)
    if relation is not None and not relation.names_classes:
        if exclude is not None or neighbors != "exact":
            raise ValueError(
                f"A relation of labels that are not classes needs the exact search among all references. Received: "
                f"{relation!r} with neighbors={neighbors!r}{'' if exclude is None else ' and exclude'}. Expected: "
                "neighbors='exact' and exclude=None."
            )
        if not alone:
            references = as_embeddings(reference_embeddings, "reference_embeddings")
            queries, references = same_space(queries, references)
        pairs = RelatedPairs(relation, labels, reference_labels, block_bytes)
        for samples, known, name in ((queries, pairs.labels, "labels"), (references, pairs, "reference_labels")):
            if len(known) != len(samples):
                raise ValueError(
                    f"Labels must be one for each sample. Received: {len(known)} {name} for {len(samples)} embeddings. "
                    "Expected: equal numbers."
                )
        search = NeighborSearch(references, block_bytes)
        mine = _in_part(len(queries), part)
        return related_metrics(search, queries, pairs, ks, mine, _names(ks), _metrics_of_queries)
    query_labels = labels_of_references = as_labels(labels, len(queries))
    if not alone:
        references = as_embeddings(reference_embeddings, "reference_embeddings")
        labels_of_references = as_labels(reference_labels, len(references), "reference_labels")
        queries, references = same_space(queries, references)
    classes, reference_classes = class_numbers(query_labels, labels_of_references)
    excluded = Exclusion.from_groups(exclude, exclude_rule, classes, reference_classes, alone)
    approximate = neighbors == "faiss"
    search = (
        ApproximateSearch(references, probes, block_bytes) if approximate else NeighborSearch(references, block_bytes)
    )
    exact = (lambda: NeighborSearch(references, block_bytes)) if approximate else None
    return _average(search, queries, classes, reference_classes, alone, ks, part, excluded, exact)


def retrieval_metrics_from_distances(
    distances: ArrayLike,
    labels: Labels,
    reference_labels: Labels | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    exclude: Any = None,
    exclude_rule: Literal["class_and_group", "group"] = "class_and_group",
) -> dict[str, float]:
    r"""Compute the metrics of `retrieval_metrics` from a matrix of distances, for example after re-ranking.

    References are ranked by $d_{qr}$; of equally distant references, the one with the lower index comes first.

    Args:
        distances: `(n, m)`. Distance of each query to each reference, of any real type. Infinity is larger than any
            other distance.
        labels: `(n,)` or `(n, 1)`. Classes of the queries, integers or strings.
        reference_labels: `(m,)` or `(m, 1)`. Classes of the references, or `None` if the references are the queries, in
            the same order: then $n = m$, and each query is excluded by its index. Default: `None`.
        ks: Sequence of ints. The k of recall at k. Default: (1, 2, 4, 8).
        exclude: Groups, as for `retrieval_metrics`. Default: `None`.
        exclude_rule: `"class_and_group"` or `"group"`, as for `retrieval_metrics`. Default: `"class_and_group"`.

    Returns:
        dict as from `retrieval_metrics`.

    Raises:
        ValueError: If shapes do not match, distances are NaN, a k is not a positive integer, or `exclude_rule` is
            unknown.
        TypeError: If distances are not numbers, or labels or groups are neither integers nor strings.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.retrieval_metrics_from_distances([[0.5, 0.2, 0.9]], ["a"], ["a", "b", "a"], ks=(2,))
        >>> found["precision_at_1"], found["recall_at_2"], found["map_at_r"]
        (0.0, 1.0, 0.25)
    """
    ks = _check_ks(ks)
    matrix = _as_distances(distances)
    alone = reference_labels is None
    if alone and matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"Distances are not those among the queries. Received: distances of shape {matrix.shape} without "
            "reference_labels. Expected: a square matrix. Pass reference_labels."
        )
    query_labels = labels_of_references = as_labels(labels, len(matrix))
    if not alone:
        labels_of_references = as_labels(reference_labels, matrix.shape[1], "reference_labels")
    classes, reference_classes = class_numbers(query_labels, labels_of_references)
    excluded = Exclusion.from_groups(exclude, exclude_rule, classes, reference_classes, alone)
    return _average(_MatrixSearch(), matrix, classes, reference_classes, alone, ks, None, excluded)


def query_gallery_metrics(
    embeddings: ArrayLike,
    labels: Labels,
    is_query: ArrayLike | None = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    neighbors: Literal["exact", "faiss"] = "exact",
    part: Part | None = None,
    exclude: Labels | None = None,
    exclude_rule: Literal["class_and_group", "group"] = "class_and_group",
    relation: Identifier | None = None,
) -> dict[str, float]:
    """Compute retrieval metrics of images that are divided into queries and gallery, as in the In-shop dataset.

    Args:
        embeddings: `(n, d)`; NumPy array, tensor or nested lists.
        labels: `(n,)` or `(n, 1)`. Classes, integers or strings, or what `relation` compares.
        is_query: bool array `(n,)`: `True` for queries, `False` for the gallery that they are searched in. `None`
            searches each image among all others. Default: `None`.
        ks: Sequence of ints. The k of recall at k. Default: (1, 2, 4, 8).
        neighbors: `"exact"` or `"faiss"`, as for `retrieval_metrics`. Default: `"exact"`.
        part: `(index, count)` or `None`, as for `retrieval_metrics`. Default: `None`.
        exclude: `(n,)`. Groups of all images, such as their cameras, integers or strings. Default: `None`.
        exclude_rule: `"class_and_group"` or `"group"`, as for `retrieval_metrics`. Default: `"class_and_group"`.
        relation: `tfdml.relations.Relation` or `None`, as for `retrieval_metrics`. Default: `None`.

    Returns:
        dict as from `retrieval_metrics`.

    Raises:
        ValueError: If the length of `is_query` or `exclude` is wrong, or there are no queries or no gallery.

    Example:
        >>> from tfdml import metrics
        >>> found = metrics.query_gallery_metrics([[0.0], [1.0], [3.0]], ["a", "a", "b"], [True, False, False])
        >>> found["precision_at_1"], found["queries"]
        (1.0, 1)
    """
    options: dict[str, Any] = {
        "ks": ks, "neighbors": neighbors, "part": part, "exclude_rule": exclude_rule, "relation": relation,
    }  # fmt: skip
    if is_query is None:
        return retrieval_metrics(embeddings, labels, exclude=exclude, **options)
    embeddings, labels = np.asarray(embeddings), np.asarray(labels)
    is_query = squeeze_column(np.asarray(is_query, bool))
    if is_query.shape != labels.shape[:1] or is_query.all() or not is_query.any():
        raise ValueError(
            f"Queries and gallery are not defined. Received: is_query of shape {is_query.shape} with "
            f"{np.count_nonzero(is_query)} queries. Expected: one for each of {len(labels)} labels, some of them "
            "queries and some not."
        )
    if exclude is not None:
        groups = as_labels(exclude, len(labels), "exclude")
        exclude = groups[is_query], groups[~is_query]
    return retrieval_metrics(
        embeddings[is_query], labels[is_query], embeddings[~is_query], labels[~is_query], exclude=exclude, **options
    )


def _average(search, queries, classes, reference_classes, alone, ks, part, excluded=None, exact=None):
    """Average the metrics of all queries.

    Args:
        search: `NeighborSearch` or what has its interface.
        queries: Array `(n, d)`.
        classes: int array `(n,)`. Numbers of the classes of the queries.
        reference_classes: int array `(m,)`. Those of the references.
        alone: bool. Whether the queries are the references.
        ks: The k of recall at k.
        part: As for `retrieval_metrics`.
        excluded: `Exclusion` or `None`. Default: `None`.
        exact: For an approximate search, a function that makes the exact one. Default: `None`.

    Returns:
        dict as from `retrieval_metrics`.
    """
    own = np.arange(len(queries)) if alone else None
    removed = relevant_removed = int(alone)
    if excluded is not None:
        # The query itself is among the references of its class and group.
        own, removed, relevant_removed = excluded.keys, excluded.removed, excluded.relevant
    relevant = np.bincount(reference_classes, minlength=classes.max() + 1)[classes] - relevant_removed
    available = len(reference_classes) - removed
    counts = np.minimum(np.maximum(relevant, max(ks, default=1)), available)
    mine = _in_part(len(queries), part)
    relevant = np.where(mine, relevant, 0)
    counts_query = relevant > 0
    # If every reference is of the query's class, all metrics are 1 in any order, provided that all are found.
    settled = counts_query & (relevant == available) & (exact is None)
    counts[~counts_query | settled] = 0

    def filtered(search):
        return search if excluded is None else FilteredSearch(search, excluded.reference_keys)

    values = {name: np.where(settled, 1.0, np.nan) for name in _names(ks)}
    for rows, found in filtered(search).blocks(queries, counts, own):
        right = (reference_classes[found] == classes[rows, None]) & (found >= 0)
        for name, of_rows in zip(values, _metrics_of_queries(right, relevant[rows], ks)):
            values[name][rows] = of_rows
    number = int(np.count_nonzero(counts_query))
    result = {name: float(value[counts_query].mean()) if number else float("nan") for name, value in values.items()}
    if exact is not None:
        result["neighbor_recall"] = neighbor_recall(filtered(search), filtered(exact()), queries, counts, own)
    return {**result, "queries": number, "queries_without_reference": int(np.count_nonzero(mine)) - number}


class _MatrixSearch:
    """Nearest references by rows of distances, with the interface of `NeighborSearch`."""

    def blocks(self, queries, counts, own=None):
        rows = np.flatnonzero(counts)
        for part in parts(len(rows), 24 * queries.shape[1]):
            block = rows[part]
            if len(block):
                order = np.argsort(queries[block], axis=1, kind="stable")
                keep = np.ones(order.shape, bool) if own is None else order != own[block, None]
                yield block, first_kept(order, keep, counts[block].max())


def _as_distances(distances):
    matrix = np.asarray(distances)
    if matrix.dtype.kind not in "biuf" and matrix.dtype.name != "bfloat16":
        raise TypeError(f"Distances are not numbers. Received: type {matrix.dtype}. Expected: real numbers.")
    if matrix.dtype.name == "bfloat16":
        matrix = matrix.astype(np.float32)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(
            f"Distances have the wrong shape. Received: {matrix.shape}. Expected: (queries, references), at least one "
            "of each."
        )
    bad = sum(np.count_nonzero(np.isnan(matrix[part]).any(axis=1)) for part in parts(len(matrix), matrix.shape[1]))
    if bad:
        raise ValueError(f"Distances are NaN. Received: NaN in {bad} of {len(matrix)} rows. Expected: numbers.")
    return matrix


def _names(ks):
    return ["precision_at_1", *(f"recall_at_{k}" for k in ks), "r_precision", "map_at_r"]


def _metrics_of_queries(right, relevant, ks):
    """Compute the metrics of single queries, in the order of `_names`.

    Args:
        right: bool array `(b, k)`. Whether the i-th neighbor is of the query's class.
        relevant: int array `(b,)`. R of each query, at most k.
        ks: The k of recall at k.

    Yields:
        Arrays `(b,)`.
    """
    places = np.arange(1, right.shape[1] + 1)
    yield right[:, 0]
    for k in ks:
        yield right[:, :k].any(axis=1)
    counted = right & (places <= relevant[:, None])
    hits = np.cumsum(counted, axis=1)
    yield hits[:, -1] / relevant
    # A cumulative sum adds one value at a time, so it does not depend on the other queries of the block.
    yield np.cumsum(np.where(counted, hits / places, 0.0), axis=1)[:, -1] / relevant


def _in_part(count, part):
    """Mask of the queries that belong to a part, `(count,)`."""
    if part is None:
        return np.ones(count, bool)
    index, parts = check_part(part)
    return np.arange(count) % parts == index


def _check_ks(ks):
    try:
        ks = tuple(ks)
    except TypeError:
        raise TypeError(
            f"ks is not a sequence. Received: ks={ks!r}. Expected: a sequence of positive integers, such as (1, 2)."
        ) from None
    # Results are a dict by k, so each k counts once.
    return tuple(dict.fromkeys(check_whole_number("k in ks", k, 1) for k in ks))


def _check_probes(probes):
    if not 0 < probes <= 1:
        raise ValueError(f"probes is out of range. Received: probes={probes!r}. Expected: 0 < probes <= 1.")
    return float(probes)
