"""Functions as losses."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import keras
import tensorflow as tf

from tfdml._utils.types import Config, Labels, TensorLike


@keras.saving.register_keras_serializable(package="tfdml")
class FunctionLoss(keras.losses.Loss):
    """A Keras loss that wraps a function of labels and embeddings.

    `tfdml.losses.get` and `MetricModel.compile` wrap functions for you; use the class itself to set a name or a
    reduction. `MetricModel` passes labels unchanged, as integers; a plain model under Keras 3 passes them as floats.

    Args:
        function: Callable `(y_true, y_pred)`. Maps labels and embeddings to one value per sample or one value for the
            batch.
        name: str. Name of the loss. Default: `None`, the name of the function.
        reduction: str. Keras' reduction over the batch. Default: `"sum_over_batch_size"`.

    Raises:
        TypeError: If the function does not accept two positional arguments.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import losses
        >>> def squared_norm(labels, embeddings):
        ...     return tf.reduce_sum(embeddings**2, axis=1)
        >>> float(losses.FunctionLoss(squared_norm)([0, 1], [[1.0, 0.0], [0.0, 3.0]]))
        5.0
    """

    def __init__(self, function: Callable, name: str | None = None, reduction: str = "sum_over_batch_size") -> None:
        super().__init__(name=name or getattr(function, "__name__", None), reduction=reduction)
        self.function = check_loss_function(function)

    def call(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """Evaluate the function.

        Args:
            y_true: Labels, `(batch,)`, or a dict of tensors.
            y_pred: float tensor, `(batch, dim)`. Embeddings; half precision is cast to float32.

        Returns:
            Tensor `(batch,)`, or a scalar. Further axes are averaged.
        """
        y_true = y_true if isinstance(y_true, dict) else tf.convert_to_tensor(y_true)
        y_pred = tf.convert_to_tensor(y_pred)
        # Losses are not computed in half precision.
        y_pred = y_pred if y_pred.dtype in (tf.float32, tf.float64) else tf.cast(y_pred, tf.float32)
        values = tf.convert_to_tensor(self.function(y_true, y_pred))
        if values.shape.rank is not None and values.shape.rank > 1:
            values = tf.reduce_mean(values, axis=tf.range(1, tf.rank(values)))
        return values

    def get_config(self) -> Config:
        return {**super().get_config(), "function": keras.saving.get_registered_name(self.function)}

    @classmethod
    def from_config(cls, config: Config) -> FunctionLoss:
        config = dict(config)
        if isinstance(config["function"], str):
            config["function"] = _registered_function(config["function"])
        return cls(**config)


def _registered_function(name):
    """Look up a function registered with Keras or defined by it. Nothing is imported or executed."""
    found = keras.saving.get_registered_object(name) or getattr(keras.losses, name, None)
    if not inspect.isfunction(found):
        raise ValueError(
            f"The function of a loss is not registered. Received: {name!r}. Expected: the name of a function "
            "registered with `tfdml.losses.register` or `keras.saving.register_keras_serializable`. Import the module "
            "that registers it first; a lambda cannot be loaded."
        )
    return found


def check_loss_function(function: Callable) -> Callable:
    """Return the function if it accepts two positional arguments; otherwise raise a TypeError."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"A loss function must accept (y_true, y_pred). Received: {function!r} with the arguments "
            f"{inspect.signature(function)}. Expected: two positional arguments, labels and embeddings."
        ) from error
    except ValueError:
        # Functions implemented in C have no signature.
        pass
    return function
