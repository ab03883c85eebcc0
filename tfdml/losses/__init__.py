"""Losses: each scores embeddings against whatever references it is given."""

from tfdml.losses.base import MetricLoss
from tfdml.losses.contrastive import ContrastiveLoss
from tfdml.losses.registry import get, loss_names

__all__ = ["ContrastiveLoss", "MetricLoss", "get", "loss_names"]
