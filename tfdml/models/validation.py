"""What the embeddings of a whole validation set say, as numbers for the logs."""

import re
from typing import NamedTuple, Optional

import numpy as np

from tfdml.metrics import distance_range, geometry_metrics, query_gallery_metrics
from tfdml.metrics.geometry import some_classes

RECALLS = (1, 2, 4, 8)
RETRIEVAL_LOGS = ("map_at_r", "precision_at_1", "r_precision", *(f"recall_at_{k}" for k in RECALLS))
GEOMETRY_LOGS = ("mean_covering_radius", "interclass_distance", "class_spread")
_RECALL = re.compile(r"recall_at_([1-9][0-9]*)")
# The cost of geometry grows with the square of the samples.
_MAX_SAMPLES = 4096


class EmbeddedBatch(NamedTuple):
    """A batch, or a whole set, as an evaluation has it.

    Attributes:
        number: Of the batch, from 0; `None` for a set.
        embeddings: `(n, d)`.
        labels: `(n,)`.
        is_query: `(n,)` bools, or `None`.
        loss: The mean over the samples.
    """

    number: Optional[int]
    embeddings: np.ndarray
    labels: np.ndarray
    is_query: Optional[np.ndarray]
    loss: float


def collect(parts, workers):
    """The whole set from the batches of all workers, in its order.

    Raises:
        ValueError: If there is no batch, or not for every worker.
    """
    smallest = min(workers.gather(np.array([len(parts)]))) if workers.count > 1 else len(parts)
    if not smallest:
        fewer = f" for each of {workers.count} workers" if workers.count > 1 else ""
        raise ValueError(f"There is nothing to evaluate. Received: a data set without a batch{fewer}.")
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
    """The mean loss of the samples of some batches."""
    return float(np.average([part.loss for part in parts], weights=[len(part.labels) for part in parts]))


def is_retrieval_name(name):
    """Whether this is a name of `RETRIEVAL_LOGS`, or `"recall_at_<k>"` of any k."""
    return isinstance(name, str) and (name in RETRIEVAL_LOGS or _RECALL.fullmatch(name) is not None)


def check_retrieval_names(names):
    """The names of retrieval metrics as a tuple, or an error that names those that exist.

    Args:
        names: Names of `RETRIEVAL_LOGS`, or `"recall_at_<k>"` of any k; `None` for all of `RETRIEVAL_LOGS`.

    Raises:
        ValueError: If a metric is not one of them.
    """
    if names is None:
        return RETRIEVAL_LOGS
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        if not is_retrieval_name(name):
            raise ValueError(
                f"MetricModel computes retrieval metrics of the whole dataset, and no metrics of batches. Received: "
                f"metrics={list(names)!r}. Expected: names of {', '.join(RETRIEVAL_LOGS[:3])}, recall_at_<k>. Compute "
                "other metrics in a callback, from `tfdml.models.embed`."
            )
    return tuple(dict.fromkeys(names))


def retrieval_logs(embeddings, labels, is_query=None, workers=None, names=RETRIEVAL_LOGS):
    """Exact retrieval metrics; NaN if an embedding is not finite.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        is_query: `(n,)` bools, to find queries in a gallery of the others; `None` to find each among all others.
        workers: The `Workers` whose workers share the queries, all of which have the whole set; `None` judges all here.
        names: Of the metrics, in their order.
    """
    if not np.isfinite(embeddings).all():
        return dict.fromkeys(names, float("nan"))
    ks = tuple(int(name[len("recall_at_") :]) for name in names if _RECALL.fullmatch(name)) or (1,)
    if workers is None or workers.count == 1:
        values = query_gallery_metrics(embeddings, labels, is_query, ks=ks)
        return {name: float(values[name]) for name in names}
    values = query_gallery_metrics(embeddings, labels, is_query, ks=ks, part=(workers.index, workers.count))
    counts = workers.gather(np.array([values["queries"]], np.float64))
    of_parts = workers.gather(np.array([[values[name] for name in names]], np.float64))
    if not counts.sum():
        return dict.fromkeys(names, float("nan"))
    # A part without a query that counts has no averages.
    means = np.average(np.nan_to_num(of_parts), axis=0, weights=counts)
    return dict(zip(names, map(float, means)))


def geometry_logs(embeddings, labels, required=None):
    """Geometry metrics, of at most 4,096 samples; NaN if an embedding is not finite.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        required: What the loss asks of distances, a `tfdml.losses.MarginRequirements`, or `None`.

    Returns:
        A dict, with `margin_slack` if `required` is given, and a sentence that says so if no triplet of these samples
        can meet its margins, else `None`.
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
        f"No triplet of these samples can meet the margins of the loss: their distances between classes are at most "
        f"{largest:.4g}, within classes at least {smallest:.4g}, and the margins ask for a difference of "
        f"{required.gap:g}."
    )
