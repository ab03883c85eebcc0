"""The differences between Keras 2 and Keras 3, and the private attributes of Keras that cannot be avoided.

Nothing else in the package asks for Keras' version; a test asserts it.
"""

import inspect
from typing import Any

import keras
import tensorflow as tf

IS_KERAS_2 = keras.__version__.startswith("2.")

# Options of `add_weight` that keep a weight in float32 under mixed precision.
NO_AUTOCAST = (
    {"autocast": False}
    if "autocast" in inspect.signature(keras.layers.Layer.add_weight).parameters
    else {"experimental_autocast": False}
)


def all_layers(layer):
    """A layer or model and the layers inside it, at any depth."""
    # There is no public way to the parts of a layer.
    return list(layer._flatten_layers())


def direct_sublayers(layer):
    """The layers that a layer or model holds itself."""
    return list(layer._flatten_layers(recursive=False, include_self=False))


def untrack(model, layer):
    """Makes a model forget a layer that an attribute no longer holds.

    Keras 2 does it when the attribute is set again; Keras 3 would go on training the layer.
    """
    if layer is not None and hasattr(model, "_tracker"):
        model._tracker.untrack(layer)


def tensorflow_variable(weight):
    """The `tf.Variable` of a weight, which Keras 3 wraps."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def base_optimizer(optimizer):
    """The optimizer itself, without the loss scaling of mixed_float16 around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def scale_loss(optimizer, loss):
    """The loss times the scale of mixed_float16: `scale_loss` of Keras 3, `get_scaled_loss` of Keras 2."""
    if hasattr(optimizer, "scale_loss"):
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss


def unscale_gradients(optimizer, gradients):
    """The gradients as `apply_gradients` takes them: unscaled for Keras 2, while Keras 3 unscales them itself."""
    return optimizer.get_unscaled_gradients(gradients) if hasattr(optimizer, "get_unscaled_gradients") else gradients


def sums_before_clipping(optimizer):
    """Whether an optimizer sums the gradients of the replicas before it clips them. Keras 3 clips before it sums."""
    return hasattr(optimizer, "aggregate_gradients")


def optimizer_variables(optimizer):
    """All variables of a built optimizer, its dynamic loss scale included."""
    variables = optimizer.variables
    variables = list(variables() if callable(variables) else variables)
    # Keras 2 does not count the dynamic loss scale among them.
    scale = getattr(optimizer, "_loss_scale", None)
    if scale is not None and hasattr(scale, "current_loss_scale"):
        variables += [scale.current_loss_scale, scale.counter]
    return variables


def number_of_batches_of(data):
    """`len` of a sequence of batches; the datasets of Keras 3 that count differently have `num_batches`."""
    return data.num_batches if hasattr(data, "num_batches") else len(data)


def sequence_options(sequence):
    """The options of a `keras.utils.Sequence` for workers, to make another like it. Keras 2 has none."""
    names = ("workers", "use_multiprocessing", "max_queue_size")
    return {name: getattr(sequence, name) for name in names if hasattr(sequence, name)}


def pop_call_from_fit(options):
    """Removes the private argument by which `fit` calls `evaluate`, and returns whether it was there."""
    return options.pop("_use_cached_eval_dataset", False)


def register_loss_names(names, make):
    """Lets `compile(loss="name")` of any Keras model find losses, except names that Keras has.

    Keras 2 looks a loss's name up among custom objects. Keras 3 looks only among its own.

    Args:
        names: Names of losses.
        make: From a name to the loss.
    """
    if not IS_KERAS_2:
        return
    registered = keras.saving.get_custom_objects()
    for name in names:
        if not hasattr(keras.losses, name):
            # Keras calls what is a class to make the loss.
            maker = type(name, (), {"__new__": lambda cls, name=name: make(name)})
            registered.setdefault(name, maker)


class WorkerModel(keras.Model):
    """A model that several workers of `tf.distribute` can train with `fit`.

    Its steps return `self.step_logs(logs)`, where the logs are scalars that all replicas agree on.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if IS_KERAS_2:
            # Results of metrics are sums over all replicas. By default Keras 2 sums those of several workers again.
            self.distribute_reduction_method = "first"

    def step_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """The logs of a step as Keras reduces them over replicas without changing their values."""
        if IS_KERAS_2 or not _has_workers(self.distribute_strategy):
            return logs
        # Keras 3 averages the logs of several workers over their first axis, which scalars do not have.
        return {name: tf.reshape(value, (1,)) for name, value in logs.items()}

    def build_optimizers(self) -> None:
        """Makes the optimizer's variables."""
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # Keras 3 averages a batch over several workers to learn its shapes, and fails if it is not a single tensor.
        if not _has_workers(self.distribute_strategy):
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        self.build_optimizers()


def _has_workers(strategy):
    replicas = strategy.num_replicas_in_sync
    # The devices are those of this worker. The default strategy has none.
    return replicas > 1 and replicas > len(strategy.extended.worker_devices)
