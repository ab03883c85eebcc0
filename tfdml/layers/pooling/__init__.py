"""Layers that pool local features into one vector."""

from tfdml.layers.pooling.generalized_sum_pooling import GeneralizedSumPooling

__all__ = ["GeneralizedSumPooling"]
