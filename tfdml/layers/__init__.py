"""Keras layers: normalization, pooling, references and zero-shot prediction."""

from tfdml.layers import pooling
from tfdml.layers.cross_batch import CrossBatchPrototypes
from tfdml.layers.dropout import CountedDropout
from tfdml.layers.item_frequencies import ItemFrequencies
from tfdml.layers.memory import CrossBatchMemory
from tfdml.layers.normalization import L2Clip, L2Normalization
from tfdml.layers.pooling import GeneralizedSumPooling
from tfdml.layers.references import ClassProxies, References
from tfdml.layers.tokens import ClassToken, PatchTokens
from tfdml.layers.zero_shot import AttributeRegression, ZeroShotPrediction

__all__ = [
    "AttributeRegression",
    "ClassProxies",
    "ClassToken",
    "CountedDropout",
    "CrossBatchMemory",
    "CrossBatchPrototypes",
    "GeneralizedSumPooling",
    "ItemFrequencies",
    "L2Clip",
    "L2Normalization",
    "PatchTokens",
    "References",
    "ZeroShotPrediction",
    "pooling",
]
