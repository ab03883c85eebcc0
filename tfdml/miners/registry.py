"""Miners by name."""

from __future__ import annotations

from typing import Any

from tfdml._utils.registry import Registry
from tfdml.miners.base import Miner
from tfdml.miners.distance_weighted import DistanceWeightedMiner
from tfdml.miners.hard import HardMiner
from tfdml.miners.multi_similarity import MultiSimilarityMiner
from tfdml.miners.semi_hard import SemiHardMiner

_REGISTRY = Registry(
    "miner",
    Miner,
    {
        "distance_weighted": DistanceWeightedMiner,
        "hard": HardMiner,
        "multi_similarity": MultiSimilarityMiner,
        "semi_hard": SemiHardMiner,
    },
)

names, register, serialize, deserialize = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize,
)  # fmt: skip


def get(identifier: Any, **options: Any) -> Miner:
    """Makes a miner from an identifier.

    Args:
        identifier: A name of `names()` or of a class (`"HardMiner"`); a class; a configuration, as `serialize` gives
            it; or a `Miner`, which is returned as it is.
        **options: Options of the miner, for a name or a class.

    Returns:
        A `Miner`.

    Raises:
        ValueError: If the name is unknown (the nearest one is suggested) or takes no such option.
        TypeError: If the identifier is none of these.

    Example:
        >>> get("hard", distance="cosine").distance
        'cosine'
    """
    return _REGISTRY.get(identifier, **options)
