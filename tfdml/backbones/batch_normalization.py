"""Batch normalization of backbones, optionally frozen."""

import dataclasses

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils import keras_compat
from tfdml._utils.arguments import check_choice

FROZEN = ("none", "statistics", "all")
_FUSED_TYPES = (tf.float16, tf.bfloat16, tf.float32)


# Weight files contain names derived from the class, so it must have the name of Keras' own class.
@keras.saving.register_keras_serializable(package="tfdml")
class BatchNormalization(keras.layers.BatchNormalization):
    r"""Batch normalization as one fused operation, optionally with frozen moving statistics.

    $$y = \gamma \, \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta$$

    with the mean $\mu$ and variance $\sigma^2$ of the batch in training, and the moving ones at inference. Keras 3 uses
    several operations, each of which reads the features from memory and stores its result for the backward pass; here,
    as in Keras 2, it is a single operation.

    Args:
        frozen_statistics: bool. Use the moving statistics in training, too, and do not update them; γ and β remain
            trainable. Default `False`.
        **kwargs: Arguments of `keras.layers.BatchNormalization`.
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
            # The op requires empty tensors if it uses the statistics of the batch.
            mean=moving_mean[:0] if uses_batch else moving_mean,
            variance=moving_variance[:0] if uses_batch else moving_variance,
            epsilon=self.epsilon,
            is_training=uses_batch,
        )
        if uses_batch:
            # The op returns the variance with denominator n - 1; Keras 3 uses n.
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


def frozen_or_default(frozen, weights):
    """Return what is frozen: by default, the statistics of a network that starts from given weights.

    Args:
        frozen: `"none"`, `"statistics"`, `"all"`, or `None` for the default.
        weights: The network's initial weights; `None` if they are random.

    Raises:
        ValueError: If `frozen` has another value.
    """
    if frozen is None:
        return "none" if weights is None else "statistics"
    return check_choice("frozen_batch_norm", frozen, FROZEN)


def with_frozen_batch_norm(model, frozen, always_copy=False):
    """Return a functional model whose batch normalization is frozen as stated.

    Args:
        model: Functional `keras.Model`. For `"all"`, it is changed.
        frozen: `"none"`, `"statistics"` or `"all"`.
        always_copy: bool. Return a copy in each case in which `"statistics"` is possible. A copy has Keras' functional
            class instead of the model's own, and files of weights contain the class. Default `False`.

    Returns:
        The model itself, or, for `"statistics"`, a copy with the same weights, in which `BatchNormalization` replaces
        Keras' own layers.

    Raises:
        ValueError: If `frozen` is `"statistics"`, and batch normalization is inside another layer.
    """

    def clone(layer):
        if frozen != "statistics" or not isinstance(layer, keras.layers.BatchNormalization):
            return type(layer).from_config(layer.get_config())
        return BatchNormalization.from_config({**layer.get_config(), "frozen_statistics": True})

    layers = _normalizations(keras_compat.all_layers(model))
    if frozen == "all":
        for layer in layers:
            layer.trainable = False
    if not layers or not (frozen == "statistics" or always_copy and can_freeze_statistics(model)):
        return model
    if not can_freeze_statistics(model):
        raise ValueError(
            "Only the statistics of batch normalization that is a layer of the network itself can be frozen. Received: "
            f"frozen_batch_norm='statistics' with {model.name!r}, whose layers contain it. Expected: 'all' or 'none'."
        )
    weights = model.get_weights()
    model = keras.models.clone_model(model, clone_function=clone)
    model.set_weights(weights)
    return model


def can_freeze_statistics(model):
    """Return whether no layer of a model contains batch normalization."""
    return len(_normalizations(model.layers)) == len(_normalizations(keras_compat.all_layers(model)))


def _normalizations(layers):
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """Creates the batch normalization layers of one backbone.

    In the scope of a `tf.distribute` strategy with several replicas, statistics are those of the whole batch.

    Attributes:
        momentum: float in [0, 1). Momentum of the moving statistics.
        frozen: `"none"`; `"statistics"`, which uses the moving statistics in training, too, and does not update them;
            or `"all"`, which also freezes γ and β.
        epsilon: float. Added to the variance. Default 1e-5.

    Raises:
        ValueError: If the momentum is not in [0, 1), or `frozen` has another value.
    """

    momentum: float
    frozen: str
    epsilon: float = 1e-5

    def __post_init__(self):
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(
                f"Invalid batch_norm_momentum. Received: batch_norm_momentum={self.momentum!r}. "
                "Expected: 0 <= batch_norm_momentum < 1."
            )
        check_choice("frozen_batch_norm", self.frozen, FROZEN)

    def __call__(self, features, name):
        """Normalize features with a new layer of this name."""
        # Keras runs a non-trainable batch normalization in inference mode.
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
