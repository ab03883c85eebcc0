"""Access to the whole batch from each replica of a `tf.distribute` strategy."""

from __future__ import annotations

import tensorflow as tf

from tfdml.ops.precision import at_least_float32


def has_replicas() -> bool:
    """Whether the current scope is that of a strategy with several replicas.

    Returns:
        bool.

    Example:
        >>> from tfdml import ops
        >>> ops.has_replicas()
        False
    """
    return tf.distribute.has_strategy() and tf.distribute.get_strategy().num_replicas_in_sync > 1


def replica_count() -> int:
    """Number of replicas that share a batch; 1 outside of a replica and without a strategy.

    Returns:
        int.

    Example:
        >>> from tfdml import ops
        >>> ops.replica_count()
        1
    """
    if tf.distribute.get_replica_context() is None:
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_batch(values: tf.Tensor) -> tf.Tensor:
    r"""Concatenate the rows of all replicas, in the same order on each of them.

    Replica $r$ of $R$ has the rows $x_r$ of a batch $x = (x_1, \dots, x_R)$, and all compute the same function $f(x)$
    of the whole. The gradient is that of the sum of their $f$: $R \, \partial f / \partial x_r$ for the own rows, which
    requires no communication because the replicas agree. If each replica minimizes $f / R$ and gradients are summed, as
    the optimizers of Keras do, the result is the gradient of $f$, also for variables other than $x$.

    Args:
        values: Tensor `(b_r, …)`. The rows of this replica; all other axes are equal on all replicas. Half precision
            becomes float32. Integers and booleans have no gradient.

    Returns:
        Tensor `(b_1 + … + b_R, …)`; the values unchanged if there is only one replica.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> ops.gather_batch(tf.constant([1.0, 2.0])).numpy().tolist()  # one replica
        [1.0, 2.0]
    """
    values = tf.convert_to_tensor(values)
    count = replica_count()
    if count == 1:
        return values
    context = tf.distribute.get_replica_context()
    # Values from a dataset have no device yet, and all_gather requires one.
    values = tf.identity(values)
    if values.dtype == tf.bool:
        return tf.cast(context.all_gather(tf.cast(values, tf.int32), axis=0), tf.bool)
    if not values.dtype.is_floating:
        return context.all_gather(values, axis=0)
    rows = context.all_gather(tf.shape(values)[:1], axis=0)
    first = tf.reduce_sum(rows[: context.replica_id_in_sync_group])

    @tf.custom_gradient
    def gather(own):
        def gradient(upstream):
            return tf.cast(count, upstream.dtype) * upstream[first : first + tf.shape(own)[0]]

        return context.all_gather(own, axis=0), gradient

    return gather(at_least_float32(values))

