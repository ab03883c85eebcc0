"""Batch normalisation of backbones, and what of it is frozen."""

import dataclasses

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils import keras_compat
from tfdml._utils.arguments import check_choice

FROZEN = ("none", "statistics", "all")
_FUSED_TYPES = (tf.float16, tf.bfloat16, tf.float32)


# Files of weights name a layer after its class: with Keras' own class name they fit, frozen or not.
@keras.saving.register_keras_serializable(package="tfdml")
class BatchNormalization(keras.layers.BatchNormalization):
    r"""Batch normalisation by one operation, or by moving statistics that training uses and never changes.

    $$y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    with the mean $\mu$ and variance $\sigma^2$ of the batch at training, and the moving ones at inference. Keras 3
    computes that in several operations, each of which reads the features from memory, and keeps what they give for the
    backward pass; here it is one, as in Keras 2.

    Args:
        frozen_statistics: Whether the moving statistics are used at training, too, and stay as they are; γ and β train.
        **kwargs: As for `keras.layers.BatchNormalization`.
    """

    def __init__(self, frozen_statistics=False, **kwargs):
        super().__init__(**kwargs)
        self.frozen_statistics = bool(frozen_statistics)

    def call(self, inputs, training=None, mask=None):
        if self.frozen_statistics:
            training = False
        if keras_compat.IS_KERAS_2 or not self._can_fuse(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        uses_batch = bool(training and self.trainable)
        weights = map(tf.convert_to_tensor, (self.gamma, self.beta, self.moving_mean, self.moving_variance))
        gamma, beta, moving_mean, moving_variance = weights
        result = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=gamma,
            offset=beta,
            # Which it wants empty where it takes those of the batch.
            mean=moving_mean[:0] if uses_batch else moving_mean,
            variance=moving_variance[:0] if uses_batch else moving_variance,
            epsilon=self.epsilon,
            is_training=uses_batch,
        )
        if uses_batch:
            # It gives the variance with n - 1 in the denominator; Keras 3 keeps the one with n.
            count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
            variance = result.batch_variance * ((count - 1.0) / count)
            self.moving_mean.assign(self._moved(moving_mean, result.batch_mean))
            self.moving_variance.assign(self._moved(moving_variance, variance))
        return result.y

    def _moved(self, moving, of_batch):
        return self.momentum * moving + (1.0 - self.momentum) * of_batch

    def _can_fuse(self, inputs, mask):
        is_known = inputs.shape.rank == 4 and inputs.dtype in _FUSED_TYPES
        is_usual = self.axis in (-1, 3) and self.scale and self.center and not getattr(self, "renorm", False)
        return is_known and is_usual and mask is None and not self.synchronized

    def get_config(self):
        return {**super().get_config(), "frozen_statistics": self.frozen_statistics}


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Makes the batch normalisations of one backbone.

    In the scope of a `tf.distribute` strategy of several replicas their statistics are those of the whole batch.

    Attributes:
        momentum: How much of the moving statistics stays at each step.
        frozen: `"none"`; `"statistics"`: the moving statistics are used in training, too, and stay as they are; or
            `"all"`: γ and β stay, too.
        epsilon: What is added to the variance.

    Raises:
        ValueError: If the momentum is not in [0, 1), or `frozen` is another word.
    """

    momentum: float
    frozen: str
    epsilon: float = 1e-5

    def __post_init__(self):
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(
                f"Received: batch_norm_momentum={self.momentum!r}; expected 0 <= batch_norm_momentum < 1."
            )
        check_choice("frozen_batch_norm", self.frozen, FROZEN)

    def __call__(self, features, name):
        """Normalises features by a new layer of this name."""
        # Keras runs a batch normalisation that is not trainable as at inference.
        layer = BatchNormalization(
            frozen_statistics=self.frozen == "statistics",
            axis=-1,
            momentum=self.momentum,
            epsilon=self.epsilon,
            trainable=self.frozen != "all",
            synchronized=ops.has_replicas(),
            name=name,
        )
        return layer(features)
