"""Every picture: functions of arrays that return a `matplotlib.figure.Figure` and leave pyplot alone."""

from tfdml.plots.attribute_histograms import attribute_histograms
from tfdml.plots.class_hulls import HullPanel, class_hulls
from tfdml.plots.curves import training_curve
from tfdml.plots.dot_plot import dot_plot
from tfdml.plots.effect_pareto import EffectPanel, effect_pareto
from tfdml.plots.embedding_panels import embedding_panels
from tfdml.plots.embeddings import embedding_map
from tfdml.plots.files import save
from tfdml.plots.histogram import histogram
from tfdml.plots.line_panels import LinePanel, line_panels
from tfdml.plots.lines import lines
from tfdml.plots.neighbors import nearest_neighbors
from tfdml.plots.pooling import pooling_maps
from tfdml.plots.prototype_combinations import prototype_combinations
from tfdml.plots.prototype_cover import prototype_cover
from tfdml.plots.prototype_maps import prototype_maps
from tfdml.plots.proxy_plane import ProxyPanel, proxy_plane
from tfdml.plots.ranking import ranking
from tfdml.plots.response_surface import response_surface
from tfdml.plots.weight_grid import weight_grid

__all__ = [
    "EffectPanel",
    "HullPanel",
    "LinePanel",
    "ProxyPanel",
    "attribute_histograms",
    "class_hulls",
    "dot_plot",
    "effect_pareto",
    "embedding_map",
    "embedding_panels",
    "histogram",
    "line_panels",
    "lines",
    "nearest_neighbors",
    "pooling_maps",
    "prototype_combinations",
    "prototype_cover",
    "prototype_maps",
    "proxy_plane",
    "ranking",
    "response_surface",
    "save",
    "training_curve",
    "weight_grid",
]
