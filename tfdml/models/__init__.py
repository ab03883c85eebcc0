"""Embedders and the models that train them."""

from tfdml._utils.naming import former_names
from tfdml.models.batches import image_batches
from tfdml.models.ccp_model import CCPModel
from tfdml.models.collaborative_model import CollaborativeModel
from tfdml.models.distribution import Workers, workers_of
from tfdml.models.dual_encoder import DualEncoder
from tfdml.models.embedder import (
    adapt_pooling,
    build_embedder,
    calibrate_batch_norm,
    embed,
    inference_function,
    local_features,
    pooling_maps,
    with_attributes,
)
from tfdml.models.head import build_head
from tfdml.models.metric_model import MetricModel
from tfdml.models.mixing import CutMix, Mixup
from tfdml.models.parameter_groups import ParameterGroup, freeze_batch_norm, freeze_layers, layer_decay_groups
from tfdml.models.schedules import LinearDecay
from tfdml.models.snapshot import WeightSnapshot

__all__ = [
    "CCPModel",
    "CollaborativeModel",
    "CutMix",
    "DualEncoder",
    "Workers",
    "LinearDecay",
    "MetricModel",
    "Mixup",
    "ParameterGroup",
    "WeightSnapshot",
    "adapt_pooling",
    "build_embedder",
    "build_head",
    "workers_of",
    "embed",
    "freeze_batch_norm",
    "freeze_layers",
    "image_batches",
    "inference_function",
    "layer_decay_groups",
    "local_features",
    "pooling_maps",
    "calibrate_batch_norm",
    "with_attributes",
]

__getattr__ = former_names(__name__, settle_batch_normalization="calibrate_batch_norm")
