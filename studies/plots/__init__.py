"""Figures of the studies."""

from studies.plots.attribute_histograms import attribute_histograms
from studies.plots.class_hulls import HullPanel, class_hulls
from studies.plots.dot_plot import dot_plot
from studies.plots.effect_pareto import EffectPanel, effect_pareto
from studies.plots.embedding_panels import embedding_panels
from studies.plots.histogram import histogram
from studies.plots.line_panels import LinePanel, line_panels
from studies.plots.lines import lines
from studies.plots.neighbor_rows import neighbor_rows
from studies.plots.prototype_combinations import prototype_combinations
from studies.plots.prototype_cover import prototype_cover
from studies.plots.prototype_maps import prototype_maps
from studies.plots.proxy_plane import ProxyPanel, proxy_plane
from studies.plots.ranking import ranking
from studies.plots.response_surface import response_surface
from studies.plots.weight_grid import weight_grid

__all__ = [
    "EffectPanel",
    "HullPanel",
    "LinePanel",
    "ProxyPanel",
    "attribute_histograms",
    "class_hulls",
    "dot_plot",
    "effect_pareto",
    "embedding_panels",
    "histogram",
    "line_panels",
    "lines",
    "neighbor_rows",
    "prototype_combinations",
    "prototype_cover",
    "prototype_maps",
    "proxy_plane",
    "ranking",
    "response_surface",
    "weight_grid",
]
