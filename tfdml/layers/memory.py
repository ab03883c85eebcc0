"""A memory of the embeddings of past batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdml import ops
from tfdml._utils.arguments import FormerNames, check_choice, check_whole_number
from tfdml._utils.keras_compat import tensorflow_variable
from tfdml._utils.types import Config, Labels, TensorLike
from tfdml.layers.references import References


@keras.saving.register_keras_serializable(package="tfdml")
class CrossBatchMemory(FormerNames, keras.layers.Layer):
    """Queue of the embeddings of past batches, used as references for the current one (XBM).

    Use it with a loss on pairs if the batch is too small to contain enough positives and negatives: pass it to
    `MetricModel(references=…)`. Once training has settled, embeddings change slowly, so those of past batches still
    serve as positives and negatives, and comparing a batch with `size` of them costs one matrix product.

    `update` replaces the oldest samples with a batch. Calling the layer without arguments returns the memory as
    `References`. `MetricModel` computes the loss before it updates the memory, so a sample is never compared with
    itself. Choose `size` larger than the number of samples between two batches with the same class; otherwise the
    memory contains hardly any positives.

    Until `warmup_steps` updates have been made, no reference is valid, so a loss against the memory is 0 while the
    network still changes fast. The memory is filled nevertheless. The queue and its position are non-trainable weights
    and part of every checkpoint.

    With a relation of `tfdml.relations`, the memory stores the labels that it compares: pass `label_shape=(2,)` and
    `label_dtype="float32"` for positions in the plane, `label_shape=(tags,)` for multi-hot tags.

    Args:
        size: int, >= 1. Number of samples in the memory.
        embedding_size: int, >= 1. Size of the embeddings.
        warmup_steps: int, >= 0. Number of updates before the memory is used. Default: 0.
        label_shape: Sequence of int. Shape of the label of a sample: `()` for a class or an id, `(n,)` for a vector.
            Default: `()`.
        label_dtype: `"int64"`, `"float32"` or `"float64"`. Type of the labels. Default: `"int64"`.
        **kwargs: `name` and other arguments of a Keras layer. Weights are float32 under every dtype policy.

    Raises:
        ValueError: If an argument is not an integer or too small, or the type of the labels is unknown.

    Reference:
        Wang et al., "Cross-batch memory for embedding learning", CVPR 2020.

    Example:
        >>> from tfdml import layers
        >>> memory = layers.CrossBatchMemory(size=3, embedding_size=1)
        >>> memory.update([7, 8], [[1.0], [2.0]])
        >>> memory.update([9, 9], [[3.0], [4.0]])
        >>> references = memory()
        >>> references.embeddings.numpy().tolist(), references.labels.numpy().tolist()
        ([[4.0], [2.0], [3.0]], [9, 8, 9])
    """

    former_names = {"dim": "embedding_size"}

    def __init__(
        self,
        size: int,
        embedding_size: int,
        warmup_steps: int = 0,
        label_shape: Sequence[int] = (),
        label_dtype: str = "int64",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"trainable": False, **kwargs})
        self.size = check_whole_number("size", size, minimum=1)
        self.embedding_size = check_whole_number("embedding_size", embedding_size, minimum=1)
        self.warmup_steps = check_whole_number("warmup_steps", warmup_steps, minimum=0)
        self.label_shape = tuple(check_whole_number("label_shape", length, minimum=1) for length in label_shape)
        self.label_dtype = check_choice("label_dtype", label_dtype, ("int64", "float32", "float64"))
        # Embeddings stay in float32 under every dtype policy.
        self.embeddings = self._state("embeddings", (self.size, self.embedding_size), "float32")
        self.labels = self._state("labels", (self.size, *self.label_shape), self.label_dtype)
        # Counts since the beginning. The position in the queue and its fill follow from the number of samples.
        self.samples_seen = self._state("samples_seen", (), "int64")
        self.batches_seen = self._state("batches_seen", (), "int64")
        self.built = True

    def _state(self, name, shape, dtype):
        return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

    def __call__(self) -> References:
        """Return the memory as `References`.

        Returns:
            `References` with `size` embeddings. Slots not filled yet are marked invalid, and so are all slots during
            the warm-up.
        """
        filled = tf.range(self.size, dtype=tf.int64) < tf.convert_to_tensor(self.samples_seen)
        is_used = tf.convert_to_tensor(self.batches_seen) >= self.warmup_steps
        return References(
            embeddings=tf.stop_gradient(tf.convert_to_tensor(self.embeddings)),
            labels=tf.convert_to_tensor(self.labels),
            valid=filled & is_used,
        )

    def update(self, labels: Labels, embeddings: TensorLike) -> None:
        """Replace the oldest samples with a batch.

        Of a batch larger than the memory, the last `size` samples are kept.

        Args:
            labels: int tensor, `(batch,)` or `(batch, 1)`. Class labels, or labels of `label_shape` and `label_dtype`.
            embeddings: float tensor, `(batch, embedding_size)`.

        Raises:
            ValueError: If the embeddings or labels have another size, or a label is not an integer but should be.
        """
        embeddings = tf.cast(tf.stop_gradient(embeddings), tf.float32)
        if not embeddings.shape.is_compatible_with((None, self.embedding_size)):
            raise ValueError(
                f"The embeddings do not match the memory. Received: shape {embeddings.shape}. Expected: (batch, "
                f"{self.embedding_size})."
            )
        labels = self._checked_labels(labels, embeddings)
        seen = tf.convert_to_tensor(self.samples_seen) + tf.shape(embeddings, tf.int64)[0]
        embeddings, labels = embeddings[-self.size :], labels[-self.size :]
        count = tf.shape(embeddings, tf.int64)[0]
        # XLA would compile a range that starts at a variable's value again for each value.
        places = (seen - count + tf.range(count)) % self.size
        _put(self.embeddings, places, embeddings)
        _put(self.labels, places, labels)
        self.samples_seen.assign(seen)
        self.batches_seen.assign_add(1)

    def _checked_labels(self, labels, embeddings):
        if not self.label_shape and self.label_dtype == "int64":
            return ops.check_labels(labels, embeddings)
        labels = tf.convert_to_tensor(labels)
        if labels.shape.rank == 1 and self.label_shape == (1,):
            labels = labels[:, None]
        if not labels.shape.is_compatible_with((embeddings.shape[0], *self.label_shape)):
            raise ValueError(
                f"The labels do not match the memory. Received: labels of shape {labels.shape}. Expected: "
                f"{('batch', *self.label_shape)}. Create the memory with the label_shape of these labels."
            )
        return tf.cast(labels, self.label_dtype)

    def get_config(self) -> Config:
        config = {
            **super().get_config(),
            "size": self.size,
            "embedding_size": self.embedding_size,
            "warmup_steps": self.warmup_steps,
        }
        if self.label_shape or self.label_dtype != "int64":
            config.update(label_shape=list(self.label_shape), label_dtype=self.label_dtype)
        return config


def _put(weight, places, rows):
    """Write rows in place, without copying the other rows."""
    variable = tensorflow_variable(weight)
    if isinstance(variable, tf.distribute.DistributedValues):
        # Distributed variables do not support partial writes. Each replica assigns the same value to its own copy.
        variable.assign(tf.tensor_scatter_nd_update(tf.convert_to_tensor(variable), places[:, None], rows))
    else:
        variable.scatter_nd_update(places[:, None], rows)
