"""What the replicas of a `tf.distribute` strategy see of each other: the whole batch."""

from __future__ import annotations

import tensorflow as tf

from tfdml.ops.precision import at_least_float32


def has_replicas() -> bool:
    """Whether what is made here is made for several replicas: inside the scope of a strategy that has them."""
    return tf.distribute.has_strategy() and tf.distribute.get_strategy().num_replicas_in_sync > 1


def replica_count() -> int:
    """How many replicas share a batch here: 1 outside of a replica and without a strategy."""
    if tf.distribute.get_replica_context() is None:
        return 1
    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_batch(values: tf.Tensor) -> tf.Tensor:
    r"""The rows of all replicas, in the replicas' order, as each of them sees them.

    Replica $r$ of $R$ has the rows $x_r$ of a batch $x = (x_1, \dots, x_R)$, and all compute the same function
    $f(x)$ of the whole. The gradient is of the sum of their $f$: $R \, \partial f / \partial x_r$ for the own rows,
    which needs no communication as the replicas agree. Replicas that minimise $f / R$ each, and add up their
    gradients as the optimizers of Keras do, thus follow the gradient of $f$, also in what is no part of $x$.

    Args:
        values: Of this replica, `(b_r, …)`; the other axes are the same on all. Half precisions become float32.
            Integers and booleans have no gradient.

    Returns:
        `(b_1 + … + b_R, …)`; the values as they are where there is one replica.
    """
    values = tf.convert_to_tensor(values)
    count = replica_count()
    if count == 1:
        return values
    context = tf.distribute.get_replica_context()
    # What comes from a data set is on no device yet, and only what is on one is gathered.
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

