"""From a loss to updated weights: the parts of a training step that know nothing of metric learning."""

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.keras_compat import (
    all_layers,
    base_optimizer,
    optimizer_variables,
    scale_loss,
    sums_before_clipping,
    unscale_gradients,
)


def decayed_variables(embedder):
    """The trainable weights of an embedder without those of batch normalisation."""
    normalizations = [
        layer for layer in all_layers(embedder) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    excluded = {id(variable) for layer in normalizations for variable in layer.weights}
    return [variable for variable in embedder.trainable_variables if id(variable) not in excluded]


def weight_penalty(variables, weight_decay):
    r"""$\frac{\lambda}{2} \sum \lVert w \rVert_2^2$, whose gradient is the L2 term $\lambda w$."""
    halves = [tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in variables]
    return weight_decay * tf.add_n(halves) if halves else 0.0


def frozen_variables(embedder):
    """What a warm-up holds: the trainable weights of an embedder without those of its layer "embedding".

    Raises:
        ValueError: If there is no such layer.
    """
    names = [layer.name for layer in embedder.layers]
    if "embedding" not in names:
        raise ValueError(
            "A warm-up trains the embedder's layer named 'embedding', and there is none. "
            f"Received: a model with layers {names}."
        )
    free = {id(variable) for variable in embedder.get_layer("embedding").weights}
    return [variable for variable in embedder.trainable_variables if id(variable) not in free]


def mask_gradients(gradients, variables, held, factor):
    """The gradients, those of the held variables times the factor.

    Args:
        gradients: Tensors, `tf.IndexedSlices` or `None`, one for each variable.
        variables: The variables.
        held: Those among them that are held.
        factor: 0 as long as they are held, then 1.
    """
    held = {id(variable) for variable in held}
    return [_times(gradient, factor) if id(v) in held else gradient for gradient, v in zip(gradients, variables)]


def apply_gradients(groups, gradients, variables):
    """Updates each group of variables by its optimizer.

    Args:
        groups: Pairs (optimizer, its variables). The first optimizer is the one that scaled the loss; the others then
            skip a step in which a gradient is not finite, as it does.
        gradients: Of the scaled loss, one for each variable.
        variables: The variables of all groups together.

    Among several replicas the gradients are summed over them before an optimizer clips them.
    """
    gradient_of = {id(variable): gradient for variable, gradient in zip(variables, gradients)}
    parts = [(optimizer, [gradient_of[id(variable)] for variable in group], group) for optimizer, group in groups]
    scaling_optimizer = groups[0][0]
    one = tf.ones(())
    scale = scale_loss(scaling_optimizer, one)
    # The first comes last, as it may change the scale.
    for optimizer, part, group in parts[1:]:
        if scale is one:
            if not sums_before_clipping(optimizer):
                part = _clipped_sum(optimizer, part, scale)
            optimizer.apply_gradients(zip(part, group))
        else:
            _apply_if(_all_finite(gradients), optimizer, [_times(gradient, 1 / scale) for gradient in part], group)
    _, part, group = parts[0]
    if not sums_before_clipping(scaling_optimizer):
        part = _clipped_sum(scaling_optimizer, part, scale)
    scaling_optimizer.apply_gradients(zip(unscale_gradients(scaling_optimizer, part), group))


def _clipped_sum(optimizer, gradients, scale):
    """Gradients whose sum over the replicas, which the optimizers of Keras 3 take after they clip, is clipped already.

    Args:
        optimizer: The optimizer, which clips by what it says of itself.
        gradients: Those of this replica, or `None`, times the scale.
        scale: Of the loss.
    """
    count = ops.replica_count()
    inner = base_optimizer(optimizer)
    by_variable, by_all, by_value = inner.clipnorm, inner.global_clipnorm, inner.clipvalue
    if count == 1 or not (by_variable or by_all or by_value or inner is not optimizer):
        return gradients
    there = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, there)
    if by_variable:
        summed = [tf.clip_by_norm(gradient, by_variable * scale) for gradient in summed]
    elif by_all:
        summed, _ = tf.clip_by_global_norm(summed, by_all * scale)
    elif by_value:
        summed = [tf.clip_by_value(gradient, -by_value * scale, by_value * scale) for gradient in summed]
    # What the optimizer sums: it has nothing left to clip.
    shares = iter([gradient / count for gradient in summed])
    return [None if gradient is None else next(shares) for gradient in gradients]


def build_optimizer(optimizer, variables):
    """Makes an optimizer's own variables, if it has none yet."""
    # A LossScaleOptimizer of Keras 3 would begin anew.
    if not getattr(optimizer, "built", False):
        optimizer.build(variables)


def optimizer_state(optimizer, variables):
    """All variables that an optimizer needs to go on.

    Args:
        optimizer: The optimizer.
        variables: What it trains.
    """
    build_optimizer(optimizer, variables)
    return optimizer_variables(optimizer)


def _times(gradient, factor):
    return None if gradient is None else tf.math.scalar_mul(tf.cast(factor, gradient.dtype), gradient)


def _all_finite(gradients):
    values = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def _apply_if(condition, optimizer, gradients, variables):
    def apply():
        optimizer.apply_gradients(zip(gradients, variables))
        return True

    tf.cond(condition, apply, lambda: False)
