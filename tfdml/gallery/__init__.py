"""Searchable collections of embeddings that outlive training."""

from tfdml.gallery.gallery import Gallery
from tfdml.gallery.results import Classification, SearchResult
from tfdml.gallery.thresholds import BestF1, Calibration, FalseAcceptRate, OperatingCurve, Precision

__all__ = [
    "BestF1",
    "Calibration",
    "Classification",
    "FalseAcceptRate",
    "Gallery",
    "OperatingCurve",
    "Precision",
    "SearchResult",
]
