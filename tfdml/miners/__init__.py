"""Miners: each chooses the pairs that count."""

from tfdml.miners.base import Miner
from tfdml.miners.hard import HardMiner
from tfdml.miners.registry import get, miner_names

__all__ = ["HardMiner", "Miner", "get", "miner_names"]
