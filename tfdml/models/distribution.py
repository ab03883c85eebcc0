"""The workers and replicas of a `tf.distribute` strategy, and how they share an evaluation."""

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
    """The worker processes of a training and their devices.

    Attributes:
        strategy: The `tf.distribute.Strategy`.
        index: Which worker this process is, from 0.
        count: How many worker processes there are.
        replicas: How many replicas (devices) each of them has.
    """

    strategy: tf.distribute.Strategy
    index: int
    count: int
    replicas: int

    @property
    def is_single(self) -> bool:
        """Whether there is one device only."""
        return self.count * self.replicas == 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files and speaks for all."""
        return self.index == 0

    def share(self, batches: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """This worker's batches with their numbers: every `count`-th one.

        Args:
            batches: An iterable of all batches; or a `tf.data.Dataset` with the auto-shard policy OFF, which is already
                the worker's share.

        Yields:
            (number, batch).
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
        """Consecutive parts of a batch for the replicas of this worker, as `strategy.run` takes them."""
        values = tf.convert_to_tensor(values)
        rows = len(values)
        edges = [replica * rows // self.replicas for replica in range(self.replicas + 1)]

        def part(context):
            place = int(context.replica_id_in_sync_group) % self.replicas
            return values[edges[place] : edges[place + 1]]

        return self.strategy.experimental_distribute_values_from_function(part)

    def gather(self, array: np.ndarray) -> np.ndarray:
        """The rows of all workers' arrays, worker by worker. All workers must call it.

        Args:
            array: NumPy, `(n, …)`; the other axes and the type are the same on all workers.
        """
        if self.count == 1:
            return array

        def part(context):
            return tf.constant(array if int(context.replica_id_in_sync_group) % self.replicas == 0 else array[:0])

        return self.strategy.gather(self.strategy.experimental_distribute_values_from_function(part), axis=0).numpy()

    def broadcast(self, array: ArrayLike) -> np.ndarray:
        """The first worker's array, for all. All workers must call it, with arrays of one shape and type."""
        return array if self.count == 1 else self.gather(np.asarray(array)[np.newaxis])[0]


def workers_of(strategy: tf.distribute.Strategy) -> Workers:
    """The `Workers` of a strategy.

    Args:
        strategy: A `tf.distribute.Strategy`; the default one is one worker with one replica.
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
    """Whether a data set says of itself that it is a worker's share already: its auto-shard policy is OFF."""
    policy = dataset.options().experimental_distribute.auto_shard_policy
    return policy == tf.data.experimental.AutoShardPolicy.OFF


def _replica_id():
    return tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
