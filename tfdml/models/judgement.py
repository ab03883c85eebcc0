"""What the embeddings of a whole validation set say, as numbers for the logs."""

import numpy as np

from tfdml.metrics import distance_range, geometry_metrics, query_gallery_metrics
from tfdml.metrics.geometry import some_classes

RECALLS = (1, 2, 4, 8)
RETRIEVAL_LOGS = ("map_at_r", "precision_at_1", "r_precision", *(f"recall_at_{k}" for k in RECALLS))
GEOMETRY_LOGS = ("mean_covering_radius", "interclass_distance", "class_spread")
# The cost of geometry grows with the square of the samples.
_MAX_SAMPLES = 4096


def retrieval_logs(embeddings, labels, is_query=None):
    """Exact retrieval metrics; NaN if an embedding is not finite.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        is_query: `(n,)` bools, to find queries in a gallery of the others; `None` to find each among all others.
    """
    if not np.isfinite(embeddings).all():
        return dict.fromkeys(RETRIEVAL_LOGS, float("nan"))
    values = query_gallery_metrics(embeddings, labels, is_query, ks=RECALLS)
    return {name: float(values[name]) for name in RETRIEVAL_LOGS}


def geometry_logs(embeddings, labels, separation=None):
    """Geometry metrics, of at most 4,096 samples; NaN if an embedding is not finite.

    Args:
        embeddings: `(n, d)`.
        labels: `(n,)`.
        separation: What the loss asks of distances, a `tfdml.losses.Separation`, or `None`.

    Returns:
        A dict, with `margin_slack` if there is a separation, and a sentence that says so if no triplet of these samples
        can meet its margins, else `None`.
    """
    if not np.isfinite(embeddings).all():
        names = GEOMETRY_LOGS if separation is None else (*GEOMETRY_LOGS, "margin_slack")
        return dict.fromkeys(names, float("nan")), None
    embeddings, labels = some_classes(embeddings, labels, _MAX_SAMPLES)
    logs = geometry_metrics(embeddings, labels)
    if separation is None:
        return logs, None
    largest, smallest = distance_range(embeddings, labels, separation.distance)
    logs["margin_slack"] = largest - smallest - separation.gap
    if not logs["margin_slack"] < 0:
        return logs, None
    return logs, (
        f"No triplet of these samples can meet the margins of the loss: their distances between classes are at most "
        f"{largest:.4g}, within classes at least {smallest:.4g}, and the margins ask for a difference of "
        f"{separation.gap:g}."
    )
