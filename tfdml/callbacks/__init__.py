"""Keras callbacks: early stopping, alternating projections, backup."""

from tfdml.callbacks.alternating_projections import AlternatingProjections
from tfdml.callbacks.early_stopping import RetrievalEarlyStopping
from tfdml.callbacks.non_finite_loss import StopOnNonFiniteLoss
from tfdml.callbacks.retrieval_metrics import RetrievalMetrics
from tfdml.callbacks.training_backup import TrainingBackup

__all__ = [
    "AlternatingProjections",
    "RetrievalEarlyStopping",
    "RetrievalMetrics",
    "StopOnNonFiniteLoss",
    "TrainingBackup",
]
