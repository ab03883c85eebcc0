"""Keras callbacks: early stopping, alternating projections, averaged weights, prototype warm-up and backup."""

from tfdml.callbacks.alternating_projections import AlternatingProjections
from tfdml.callbacks.averaged_weights import AveragedWeights
from tfdml.callbacks.collapse import CollapseWarning
from tfdml.callbacks.early_stopping import RetrievalEarlyStopping
from tfdml.callbacks.learning_rate_on_plateau import LearningRateOnPlateau
from tfdml.callbacks.non_finite_loss import StopOnNonFiniteLoss
from tfdml.callbacks.prototype_warmup import PrototypeWarmup
from tfdml.callbacks.ranking_metrics import RankingMetrics
from tfdml.callbacks.retrieval_metrics import RetrievalMetrics
from tfdml.callbacks.training_backup import TrainingBackup

__all__ = [
    "AlternatingProjections",
    "AveragedWeights",
    "CollapseWarning",
    "LearningRateOnPlateau",
    "PrototypeWarmup",
    "RankingMetrics",
    "RetrievalEarlyStopping",
    "RetrievalMetrics",
    "StopOnNonFiniteLoss",
    "TrainingBackup",
]
