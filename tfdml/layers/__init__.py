"""Keras layers: normalisation, pooling, references."""

from tfdml.layers.normalization import L2Clip, L2Normalization
from tfdml.layers.pooling import GeneralizedSumPooling
from tfdml.layers.references import ClassProxies, References

__all__ = ["ClassProxies", "GeneralizedSumPooling", "L2Clip", "L2Normalization", "References"]
