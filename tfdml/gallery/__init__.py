"""Searchable collections of embeddings that outlive training."""

from tfdml.gallery.backends import Backend
from tfdml.gallery.gallery import Gallery
from tfdml.gallery.qdrant import QdrantBackend
from tfdml.gallery.report import GalleryReport
from tfdml.gallery.results import Classification, SearchResult
from tfdml.gallery.thresholds import BestF1, Calibration, FalseAcceptRate, OperatingCurve, Precision

__all__ = [
    "Backend",
    "BestF1",
    "Calibration",
    "Classification",
    "FalseAcceptRate",
    "Gallery",
    "GalleryReport",
    "OperatingCurve",
    "Precision",
    "QdrantBackend",
    "SearchResult",
]
