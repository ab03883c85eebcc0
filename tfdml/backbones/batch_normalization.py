"""Batch normalisation of backbones, and what of it is frozen."""

import dataclasses

import keras

from tfdml import ops
from tfdml.arguments import check_choice

FROZEN = ("none", "statistics", "all")


# Files of weights name a layer after its class: with Keras' own class name they fit, frozen or not.
@keras.saving.register_keras_serializable(package="tfdml", name="FrozenStatisticsBatchNormalization")
class BatchNormalization(keras.layers.BatchNormalization):
    r"""Batch normalisation by moving statistics that training uses and never changes; γ and β train.

    $$y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    with the moving mean $\mu$ and variance $\sigma^2$ that the layer was given, at training as at inference.

    Args:
        **kwargs: As for `keras.layers.BatchNormalization`; the momentum has no effect.
    """

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


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
        kind = BatchNormalization if self.frozen == "statistics" else keras.layers.BatchNormalization
        # Keras runs a batch normalisation that is not trainable as at inference.
        layer = kind(
            momentum=self.momentum,
            epsilon=self.epsilon,
            trainable=self.frozen != "all",
            synchronized=ops.has_replicas(),
            name=name,
        )
        return layer(features)
