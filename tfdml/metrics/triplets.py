"""Triplet accuracy: how often a positive is closer to its anchor than a negative."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from tfdml import relations
from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import ArrayLike, DistanceName, Identifier, Labels
from tfdml.metrics.inputs import as_embeddings, as_labels, class_numbers
from tfdml.metrics.related import RelatedPairs
from tfdml.metrics.search import BLOCK_BYTES
from tfdml.ops import DISTANCES


def triplet_metrics(
    embeddings: ArrayLike,
    labels: Labels | None = None,
    relation: Identifier | None = None,
    triplets: ArrayLike | None = None,
    distance: DistanceName = "l2",
    block_bytes: int = BLOCK_BYTES,
) -> dict[str, float]:
    r"""Compute the triplet accuracy: the share of triplets whose positive is closer to the anchor than the negative.

    Use it for data of which only comparisons are known, or to see how well a relation is learned independently of the
    number of neighbors. With the triplets $T$ of an anchor, a positive and a negative,

    $$\frac{1}{|T|} \sum_{(a, p, n) \in T} [d_{ap} < d_{an}].$$

    Equal distances count as wrong, so embeddings that all coincide have the accuracy 0. $T$ are the given triplets, or
    all triplets of the labels; those are counted by sorting the distances of each anchor, never one by one.

    Args:
        embeddings: `(n, d)`; NumPy array, tensor or nested lists of any real type.
        labels: `(n,)`. Classes, integers or strings, or what `relation` compares. `None` if `triplets` are given.
            Default: `None`.
        relation: `tfdml.relations.Relation`, a name or a configuration, or `None` for classes. Default: `None`.
        triplets: Integers `(t, 3)`. Indices of the embeddings of (anchor, positive, negative), or `None` for all
            triplets of the labels. Default: `None`.
        distance: `"l2"`, `"squared_l2"` or `"cosine"`; the first two are the same here. Default: `"l2"`.
        block_bytes: int. Approximate memory of a block of anchors, in bytes. Default: 2**26.

    Returns:
        dict with the float `"triplet_accuracy"` and the integer `"triplets"`, their number. Without a triplet the
        accuracy is NaN.

    Raises:
        ValueError: If labels and triplets are both given or both missing, an index is out of range, or embeddings or
            labels are invalid.

    Reference:
        Schroff et al., "FaceNet: A unified embedding for face recognition and clustering", CVPR 2015, eq. 1.

    Example:
        >>> from tfdml import metrics
        >>> metrics.triplet_metrics([[0.0], [1.0], [3.0]], ["a", "a", "b"])
        {'triplet_accuracy': 1.0, 'triplets': 2}
    """
    vectors = as_embeddings(embeddings)
    check_choice("distance", distance, DISTANCES)
    block_bytes = check_whole_number("block_bytes", block_bytes, 1)
    kind = "cosine" if distance == "cosine" else "sqeuclidean"
    if (labels is None) == (triplets is None):
        given = "neither" if labels is None else "both"
        raise ValueError(
            f"Triplets are stated by labels or one by one. Received: {given} of labels and triplets. Expected: one of "
            "the two."
        )
    if triplets is not None:
        anchors, positives, negatives = vectors[_checked_triplets(triplets, len(vectors)).T].astype(np.float64)
        correct = _paired(anchors, positives, kind) < _paired(anchors, negatives, kind)
        return _result(np.count_nonzero(correct), len(correct))
    relation = relations.get("same_class" if relation is None else relation)
    if relation.names_classes:
        relation, labels = relations.SameClass(), class_numbers(*[as_labels(labels, len(vectors))] * 2)[0]
    pairs = RelatedPairs(relation, labels, None, block_bytes)
    if len(pairs) != len(vectors):
        raise ValueError(
            f"Labels must be one for each sample. Received: {len(pairs)} labels for {len(vectors)} embeddings. "
            "Expected: equal numbers."
        )
    right, total = 0, 0
    for rows, is_positive, is_negative in pairs.masks(np.arange(len(vectors))):
        distances = cdist(vectors[rows], vectors, kind)
        if kind == "cosine":
            # Vectors of norm 0 have no direction; their cosine counts as 0.
            distances[np.isnan(distances)] = 1.0
        for of_anchor, own, other in zip(distances, is_positive, is_negative):
            far = np.sort(of_anchor[other])
            closer = len(far) - np.searchsorted(far, of_anchor[own], side="right")
            right, total = right + int(closer.sum()), total + len(far) * len(closer)
    return _result(right, total)


def _result(right, total):
    return {"triplet_accuracy": right / total if total else float("nan"), "triplets": total}


def _paired(vectors, others, kind):
    if kind == "sqeuclidean":
        return np.square(vectors - others).sum(axis=1)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(others, axis=1)
    return 1.0 - np.divide((vectors * others).sum(axis=1), lengths, out=np.zeros(len(lengths)), where=lengths > 0)


def _checked_triplets(triplets, count):
    array = np.asarray(triplets)
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "iu" or not len(array):
        raise ValueError(
            f"These are not triplets. Received: an array of shape {array.shape} and type {array.dtype}. Expected: "
            "integers (t, 3), at least one row."
        )
    if array.min() < 0 or array.max() >= count:
        raise ValueError(
            f"Triplets are out of range. Received: indices from {array.min()} to {array.max()} with {count} "
            f"embeddings. Expected: 0 to {count - 1}."
        )
    return array
