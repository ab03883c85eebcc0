"""Layers that pool local features into one vector per image."""

from tfdml._utils.naming import former_names
from tfdml.layers.pooling.average_max_pooling import AverageMaxPooling
from tfdml.layers.pooling.base import Pooling, WeightedPooling
from tfdml.layers.pooling.cbam_pooling import CBAMPooling
from tfdml.layers.pooling.crow_pooling import CroWPooling
from tfdml.layers.pooling.delf_pooling import DeLFPooling
from tfdml.layers.pooling.generalized_max_pooling import GeneralizedMaxPooling
from tfdml.layers.pooling.generalized_mean_pooling import GeneralizedMeanPooling
from tfdml.layers.pooling.generalized_sum_max_pooling import GeneralizedSumMaxPooling
from tfdml.layers.pooling.generalized_sum_mean_pooling import GeneralizedSumMeanPooling
from tfdml.layers.pooling.generalized_sum_pooling import GeneralizedSumPooling
from tfdml.layers.pooling.global_average_pooling import GlobalAveragePooling
from tfdml.layers.pooling.global_max_pooling import GlobalMaxPooling
from tfdml.layers.pooling.gsop_pooling import GSoPPooling
from tfdml.layers.pooling.netvlad import NetVLAD
from tfdml.layers.pooling.optimal_transport_pooling import OptimalTransportPooling
from tfdml.layers.pooling.prototypes import PrototypePooling
from tfdml.layers.pooling.registry import deserialize, get, names, register, serialize
from tfdml.layers.pooling.smk_pooling import SMKPooling
from tfdml.layers.pooling.solar_pooling import SOLARPooling
from tfdml.layers.pooling.weldon_pooling import WELDONPooling

__all__ = [
    "AverageMaxPooling",
    "CBAMPooling",
    "CroWPooling",
    "DeLFPooling",
    "GSoPPooling",
    "GeneralizedMaxPooling",
    "GeneralizedMeanPooling",
    "GeneralizedSumMaxPooling",
    "GeneralizedSumMeanPooling",
    "GeneralizedSumPooling",
    "GlobalAveragePooling",
    "GlobalMaxPooling",
    "NetVLAD",
    "OptimalTransportPooling",
    "Pooling",
    "PrototypePooling",
    "SMKPooling",
    "SOLARPooling",
    "WELDONPooling",
    "WeightedPooling",
    "deserialize",
    "get",
    "names",
    "register",
    "serialize",
]

__getattr__ = former_names(__name__, pooling_names="names", get_pooling="get")
