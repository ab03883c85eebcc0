"""A memory of the embeddings of past batches."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import FormerNames, check_whole_number
from tfdml._utils.keras_compat import tensorflow_variable
from tfdml._utils.types import Config, Labels, TensorLike
from tfdml.layers.references import References


@keras.saving.register_keras_serializable(package="tfdml")
class CrossBatchMemory(FormerNames, keras.layers.Layer):
    r"""The embeddings of the last batches, as references for the present one.

    Embeddings drift slowly once training has settled, so those of past batches still serve as positives and negatives:
    a batch is compared with `size` samples at the price of a matrix product. `update` puts a batch in, in place of the
    oldest samples; calling the layer, without arguments, gives the memory as `References`.
    A model that scores the batch before it puts it in, as `MetricModel` does, never compares a sample with itself.
    A memory that holds less than what comes between two visits of a class has hardly any positives in it.

    Before `warmup_steps` updates no reference is valid, so that a loss against the memory is worth 0 while the network
    still moves fast. The memory is filled all the same, and starts full. The queue and its place are weights that are
    not trained: every checkpoint holds them.

    Args:
        size: How many samples it holds.
        embedding_size: Size of the embedding.
        warmup_steps: How many updates pass before the memory is used.

    Raises:
        ValueError: If a number is no integer or too small.

    Reference:
        Wang et al., "Cross-batch memory for embedding learning", CVPR 2020.

    Example:
        >>> memory = CrossBatchMemory(size=3, embedding_size=1)
        >>> memory.update([7, 8], [[1.0], [2.0]])
        >>> memory.update([9, 9], [[3.0], [4.0]])
        >>> references = memory()
        >>> references.embeddings.numpy().tolist(), references.labels.numpy().tolist()
        ([[4.0], [2.0], [3.0]], [9, 8, 9])
    """

    former_names = {"dim": "embedding_size"}

    def __init__(self, size: int, embedding_size: int, warmup_steps: int = 0, **kwargs: Any) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.size = check_whole_number("size", size, minimum=1)
        self.embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
        self.warmup_steps = check_whole_number("warmup_steps", warmup_steps, minimum=0)
        # In float32 under every precision policy.
        self.embeddings = self._state("embeddings", (self.size, self.embedding_size), "float32")
        self.labels = self._state("labels", (self.size,), "int64")
        # How many samples and batches came in since the beginning: the queue's place and fill follow from the first.
        self.samples_seen = self._state("samples_seen", (), "int64")
        self.batches_seen = self._state("batches_seen", (), "int64")
        self.built = True

    def _state(self, name, shape, dtype):
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def __call__(self) -> References:
        """The memory as `References`; places that nothing came into yet are not valid, and none is in the warm-up."""
        filled = tf.range(self.size, dtype=tf.int64) < tf.convert_to_tensor(self.samples_seen)
        is_used = tf.convert_to_tensor(self.batches_seen) >= self.warmup_steps
        return References(
            embeddings=tf.stop_gradient(tf.convert_to_tensor(self.embeddings)),
            labels=tf.convert_to_tensor(self.labels),
            valid=filled & is_used,
        )

    def update(self, labels: Labels, embeddings: TensorLike) -> None:
        """Puts a batch in place of the oldest samples; of one larger than the memory its last `size` samples.

        Args:
            labels: Integer class labels, `(batch,)` or `(batch, 1)`.
            embeddings: `(batch, dim)`.

        Raises:
            ValueError: If the embeddings have another size, or a label is not an integer.
        """
        embeddings = tf.cast(tf.stop_gradient(embeddings), tf.float32)
        if not embeddings.shape.is_compatible_with((None, self.embedding_size)):
            raise ValueError(
                f"The memory holds embeddings of another size. Received: shape {embeddings.shape}; "
                f"expected (batch, {self.embedding_size})."
            )
        labels = ops.check_labels(labels, embeddings)
        seen = tf.convert_to_tensor(self.samples_seen) + tf.shape(embeddings, tf.int64)[0]
        embeddings, labels = embeddings[-self.size :], labels[-self.size :]
        count = tf.shape(embeddings, tf.int64)[0]
        # A range from a variable's value would be compiled anew by XLA for each value.
        places = (seen - count + tf.range(count)) % self.size
        _put(self.embeddings, places, embeddings)
        _put(self.labels, places, labels)
        self.samples_seen.assign(seen)
        self.batches_seen.assign_add(1)

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "size": self.size,
            "embedding_size": self.embedding_size,
            "warmup_steps": self.warmup_steps,
        }


def _put(weight, places, rows):
    """Writes rows in place, rather than a new array with the old rows in it."""
    variable = tensorflow_variable(weight)
    if isinstance(variable, tf.distribute.DistributedValues):
        # Those of several replicas cannot be written in part. Each replica writes the same into its own.
        variable.assign(tf.tensor_scatter_nd_update(tf.convert_to_tensor(variable), places[:, None], rows))
    else:
        variable.scatter_nd_update(places[:, None], rows)
