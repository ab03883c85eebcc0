"""Differences between Keras 2 and Keras 3, and unavoidable uses of Keras' private attributes.

No other module depends on the version of Keras; a test asserts it.
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

# Option of `compile` for models whose third part of a batch is not weights. Keras 2 would warn of weights that no
# metric uses; Keras 3 would try to build the list of metrics.
NO_WEIGHTED_METRICS: dict[str, Any] = {"weighted_metrics": []} if IS_KERAS_2 else {}


def all_layers(layer):
    """Return a layer or model and the layers inside it, at any depth."""
    # Keras has no public method for this.
    return list(layer._flatten_layers())


def direct_sublayers(layer):
    """Return the direct sublayers of a layer or model."""
    return list(layer._flatten_layers(recursive=False, include_self=False))


def producer_of(tensor):
    """Return the layer whose call made a symbolic tensor, and the symbolic inputs and outputs of that call."""
    # Keras has no public access to the graph of a functional model.
    history = tensor._keras_history
    layer = history.layer if IS_KERAS_2 else history.operation
    node = layer._inbound_nodes[history.node_index]
    if IS_KERAS_2:
        return layer, list(node.keras_inputs), tf.nest.flatten(node.outputs)
    return layer, list(node.input_tensors), list(node.output_tensors)


def untrack(model, layer):
    """Make a model stop tracking a layer that is no longer one of its attributes.

    Keras 2 does so when the attribute is set again; Keras 3 would continue to train the layer.
    """
    if layer is not None and hasattr(model, "_tracker"):
        model._tracker.untrack(layer)


def tensorflow_variable(weight):
    """Return the `tf.Variable` of a weight, which Keras 3 wraps."""
    return weight if isinstance(weight, tf.Variable) else weight.value


def base_optimizer(optimizer):
    """Return the optimizer without the loss scaling of mixed_float16 around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def scale_loss(optimizer, loss):
    """Multiply the loss by the scale of mixed_float16: `scale_loss` in Keras 3, `get_scaled_loss` in Keras 2."""
    if hasattr(optimizer, "scale_loss"):
        return optimizer.scale_loss(loss)
    return optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss


def unscale_gradients(optimizer, gradients):
    """Unscale gradients for `apply_gradients` of Keras 2; Keras 3 unscales them itself."""
    return optimizer.get_unscaled_gradients(gradients) if hasattr(optimizer, "get_unscaled_gradients") else gradients


def sums_before_clipping(optimizer):
    """Return whether an optimizer sums gradients over replicas before it clips them. Keras 3 clips before it sums."""
    return hasattr(optimizer, "aggregate_gradients")


def optimizer_variables(optimizer):
    """Return all variables of a built optimizer, including its dynamic loss scale."""
    variables = optimizer.variables
    variables = list(variables() if callable(variables) else variables)
    # Keras 2 does not include the dynamic loss scale.
    scale = getattr(optimizer, "_loss_scale", None)
    if scale is not None and hasattr(scale, "current_loss_scale"):
        variables += [scale.current_loss_scale, scale.counter]
    return variables


def number_of_batches_of(data):
    """Return the number of batches: `num_batches` of Keras 3's datasets, else `len`."""
    return data.num_batches if hasattr(data, "num_batches") else len(data)


def sequence_options(sequence):
    """Return the worker options of a `keras.utils.Sequence`, to create another like it. Keras 2 has none."""
    names = ("workers", "use_multiprocessing", "max_queue_size")
    return {name: getattr(sequence, name) for name in names if hasattr(sequence, name)}


def own_loss_tracker():
    """Return a metric for a loss that `compute_loss` computes itself, or None for Keras 3, which tracks it."""
    return keras.metrics.Mean(name="loss") if IS_KERAS_2 else None


def pop_call_from_fit(options):
    """Remove the private argument that `fit` passes to `evaluate`, and return whether it was present."""
    return options.pop("_use_cached_eval_dataset", False)


def register_loss_names(names, make):
    """Make losses available to `compile(loss="name")` of any Keras model, except names that Keras uses.

    Keras 2 looks up names of losses in its custom objects. Keras 3 knows only its own.

    Args:
        names: Names of losses.
        make: Function from a name to the loss.
    """
    if not IS_KERAS_2:
        return
    registered = keras.saving.get_custom_objects()
    for name in names:
        if not hasattr(keras.losses, name):
            # Keras instantiates classes to create the loss.
            maker = type(name, (), {"__new__": lambda cls, name=name: make(name)})
            registered.setdefault(name, maker)


class WorkerModel(keras.Model):
    """Base class of models that several workers of `tf.distribute` can train with `fit`.

    Steps return `self.step_logs(logs)`, where logs are scalars that are equal on all replicas.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if IS_KERAS_2:
            # Metric results already cover all replicas. By default, Keras 2 would sum those of several workers again.
            self.distribute_reduction_method = "first"

    def step_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        """Return the logs of a step in a form that Keras reduces over replicas without changing their values."""
        if IS_KERAS_2 or not _has_workers(self.distribute_strategy):
            return logs
        # With several workers, Keras 3 averages logs over their first axis, which scalars lack.
        return {name: tf.reshape(value, (1,)) for name, value in logs.items()}

    def build_optimizers(self) -> None:
        """Create the optimizer's variables."""
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_variables)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # To infer shapes, Keras 3 averages a batch over several workers, which fails unless it is a single tensor.
        if not _has_workers(self.distribute_strategy):
            super()._maybe_symbolic_build(iterator, data_batch)
            return
        self.build_optimizers()


def _has_workers(strategy):
    replicas = strategy.num_replicas_in_sync
    # These are the devices of this worker only; the default strategy has none.
    return replicas > 1 and replicas > len(strategy.extended.worker_devices)
