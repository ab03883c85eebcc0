"""Metrics: exact retrieval, nearest neighbors, and the geometry of embeddings."""

from tfdml.metrics.geometry import (
    class_spread,
    covering_radius,
    distance_range,
    geometry_metrics,
    interclass_distance,
    mean_covering_radius,
    proxy_spread,
)
from tfdml.metrics.neighbors import nearest_neighbors
from tfdml.metrics.retrieval import query_gallery_metrics, retrieval_metrics

__all__ = [
    "class_spread",
    "covering_radius",
    "distance_range",
    "geometry_metrics",
    "interclass_distance",
    "mean_covering_radius",
    "nearest_neighbors",
    "proxy_spread",
    "query_gallery_metrics",
    "retrieval_metrics",
]
