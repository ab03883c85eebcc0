"""Miners by name."""

from __future__ import annotations

from typing import Any

from tfdml._utils.registry import Registry
from tfdml.miners.base import Miner
from tfdml.miners.distance_weighted import DistanceWeightedMiner
from tfdml.miners.hard import HardMiner
from tfdml.miners.hard_negative import HardNegativeMiner
from tfdml.miners.multi_similarity import MultiSimilarityMiner
from tfdml.miners.semi_hard import SemiHardMiner

_REGISTRY = Registry(
    "miner",
    Miner,
    {
        "distance_weighted": DistanceWeightedMiner,
        "hard": HardMiner,
        "hard_negative": HardNegativeMiner,
        "multi_similarity": MultiSimilarityMiner,
        "semi_hard": SemiHardMiner,
    },
)

names, register, serialize, deserialize = (
    _REGISTRY.names, _REGISTRY.register, _REGISTRY.serialize, _REGISTRY.deserialize,
)  # fmt: skip


def get(identifier: Any, **options: Any) -> Miner:
    """Create a miner from an identifier.

    Args:
        identifier: One of: a name from `names()` or of a class (`"HardMiner"`); a class; a configuration from
            `serialize`; or a `Miner`, which is returned unchanged.
        **options: Arguments of the miner, if the identifier is a name or a class.

    Returns:
        A `Miner`.

    Raises:
        ValueError: If the name is unknown (the message suggests the closest one) or does not accept an option.
        TypeError: If the identifier is none of these.

    Example:
        >>> from tfdml import miners
        >>> miners.get("hard", distance="cosine").distance
        'cosine'
    """
    return _REGISTRY.get(identifier, **options)
