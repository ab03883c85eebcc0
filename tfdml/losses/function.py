"""A function as a loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import keras
import tensorflow as tf

from tfdml._utils.types import Config, Labels, TensorLike


@keras.saving.register_keras_serializable(package="tfdml")
class FunctionLoss(keras.losses.Loss):
    """A Keras loss whose values are those of a function.

    `MetricModel` calls the function with the labels as they are, integers; a plain model of Keras 3 with floats.

    Args:
        function: From labels `y_true` and embeddings `y_pred` to one value for each sample, or one for the batch.
        name: Name of the loss. `None` takes that of the function.
        reduction: Keras' reduction over the batch.
    """

    def __init__(self, function: Callable, name: str | None = None, reduction: str = "sum_over_batch_size") -> None:
        super().__init__(name=name or getattr(function, "__name__", None), reduction=reduction)
        self.function = check_loss_function(function)

    def call(self, y_true: Labels, y_pred: TensorLike) -> tf.Tensor:
        """Values of the samples, `(batch,)`, or one value for all of them."""
        y_true = y_true if isinstance(y_true, dict) else tf.convert_to_tensor(y_true)
        y_pred = tf.convert_to_tensor(y_pred)
        # As in `MetricLoss`: half precision is for networks.
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
    """A function that is registered with Keras, or one of Keras. A name is data: nothing is imported or executed."""
    found = keras.saving.get_registered_object(name) or getattr(keras.losses, name, None)
    if not inspect.isfunction(found):
        raise ValueError(
            f"The function of a loss is not registered. Received: {name!r}. Expected: the name of a function that "
            "`tfdml.losses.register` or `keras.saving.register_keras_serializable` has registered. Import its module "
            "first; a lambda cannot be loaded."
        )
    return found


def check_loss_function(function: Callable) -> Callable:
    """Returns a function that takes two positional arguments; raises a TypeError otherwise."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"A function is a loss if it takes (y_true, y_pred). Received: {function!r} with the arguments "
            f"{inspect.signature(function)}. Expected: two positional arguments, labels and embeddings."
        ) from error
    except ValueError:
        # What is written in C has no signature.
        pass
    return function
