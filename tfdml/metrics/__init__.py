"""Metrics: exact retrieval, verification, unknown classes, nearest neighbors, and the geometry of embeddings."""

from tfdml.metrics.geometry import (
    class_spread,
    covering_radius,
    distance_range,
    geometry_metrics,
    interclass_distance,
    mean_covering_radius,
    proxy_spread,
)
from tfdml.metrics.localization import localization_metrics
from tfdml.metrics.neighbors import nearest_neighbors
from tfdml.metrics.out_of_distribution import (
    MahalanobisScore,
    NeighborScore,
    PrototypeScore,
    out_of_distribution_metrics,
    validation_threshold,
)
from tfdml.metrics.pairs import pair_distances
from tfdml.metrics.ranking import ranked_list_metrics, ranking_metrics
from tfdml.metrics.retrieval import query_gallery_metrics, retrieval_metrics, retrieval_metrics_from_distances
from tfdml.metrics.triplets import triplet_metrics
from tfdml.metrics.verification import verification_metrics

__all__ = [
    "MahalanobisScore",
    "NeighborScore",
    "PrototypeScore",
    "class_spread",
    "covering_radius",
    "distance_range",
    "geometry_metrics",
    "interclass_distance",
    "localization_metrics",
    "mean_covering_radius",
    "nearest_neighbors",
    "out_of_distribution_metrics",
    "pair_distances",
    "proxy_spread",
    "query_gallery_metrics",
    "ranked_list_metrics",
    "ranking_metrics",
    "retrieval_metrics",
    "retrieval_metrics_from_distances",
    "triplet_metrics",
    "validation_threshold",
    "verification_metrics",
]
