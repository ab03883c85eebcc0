"""Miners: they select the pairs of a batch that a loss uses."""

from tfdml._utils.naming import former_names
from tfdml.miners.base import Miner
from tfdml.miners.distance_weighted import DistanceWeightedMiner
from tfdml.miners.hard import HardMiner
from tfdml.miners.hard_negative import HardNegativeMiner
from tfdml.miners.multi_similarity import MultiSimilarityMiner
from tfdml.miners.registry import deserialize, get, names, register, serialize
from tfdml.miners.semi_hard import SemiHardMiner

__all__ = [
    "DistanceWeightedMiner",
    "HardMiner",
    "HardNegativeMiner",
    "Miner",
    "MultiSimilarityMiner",
    "SemiHardMiner",
    "deserialize",
    "get",
    "names",
    "register",
    "serialize",
]

__getattr__ = former_names(__name__, miner_names="names")
