"""Metrics of a whole validation dataset, as numbers for the logs."""

import re
from typing import NamedTuple, Optional

import numpy as np

from tfdml.metrics import distance_range, geometry_metrics, query_gallery_metrics
from tfdml.metrics.geometry import some_classes

RECALLS = (1, 2, 4, 8)
RETRIEVAL_LOGS = ("map_at_r", "precision_at_1", "r_precision", *(f"recall_at_{k}" for k in RECALLS))
GEOMETRY_LOGS = ("mean_covering_radius", "interclass_distance", "class_spread")
_RECALL = re.compile(r"recall_at_([1-9][0-9]*)")
# Geometry metrics cost time quadratic in the number of samples.
_MAX_SAMPLES = 4096


class EmbeddedBatch(NamedTuple):
    """Embeddings, labels and loss of a batch or a whole dataset.

    Attributes:
        number: int. Number of the batch, from 0; `None` for a whole dataset.
        embeddings: float array `(n, dim)`.
        labels: array `(n,)`, or what the relation compares.
        is_query: bool array `(n,)`, or `None`.
        loss: float. Mean over the samples.
    """

    number: Optional[int]
    embeddings: np.ndarray
    labels: np.ndarray
    is_query: Optional[np.ndarray]
    loss: float


def collect(parts, workers):
    """Concatenate the batches of all workers into the whole dataset, in its original order.

    Raises:
        ValueError: If there is no batch, or a worker has none.
    """
    smallest = min(workers.gather(np.array([len(parts)]))) if workers.count > 1 else len(parts)
    if not smallest:
        fewer = f" for each of {workers.count} workers" if workers.count > 1 else ""
        raise ValueError(f"There is nothing to evaluate. Received: a dataset without a batch{fewer}.")
    embeddings, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("embeddings", "labels"))
    is_query = None if parts[0].is_query is None else np.concatenate([part.is_query for part in parts])
    if workers.count == 1:
        return EmbeddedBatch(None, embeddings, labels, is_query, mean_loss(parts))
    sizes = [len(part.labels) for part in parts]
    order = np.argsort(workers.gather(np.repeat([part.number for part in parts], sizes)), kind="stable")
    losses = workers.gather(np.repeat([part.loss for part in parts], sizes))
    if is_query is not None:
        is_query = workers.gather(is_query.astype(np.int32)).astype(bool)[order]
    return EmbeddedBatch(
        None, workers.gather(embeddings)[order], workers.gather(labels)[order], is_query, float(np.mean(losses))
    )


def mean_loss(parts):
    """Return the mean loss over the samples of several batches."""
    return float(np.average([part.loss for part in parts], weights=[len(part.labels) for part in parts]))


def is_retrieval_name(name):
    """Return whether a name is in `RETRIEVAL_LOGS` or has the form `"recall_at_<k>"`."""
    return isinstance(name, str) and (name in RETRIEVAL_LOGS or _RECALL.fullmatch(name) is not None)


def check_retrieval_names(names):
    """Return the names of retrieval metrics as a tuple.

    Args:
        names: str or sequence of str. Names of `RETRIEVAL_LOGS`, or `"recall_at_<k>"` for any k. `None` means all of
            `RETRIEVAL_LOGS`.

    Raises:
        ValueError: If a name is unknown. The message lists the known names.
    """
    if names is None:
        return RETRIEVAL_LOGS
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if not is_retrieval_name(name):
            raise ValueError(
                "MetricModel computes retrieval metrics of the whole dataset, not metrics averaged over batches. "
                f"Received: metrics={list(names)!r}. Expected: names of {', '.join(RETRIEVAL_LOGS[:3])}, "
                "recall_at_<k>. Compute other metrics in a callback, with `tfdml.models.embed`."
            )
    return tuple(dict.fromkeys(names))


def retrieval_logs(embeddings, labels, is_query=None, workers=None, names=RETRIEVAL_LOGS, relation=None):
    """Compute exact retrieval metrics; NaN if an embedding is not finite.

    Args:
        embeddings: float array `(n, dim)`.
        labels: array `(n,)`.
        is_query: bool array `(n,)`. Queries are searched in a gallery of the other samples. `None` searches each sample
            among all others. Default `None`.
        workers: `Workers` that share the queries; each has the whole dataset. `None` evaluates all queries in this
            process. Default `None`.
        names: Names of the metrics, in the order of the result.
        relation: `Relation` of the labels, or `None` for classes. Default `None`.
    """
    if not np.isfinite(embeddings).all():
        return dict.fromkeys(names, float("nan"))
    ks = tuple(int(name[len("recall_at_") :]) for name in names if _RECALL.fullmatch(name)) or (1,)
    if workers is None or workers.count == 1:
        values = query_gallery_metrics(embeddings, labels, is_query, ks=ks, relation=relation)
        return {name: float(values[name]) for name in names}
    part = (workers.index, workers.count)
    values = query_gallery_metrics(embeddings, labels, is_query, ks=ks, part=part, relation=relation)
    counts = workers.gather(np.array([values["queries"]], np.float64))
    of_parts = workers.gather(np.array([[values[name] for name in names]], np.float64))
    if not counts.sum():
        return dict.fromkeys(names, float("nan"))
    # The averages of a part without valid queries are NaN; their weight is 0.
    means = np.average(np.nan_to_num(of_parts), axis=0, weights=counts)
    return dict(zip(names, map(float, means)))


def geometry_logs(embeddings, labels, required=None):
    """Compute geometry metrics of at most 4,096 samples; NaN if an embedding is not finite.

    Args:
        embeddings: float array `(n, dim)`.
        labels: array `(n,)`.
        required: `tfdml.losses.MarginRequirements` of the loss, or `None`.

    Returns:
        Pair of a dict of metrics, with `margin_slack` if `required` is given, and a warning text if no triplet of these
        samples can satisfy the margins, else `None`.
    """
    if not np.isfinite(embeddings).all():
        names = GEOMETRY_LOGS if required is None else (*GEOMETRY_LOGS, "margin_slack")
        return dict.fromkeys(names, float("nan")), None
    embeddings, labels = some_classes(embeddings, labels, _MAX_SAMPLES)
    logs = geometry_metrics(embeddings, labels)
    if required is None:
        return logs, None
    largest, smallest = distance_range(embeddings, labels, required.distance)
    logs["margin_slack"] = largest - smallest - required.gap
    if not logs["margin_slack"] < 0:
        return logs, None
    return logs, (
        f"No triplet of these samples can satisfy the margins of the loss: distances between classes are at most "
        f"{largest:.4g}, distances within classes at least {smallest:.4g}, and the margins require a difference of "
        f"{required.gap:g}."
    )
