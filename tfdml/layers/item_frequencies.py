"""How often items are drawn into batches."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import check_between, check_whole_number
from tfdml._utils.types import ArrayLike, Config, Labels


@keras.saving.register_keras_serializable(package="tfdml")
class ItemFrequencies(keras.layers.Layer):
    r"""Probabilities with which items are drawn into batches, estimated during training or given.

    Use it with `DualEncoder(frequencies=…)`: in-batch negatives are drawn as often as the item occurs in the data, so
    popular items would be pushed away from all queries. The loss subtracts $\log q_j$ from the logit of item $j$.

    In training, the layer estimates the number of steps $B_j$ from one occurrence of item $j$ to the next, with
    $q_j = 1 / B_j$. If the item occurs in step $t$, and did so before in step $A_j$,

    $$B_j \leftarrow (1 - \alpha) \, B_j + \alpha \, (t - A_j), \qquad A_j \leftarrow t.$$

    The first occurrence sets $B_j = t$, instead of an average with the initial value. An item that has not occurred
    counts as one that occurs in the next step. With `rate=0`, the layer does not learn: call `set_counts`, or create it
    with `from_counts`, if the frequencies are known.

    Args:
        size: int, >= 1. Number of estimates. With `rate` > 0, an id uses the estimate of its remainder by `size`, so
            ids may exceed it; ids that differ by a multiple of `size` share an estimate. With `rate=0`, ids must lie
            in 0 … `size - 1`.
        rate: float in 0–1. $\alpha$. Default: 0.05.
        **kwargs: `name` and other arguments of a Keras layer. Weights are float32 and int64 under every dtype policy.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019,
        algorithm 2.

    Example:
        >>> from tfdml import layers
        >>> frequencies = layers.ItemFrequencies(size=3, rate=0.5)
        >>> for ids in ([0, 1], [0, 2], [0, 2], [0, 1]):
        ...     frequencies.update(ids)
        >>> frequencies.gaps.numpy().tolist()  # every step; steps 1 and 4; steps 2 and 3
        [1.0, 2.0, 1.5]
    """

    def __init__(self, size: int, rate: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.size = check_whole_number("size", size, minimum=1)
        self.rate = check_between("rate", rate, 0.0, 1.0)
        self.gaps = self._state("gaps", (self.size,), "float32")
        self.last_steps = self._state("last_steps", (self.size,), "int64")
        self.steps = self._state("steps", (), "int64")
        self.built = True

    def _state(self, name, shape, dtype):
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    @classmethod
    def from_counts(cls, counts: ArrayLike, **kwargs: Any) -> ItemFrequencies:
        """Create a layer with known frequencies, which does not learn.

        Args:
            counts: `(size,)`. The number of occurrences of each item, by id.
            **kwargs: Other arguments of the layer.

        Returns:
            `ItemFrequencies`.

        Example:
            >>> from tfdml import layers
            >>> frequencies = layers.ItemFrequencies.from_counts([2, 1, 1])
            >>> frequencies.gaps.numpy().tolist()  # 1 / q
            [2.0, 4.0, 4.0]
        """
        counts = np.asarray(counts)
        layer = cls(int(counts.size), rate=0.0, **kwargs)
        layer.set_counts(counts)
        return layer

    def set_counts(self, counts: ArrayLike) -> None:
        """Set the frequencies to the shares of items in the data.

        Args:
            counts: `(size,)`. The number of occurrences of each item, by id, not negative. Items without an occurrence
                get the frequency of the rarest one.

        Raises:
            ValueError: If the shape differs, a count is negative or not finite, or all are 0.
        """
        counts = np.asarray(counts, np.float64)
        if counts.shape != (self.size,):
            raise ValueError(f"Counts have the wrong shape. Received: {counts.shape}. Expected: {(self.size,)}.")
        if not (np.isfinite(counts) & (counts >= 0)).all() or not counts.any():
            raise ValueError(
                f"Counts must be finite and not negative. Received: values from {counts.min():g} to {counts.max():g}. "
                "Expected: counts >= 0, at least one of them positive."
            )
        self.gaps.assign(counts.sum() / np.maximum(counts, counts[counts > 0].min()))
        self.last_steps.assign(tf.zeros_like(tf.convert_to_tensor(self.last_steps)))

    def log_probabilities(self, ids: Labels) -> tf.Tensor:
        r"""Return $\log q_j$ of items.

        Args:
            ids: int tensor `(items,)`.

        Returns:
            float32 tensor `(items,)`.

        Raises:
            ValueError: If `rate` is 0 and an id is out of range.
        """
        gaps = tf.gather(tf.convert_to_tensor(self.gaps), self._places(ids))
        unseen = tf.cast(tf.convert_to_tensor(self.steps) + 1, gaps.dtype)
        return -tf.math.log(tf.where(gaps > 0, gaps, unseen))

    def update(self, ids: Labels) -> None:
        """Count one step in which items occur. With `rate=0`, nothing changes.

        Args:
            ids: int tensor `(batch,)`. Items that were drawn into the batch; an item counts once.
        """
        if not self.rate:
            return
        places = self._places(ids)
        step = tf.convert_to_tensor(self.steps) + 1
        gaps, last_steps = tf.convert_to_tensor(self.gaps), tf.convert_to_tensor(self.last_steps)
        old, last = tf.gather(gaps, places), tf.gather(last_steps, places)
        since = tf.cast(step - last, gaps.dtype)
        new = tf.where(last > 0, (1 - self.rate) * old + self.rate * since, since)
        # Equal ids have equal values, so their order does not matter.
        self.gaps.assign(tf.tensor_scatter_nd_update(gaps, places[:, None], new))
        self.last_steps.assign(
            tf.tensor_scatter_nd_update(last_steps, places[:, None], tf.fill(tf.shape(places), step))
        )
        self.steps.assign(step)

    def _places(self, ids):
        ids = tf.reshape(ops.integer_labels(ids), (-1,))
        if self.rate:
            return ids % self.size
        return ops.check_label_range(ids, self.size, f"ItemFrequencies({self.size}, rate=0)")

    def get_config(self) -> Config:
        return {**super().get_config(), "size": self.size, "rate": self.rate}
