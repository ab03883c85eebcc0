"""Figures: functions of arrays that return a `matplotlib.figure.Figure` without using pyplot, and files for others."""

from tfdml.plots.curves import training_curve
from tfdml.plots.embeddings import embedding_map
from tfdml.plots.files import save
from tfdml.plots.neighbors import nearest_neighbors
from tfdml.plots.pooling import pooling_maps
from tfdml.plots.projector import save_projector
from tfdml.plots.searches import search_sheet
from tfdml.plots.thresholds import distance_histogram, operating_curve, precision_recall_curve, roc_curve

__all__ = [
    "distance_histogram",
    "embedding_map",
    "nearest_neighbors",
    "operating_curve",
    "pooling_maps",
    "precision_recall_curve",
    "roc_curve",
    "save",
    "save_projector",
    "search_sheet",
    "training_curve",
]
