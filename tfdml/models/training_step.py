"""Parts of a training step that are independent of metric learning: penalties, gradients, optimizers."""

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
from tfdml.layers import GeneralizedSumPooling


def decayed_variables(embedder):
    """Return the trainable weights of an embedder except those of batch normalization."""
    normalizations = [
        layer for layer in all_layers(embedder) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    excluded = {id(variable) for layer in normalizations for variable in layer.weights}
    return [variable for variable in embedder.trainable_variables if id(variable) not in excluded]


def weight_penalty(variables, weight_decay):
    r"""Return $\frac{\lambda}{2} \sum \lVert w \rVert_2^2$, whose gradient is the L2 term $\lambda w$."""
    halves = [tf.nn.l2_loss(tf.convert_to_tensor(variable)) for variable in variables]
    return weight_decay * tf.add_n(halves) if halves else 0.0


def frozen_variables(embedder):
    """Return the weights that a warm-up freezes: the embedder's trainable weights except its layer "embedding".

    If the pooling contains the embedding layer, this is the projection of the pooling.

    Raises:
        ValueError: If the embedder has no layer named "embedding".
    """
    names = [layer.name for layer in embedder.layers]
    embedding = embedder.get_layer("embedding") if "embedding" in names else None
    if embedding is None and "pooling" in names and isinstance(embedder.get_layer("pooling"), GeneralizedSumPooling):
        embedding = embedder.get_layer("pooling").projection
    if embedding is None:
        raise ValueError(
            "A warm-up trains only the embedder's layer named 'embedding', which does not exist. "
            f"Received: a model with layers {names}."
        )
    free = {id(variable) for variable in embedding.weights}
    return [variable for variable in embedder.trainable_variables if id(variable) not in free]


def mask_gradients(gradients, variables, held, factor):
    """Multiply the gradients of frozen variables by a factor.

    Args:
        gradients: List of tensors, `tf.IndexedSlices` or `None`, one per variable.
        variables: List of variables.
        held: The variables among them that are frozen.
        factor: 0 while they are frozen, then 1.
    """
    held = {id(variable) for variable in held}
    return [_times(gradient, factor) if id(v) in held else gradient for gradient, v in zip(gradients, variables)]


def apply_gradients(groups, gradients, variables):
    """Update each group of variables with its optimizer.

    With several replicas, gradients are summed over the replicas before they are clipped.

    Args:
        groups: List of pairs (optimizer, its variables). The first optimizer is the one that scaled the loss. If it
            scales the loss, the others also skip steps in which a gradient is not finite.
        gradients: List of gradients of the scaled loss, one per variable.
        variables: List of the variables of all groups.
    """
    gradient_of = {id(variable): gradient for variable, gradient in zip(variables, gradients)}
    parts = [(optimizer, [gradient_of[id(variable)] for variable in group], group) for optimizer, group in groups]
    scaling_optimizer = groups[0][0]
    one = tf.ones(())
    scale = scale_loss(scaling_optimizer, one)
    # The first optimizer comes last because it may change the scale.
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
    """Sum gradients over replicas, then clip them: Keras 3 clips before it sums.

    Args:
        optimizer: Optimizer whose attributes say how to clip.
        gradients: List of this replica's gradients (or `None`), multiplied by the scale.
        scale: Scale of the loss.
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
    # The optimizer sums these shares; none of them exceeds the clipping threshold.
    shares = iter([gradient / count for gradient in summed])
    return [None if gradient is None else next(shares) for gradient in gradients]


def build_optimizer(optimizer, variables):
    """Create an optimizer's variables if it has none yet."""
    # Building it again would reset a LossScaleOptimizer of Keras 3.
    if not getattr(optimizer, "built", False):
        optimizer.build(variables)


def optimizer_state(optimizer, variables):
    """Return all variables that an optimizer needs to resume.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        variables: List of the variables that it trains.
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
