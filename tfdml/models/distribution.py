"""Workers and replicas of a `tf.distribute` strategy, and how they share an evaluation."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.types import ArrayLike, TensorLike


@dataclasses.dataclass(frozen=True)
class Workers:
    """Worker processes and devices of a distributed training run.

    Use it to split an evaluation over several processes and devices and to collect the results. Create it with
    `workers_of`.

    Attributes:
        strategy: `tf.distribute.Strategy`.
        index: int. Index of this process among the workers, from 0.
        count: int. Number of worker processes.
        replicas: int. Number of replicas (devices) per worker.

    Example:
        >>> workers = workers_of(tf.distribute.get_strategy())
        >>> workers.is_single, workers.is_chief
        (True, True)
        >>> list(workers.share(["first batch", "second batch"]))
        [(0, 'first batch'), (1, 'second batch')]
    """

    strategy: tf.distribute.Strategy
    index: int
    count: int
    replicas: int

    @property
    def is_single(self) -> bool:
        """Whether there is only one device."""
        return self.count * self.replicas == 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files and logs on behalf of all workers."""
        return self.index == 0

    def share(self, batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Yield every `count`-th batch, this worker's share, with its number.

        Args:
            batches: Iterable of all batches. A `tf.data.Dataset` with the auto-shard policy OFF is already this
                worker's share and is used whole.

        Yields:
            Pairs (number, batch), where number counts the batches of all workers.
        """
        if self.count == 1:
            yield from enumerate(batches)
            return
        if isinstance(batches, tf.data.Dataset):
            mine = batches if is_share(batches) else batches.shard(self.count, self.index)
        else:
            mine = itertools.islice(batches, self.index, None, self.count)
        for place, batch in enumerate(mine):
            yield place * self.count + self.index, batch

    def split(self, values: TensorLike) -> Any:
        """Split a batch into consecutive parts, one per replica of this worker, for `strategy.run`.

        Args:
            values: Array or tensor, `(batch, …)`.
        """
        values = tf.convert_to_tensor(values)
        rows = len(values)
        edges = [replica * rows // self.replicas for replica in range(self.replicas + 1)]

        def part(context):
            place = int(context.replica_id_in_sync_group) % self.replicas
            return values[edges[place] : edges[place + 1]]

        return self.strategy.experimental_distribute_values_from_function(part)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Concatenate the arrays of all workers along the first axis, in worker order.

        Every worker must call it.

        Args:
            array: NumPy array, `(n, …)`. `n` may differ between workers; the other axes and the dtype must not.

        Returns:
            NumPy array, `(total, …)`, the same on all workers.
        """
        if self.count == 1:
            return array

        def part(context):
            return tf.constant(array if int(context.replica_id_in_sync_group) % self.replicas == 0 else array[:0])

        return self.strategy.gather(self.strategy.experimental_distribute_values_from_function(part), axis=0).numpy()

    def broadcast(self, array: ArrayLike) -> np.ndarray:
        """Return the first worker's array on every worker.

        Every worker must call it with an array of the same shape and dtype.

        Args:
            array: Array of any shape.
        """
        return array if self.count == 1 else self.gather(np.asarray(array)[np.newaxis])[0]


def workers_of(strategy: tf.distribute.Strategy) -> Workers:
    """Return the `Workers` of a strategy.

    Args:
        strategy: `tf.distribute.Strategy`. The default strategy has one worker with one replica.

    Returns:
        `Workers`.

    Example:
        >>> workers_of(tf.distribute.get_strategy()).count
        1
    """
    total = strategy.num_replicas_in_sync
    if total == 1:
        return Workers(strategy, 0, 1, 1)
    replicas = len(strategy.extended.worker_devices)
    if replicas == total:
        return Workers(strategy, 0, 1, replicas)
    first = np.ravel(strategy.experimental_local_results(strategy.run(_replica_id)))[0]
    return Workers(strategy, int(first) // replicas, total // replicas, replicas)


def is_share(dataset):
    """Return whether a dataset is already one worker's share: its auto-shard policy is OFF."""
    policy = dataset.options().experimental_distribute.auto_shard_policy
    return policy == tf.data.experimental.AutoShardPolicy.OFF


def _replica_id():
    return tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
