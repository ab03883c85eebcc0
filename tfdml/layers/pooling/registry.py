"""Poolings by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from tfdml._utils.registry import Registry
from tfdml.layers.pooling.average_max_pooling import AverageMaxPooling
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
from tfdml.layers.pooling.smk_pooling import SMKPooling
from tfdml.layers.pooling.solar_pooling import SOLARPooling
from tfdml.layers.pooling.weldon_pooling import WELDONPooling

_FACTORIES: dict[str, Callable[..., Any]] = {
    "cbam": CBAMPooling,
    "crow": CroWPooling,
    "delf": DeLFPooling,
    "gap": GlobalAveragePooling,
    "gap_gmp": AverageMaxPooling,
    "generalized_max": GeneralizedMaxPooling,
    "generalized_mean": GeneralizedMeanPooling,
    "gmp": GlobalMaxPooling,
    "gsop": GSoPPooling,
    "gsp": GeneralizedSumPooling,
    "gsp_gem": GeneralizedSumMeanPooling,
    "gsp_gmp": GeneralizedSumMaxPooling,
    "netvlad": NetVLAD,
    "netvlad_64x128": functools.partial(NetVLAD, prototypes=64, channels=128),
    "netvlad_8x16": functools.partial(NetVLAD, prototypes=8, channels=16),
    "optimal_transport": OptimalTransportPooling,
    "optimal_transport_64x128": functools.partial(OptimalTransportPooling, prototypes=64, channels=128),
    "optimal_transport_8x16": functools.partial(OptimalTransportPooling, prototypes=8, channels=16),
    "smk": SMKPooling,
    "solar": SOLARPooling,
    "weldon": WELDONPooling,
}


_REGISTRY = Registry("pooling", keras.layers.Layer, _FACTORIES)

names, register, serialize, deserialize = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize,
)  # fmt: skip


def get(identifier: Any, **options: Any) -> keras.layers.Layer:
    """Create a pooling layer from an identifier.

    `build_embedder` accepts the same names. Start with `"gap"` or `"gap_gmp"`, and compare `"gsp"` if the object fills
    only a part of the image.

    Args:
        identifier: One of: a name from `names()` or of a class (`"GeneralizedSumPooling"`); a class; a configuration
            from `serialize`; or a Keras layer, which is returned unchanged.
        **options: Arguments of the layer, if the identifier is a name or a class.

    Returns:
        A `keras.layers.Layer` from feature maps `(b, h, w, d)` to vectors.

    Raises:
        ValueError: If the name is unknown (the message suggests the closest one) or does not accept an option.
        TypeError: If the identifier is none of these.

    Example:
        >>> from tfdml.layers import pooling
        >>> pooling.get("gsp", ratio=0.2).ratio
        0.2
        >>> pooling.get("netvlad_8x16").prototypes
        8
    """
    return _REGISTRY.get(identifier, **options)
