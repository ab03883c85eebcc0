"""Miners by name."""

from tfdml._utils.naming import resolve
from tfdml.miners.base import Miner
from tfdml.miners.distance_weighted import DistanceWeightedMiner
from tfdml.miners.hard import HardMiner
from tfdml.miners.multi_similarity import MultiSimilarityMiner
from tfdml.miners.semi_hard import SemiHardMiner

_FACTORIES = {
    "distance_weighted": DistanceWeightedMiner,
    "hard": HardMiner,
    "multi_similarity": MultiSimilarityMiner,
    "semi_hard": SemiHardMiner,
}


def miner_names():
    """The names that `get` knows, sorted."""
    return sorted(_FACTORIES)


def get(identifier, **options):
    """A miner from its name, its configuration, or itself.

    Args:
        identifier: A name of `miner_names()`, a serialised miner (as `keras.saving.serialize_keras_object` gives), or
            a `Miner`, which is returned as it is.
        **options: Arguments of the miner, for a name.

    Returns:
        A `Miner`.

    Raises:
        ValueError: If the name is unknown (the nearest one is suggested) or takes no such option.
        TypeError: If the identifier is none of these.

    Example:
        >>> get("hard", distance="cosine").distance
        'cosine'
    """
    return resolve("miner", identifier, _FACTORIES, Miner, options)
