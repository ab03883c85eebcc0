"""Base class of the relations."""

from __future__ import annotations

import abc

import tensorflow as tf

from tfdml._utils.arguments import configuration
from tfdml._utils.types import Config, Labels, TensorLike
from tfdml.ops.labels import as_label_tensor, known_labels
from tfdml.ops.pair_masks import PairMasks

_SHOWN = 5
# Stands for floats that are not whole numbers in graphs, where XLA drops the assertion about them.
NO_INTEGER = -(2**63)


class Relation(abc.ABC):
    """Base class of objects that decide which pairs of samples are positive and which are negative.

    Pass one to any loss that compares pairs, `losses.TripletLoss(relation=relations.Within(1.0, 4.0))`, to
    `MetricModel.compile(relation=…)`, which also evaluates with it, or to `tfdml.metrics.retrieval_metrics`. Labels are
    then what the relation compares: positions, tags or ids instead of classes.

    To write a relation, implement `masks` and store every argument as an attribute of the same name. Override `sound`
    to check labels, and `relevance` for graded relevance.

    Attributes:
        names_classes: bool. Whether labels are class labels, which class proxies and losses on classes need.
        label_rank: 0 or 1. The rank of the label of one sample: 0 for a number, 1 for a vector.
        label_dtype: str. `"int64"` or `"float64"`. The type of labels; float32 labels stay float32.
        is_graded: bool. Whether `relevance` has other values than 0 and 1.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import losses, ops, relations
        >>> class SameParity(relations.Relation):
        ...     def masks(self, labels, others):
        ...         same = labels[:, None] % 2 == others[None, :] % 2
        ...         return ops.PairMasks(same, ~same)
        >>> loss = losses.ContrastiveLoss(relation=SameParity())
        >>> float(loss([2, 4, 5], [[0.0], [0.25], [0.5]]))  # 0.25 for the positive pair, 0.25 for the negative one
        0.5
    """

    names_classes: bool = False
    label_rank: int = 0
    label_dtype: str = "int64"
    is_graded: bool = False
    # What is wrong with labels that are not sound, and what is expected, for messages.
    _problem = "Labels must be whole numbers"
    _expected = "integers (batch,)"

    @abc.abstractmethod
    def masks(self, labels: tf.Tensor, others: tf.Tensor) -> PairMasks:
        """Find the positive and the negative pairs. Pairs in neither count for nothing.

        Args:
            labels: Tensor `(batch,)`, or `(batch, n)` if `label_rank` is 1, from `encode`.
            others: The same, of the samples to compare with. A sample that is compared with itself may get any result.

        Returns:
            `tfdml.ops.PairMasks`, each `(batch, others)`.
        """

    def relevance(self, labels: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Compute how relevant samples are to each other, for metrics of graded relevance.

        Args:
            labels: As for `masks`.
            others: As for `masks`.

        Returns:
            float32 tensor `(batch, others)` of values >= 0, which are positive for positive pairs.
        """
        return tf.cast(self.masks(labels, others).positives, tf.float32)

    def sound(self, labels: tf.Tensor) -> tf.Tensor:
        """Find the samples whose label is valid.

        Args:
            labels: Tensor `(batch,)` or `(batch, n)`.

        Returns:
            bool tensor `(batch,)`.
        """
        if self.label_dtype == "float64":
            return tf.ones(tf.shape(labels)[:1], tf.bool)
        wrong = labels == tf.cast(NO_INTEGER, labels.dtype)
        return ~(tf.reduce_any(wrong, axis=1) if self.label_rank else wrong)

    def encode(self, labels: Labels) -> tf.Tensor:
        """Convert labels to the tensor that `masks` compares, and check them.

        Values are checked eagerly and in graphs. XLA drops assertions; losses are NaN there for samples with wrong
        labels.

        Args:
            labels: Array or tensor, one label per sample.

        Returns:
            Tensor `(batch,)`, or `(batch, n)` if `label_rank` is 1.

        Raises:
            ValueError: If the shape or the type is wrong; outside of a graph also if a value is.
            tf.errors.InvalidArgumentError: In a graph, if a value is wrong.
        """
        labels = self.convert(labels)
        sound = self.sound(labels)
        if not tf.is_symbolic_tensor(labels):
            wrong = (~sound.numpy()).nonzero()[0]
            if len(wrong):
                more = "" if len(wrong) == 1 else f", and {len(wrong)} of {len(labels)} in total"
                raise ValueError(
                    f"{self._problem}. Received: {labels[int(wrong[0])].numpy().tolist()} of sample {wrong[0]} "
                    f"(counted from 0){more}. Expected: {self._expected}."
                )
            return labels
        message = f"{self._problem}. Received: others among these. Expected: {self._expected}."
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(sound), [message, labels], summarize=_SHOWN)]):
            return tf.identity(labels)

    def convert(self, labels: Labels) -> tf.Tensor:
        """Convert labels to the shape and type that `masks` compares, without a check of their values.

        Args:
            labels: As for `encode`.

        Returns:
            Tensor as from `encode`.

        Raises:
            ValueError: If the shape or the type is wrong.
        """
        return self._typed(self._shaped(as_label_tensor(labels)))

    def _shaped(self, labels):
        rank = labels.shape.rank
        if rank is None:
            # As from tf.py_function.
            return tf.reshape(labels, (tf.shape(labels)[0], -1) if self.label_rank else (-1,))
        if rank == 2 and self.label_rank == 0 and labels.shape[1] in (1, None):
            return tf.reshape(labels, (-1,))
        if rank == 1 and self.label_rank == 1:
            return labels[:, None]
        if rank != 1 + self.label_rank:
            raise ValueError(
                f"Labels have the wrong shape for {type(self).__name__}. Received: labels of shape {labels.shape}. "
                f"Expected: {self._expected}."
            )
        return labels

    def _typed(self, labels):
        if self.label_dtype == "float64":
            return labels if labels.dtype in (tf.float32, tf.float64) else tf.cast(labels, _wide(labels.dtype))
        if not labels.dtype.is_floating:
            return tf.cast(labels, tf.int64)
        # Keras casts labels to floats before it calls a loss, which rounds large integers.
        whole = known_labels(labels)
        received = f"others than whole numbers that {labels.dtype.name} holds exactly"
        if tf.is_symbolic_tensor(labels):
            message = f"{self._problem}. Received: {received}. Expected: {self._expected}."
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(whole), [message, labels])]):
                numbers = tf.cast(tf.where(whole, labels, tf.zeros_like(labels)), tf.int64)
                return tf.where(whole, numbers, tf.constant(NO_INTEGER, tf.int64))
        if not bool(tf.reduce_all(whole)):
            wrong = float(labels.numpy()[~whole.numpy()].reshape(-1)[0])
            raise ValueError(f"{self._problem}. Received: {received}, such as {wrong:g}. Expected: {self._expected}.")
        return tf.cast(labels, tf.int64)

    def get_config(self) -> Config:
        return configuration(self)

    @classmethod
    def from_config(cls, config: Config) -> Relation:
        return cls(**config)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({options})"


def _wide(dtype):
    """The type of float labels: integers become float64, half precision becomes float32."""
    return tf.float32 if dtype.is_floating else tf.float64


def outer(labels: TensorLike, others: TensorLike) -> tuple[tf.Tensor, tf.Tensor]:
    """Return labels as a column and others as a row, in one type, so that an operation on them gives all pairs."""
    labels = tf.convert_to_tensor(labels)
    return labels[:, None], tf.cast(others, labels.dtype)[None, :]
