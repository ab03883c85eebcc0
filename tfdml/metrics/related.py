"""Retrieval metrics by a relation of labels that are not classes."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdml.metrics.exclusion import first_kept

# Further neighbors that the first search finds, at least as many as are needed.
_FURTHER = 64
_GROWTH = 4
# Bytes of one pair of labels while it is compared.
_PAIR_BYTES = 64


class RelatedPairs:
    """Pairs of queries and references by a relation, compared block by block.

    Args:
        relation: `Relation`.
        labels: Labels of the queries.
        reference_labels: Labels of the references, or `None` if they are the queries.
        block_bytes: int. Approximate memory of a block.
        names: Names of the two arguments in messages.

    Attributes:
        positives: int array `(n,)`. Number of positive references of each query, itself excluded.
        neutral: int array `(n,)`. Number of references that count for nothing for each query, itself excluded.
    """

    def __init__(self, relation, labels, reference_labels, block_bytes, names=("labels", "reference_labels")):
        self.relation, self.alone, self.block_bytes = relation, reference_labels is None, block_bytes
        with tf.device("/CPU:0"):
            self.labels = _encoded(relation, labels, names[0])
            self.reference_labels = self.labels if self.alone else _encoded(relation, reference_labels, names[1])
        self.positives, self.neutral = np.zeros((2, len(self.labels)), np.int64)
        for rows, positives, negatives in self.masks(np.arange(len(self.labels))):
            self.positives[rows] = positives.sum(axis=1)
            self.neutral[rows] = len(self) - self.alone - self.positives[rows] - negatives.sum(axis=1)

    def __len__(self):
        return len(self.reference_labels)

    def blocks(self, rows):
        """Yield parts of an array of queries, each with few enough pairs."""
        size = max(1, int(self.block_bytes // (_PAIR_BYTES * len(self))))
        for start in range(0, len(rows), size):
            yield rows[start : start + size]

    def masks(self, rows):
        """Yield (some of the rows, positives, negatives): bool arrays `(b, references)` without each query itself."""
        for some in self.blocks(rows):
            with tf.device("/CPU:0"):
                masks = self.relation.masks(tf.gather(self.labels, some), self.reference_labels)
            positives, negatives = (np.array(mask) for mask in masks)
            both = np.count_nonzero(positives & negatives)
            if both:
                raise ValueError(
                    f"Pairs contradict each other. Received: {both} pairs that are positive and negative, of "
                    f"{self.relation!r}. Expected: disjoint masks."
                )
            if self.alone:
                positives[np.arange(len(some)), some] = negatives[np.arange(len(some)), some] = False
            yield some, positives, negatives

    def relevance(self, rows):
        """Yield (some of the rows, float32 array `(b, references)`); the queries themselves have relevance 0."""
        for some in self.blocks(rows):
            with tf.device("/CPU:0"):
                relevance = np.array(self.relation.relevance(tf.gather(self.labels, some), self.reference_labels))
            if self.alone:
                relevance[np.arange(len(some)), some] = 0.0
            yield some, relevance


def _encoded(relation, labels, name):
    try:
        return relation.encode(labels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def related_metrics(search, queries, pairs, ks, mine, names, metrics_of_queries):
    """Average retrieval metrics by a relation.

    Args:
        search: `NeighborSearch`.
        queries: Array `(n, d)`.
        pairs: `RelatedPairs`.
        ks: The k of recall at k.
        mine: bool array `(n,)`. The queries that are evaluated.
        names: Names of the metrics.
        metrics_of_queries: Function of (correct neighbors, number of relevant references, ks), as in `retrieval`.

    Returns:
        dict as from `retrieval_metrics`.
    """
    relevant = np.where(mine, pairs.positives, 0)
    counted = relevant > 0
    available = len(pairs) - pairs.alone
    furthest = max(ks, default=1)
    needed = np.minimum(np.maximum(relevant, furthest), available - pairs.neutral)
    # Graded relevance ranks all references, also those that count for nothing.
    graded = min(furthest, available) if pairs.relation.is_graded else 0
    most = np.where(counted, np.maximum(needed + pairs.neutral, graded), 0)
    widths = np.minimum(most, np.maximum(np.maximum(2 * needed, needed + _FURTHER), graded))
    values = {name: np.full(len(queries), np.nan) for name in names}
    gains = {f"ndcg_at_{k}": np.full(len(queries), np.nan) for k in ks if graded}
    own = np.arange(len(queries)) if pairs.alone else None
    while widths.any():
        next_widths = np.zeros_like(widths)
        for rows, found in search.blocks(queries, widths, own):
            width, first = found.shape[1], 0
            for some, positives, negatives in pairs.masks(rows):
                neighbors = found[first : first + len(some)]
                first += len(some)
                counts = np.take_along_axis(positives | negatives, neighbors, axis=1)
                short = (counts.sum(axis=1) < needed[some]) & (width < most[some])
                next_widths[some[short]] = np.minimum(most[some[short]], _GROWTH * width)
                done, neighbors = some[~short], neighbors[~short]
                if not len(done):
                    continue
                kept = first_kept(neighbors, counts[~short], needed[done].max())
                right = np.take_along_axis(positives[~short], kept, axis=1) & (kept >= 0)
                for name, of_rows in zip(values, metrics_of_queries(right, relevant[done], ks)):
                    values[name][done] = of_rows
                if graded:
                    _add_gains(gains, pairs, done, neighbors, ks)
        widths = next_widths
    number = int(np.count_nonzero(counted))
    result = {
        name: float(value[counted].mean()) if number else float("nan") for name, value in {**values, **gains}.items()
    }
    return {**result, "queries": number, "queries_without_reference": int(np.count_nonzero(mine)) - number}


def _add_gains(gains, pairs, rows, neighbors, ks):
    """Set the normalized discounted cumulative gains of some queries."""
    first = 0
    for some, relevance in pairs.relevance(rows):
        near = neighbors[first : first + len(some)]
        first += len(some)
        k = min(max(ks), relevance.shape[1] - pairs.alone)
        discounts = 1.0 / np.log2(np.arange(2, k + 2))
        found = np.take_along_axis(relevance, near[:, :k], axis=1) * discounts[: near.shape[1]]
        best = -np.sort(np.partition(-relevance, k - 1, axis=1)[:, :k], axis=1) * discounts
        for name, at in zip(gains, ks):
            gains[name][some] = found[:, :at].sum(axis=1) / best[:, :at].sum(axis=1)
