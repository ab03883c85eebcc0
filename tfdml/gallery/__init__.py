"""Searchable collections of embeddings that outlive training."""

from tfdml.gallery.backends import Backend
from tfdml.gallery.gallery import Gallery
from tfdml.gallery.k_reciprocal import k_reciprocal_distances, k_reciprocal_from_distances
from tfdml.gallery.parquet import add_parquet, gallery_from_parquet
from tfdml.gallery.qdrant import QdrantBackend
from tfdml.gallery.report import GalleryReport
from tfdml.gallery.reranking import (
    CandidateSource,
    KReciprocal,
    LabelLimit,
    MarginalRelevance,
    QueryExpansion,
    expand_queries,
    limit_per_label,
    marginal_relevance,
)
from tfdml.gallery.results import Classification, SearchResult
from tfdml.gallery.thresholds import BestF1, Calibration, FalseAcceptRate, OperatingCurve, Precision

__all__ = [
    "Backend",
    "BestF1",
    "Calibration",
    "CandidateSource",
    "Classification",
    "FalseAcceptRate",
    "Gallery",
    "GalleryReport",
    "KReciprocal",
    "LabelLimit",
    "MarginalRelevance",
    "OperatingCurve",
    "Precision",
    "QdrantBackend",
    "QueryExpansion",
    "SearchResult",
    "add_parquet",
    "expand_queries",
    "gallery_from_parquet",
    "k_reciprocal_distances",
    "k_reciprocal_from_distances",
    "limit_per_label",
    "marginal_relevance",
]
