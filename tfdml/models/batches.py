"""Iterate over batches of images and labels, and check them before they reach a graph."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import os
import re
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfdml import backbones, ops
from tfdml._utils.keras_compat import number_of_batches_of, sequence_options
from tfdml._utils.types import Batches
from tfdml.ops.labels import squeeze_column

_BYTES = (0.0, 255.0)
# No standardization of images in 0–1 gives such values.
_BEYOND_UNIT = 16.0


def finite_batches(data, steps=None):
    """Return an iterable over the batches of a finite dataset.

    Args:
        data: `tf.data.Dataset`, `keras.utils.PyDataset` (`keras.utils.Sequence`) or another iterable of batches.
        steps: int. Number of batches to use; required for an endless dataset. `None` uses all batches. Default `None`.

    Returns:
        An iterable of batches. A `tf.data.Dataset` is returned unchanged.

    Raises:
        ValueError: If the dataset is endless and `steps` is `None`. Endless generators cannot be detected.
    """
    if steps is None and _is_endless(data):
        raise ValueError(
            f"The dataset is endless. Received: {type(data).__name__} of infinite cardinality. Expected: a finite "
            "dataset, such as `dataset.take(batches)` or one without `repeat()`."
        )
    if isinstance(data, keras.utils.Sequence):
        length = steps if number_of_batches(data) is None else number_of_batches(data)
        return (data[index] for index in range(length))
    return data


def check_rereadable(data, name):
    """Raise a TypeError if data can be read only once, as a generator.

    Args:
        data: Batches.
        name: str. What they are, for the message, such as `"Validation data"`.
    """
    if isinstance(data, collections.abc.Iterator):
        raise TypeError(
            f"{name} must be readable again and again. Received: {type(data).__name__}. Expected: arrays, a "
            "`tf.data.Dataset` or a `keras.utils.PyDataset`."
        )


def number_of_batches(data):
    """Return the number of batches of an iterable, or `None` if it is unknown or infinite."""
    try:
        return number_of_batches_of(data)
    except (TypeError, NotImplementedError):
        return None


def _is_endless(data):
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    return isinstance(data, keras.utils.Sequence) and number_of_batches(data) is None


def image_batches(data: Batches, batch_size: int = 256) -> Iterator[tuple[Any, Any]]:
    """Iterate over arrays, datasets or generators as batches of (images, labels).

    Use it in your own evaluation loops to accept every kind of data that `embed` accepts.

    Args:
        data: Array of images `(n, height, width, channels)`, or a tuple (images, labels) of arrays; or a finite
            `tf.data.Dataset`, `keras.utils.PyDataset`, generator or other iterable whose batches are images or
            (images, labels).
        batch_size: int. Images per batch; used for arrays only. Default 256.

    Yields:
        Pairs (images, labels) of one batch. Labels have shape `(batch,)`, or are `None` if the data has none.

    Raises:
        ValueError: If the dataset is endless or not batched, the numbers of images and labels differ, or an image
            contains NaN or infinity.

    Example:
        >>> images, labels = np.zeros((5, 8, 8, 1), "float32"), np.arange(5)
        >>> [batch_labels.tolist() for _, batch_labels in image_batches((images, labels), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """
    if not _is_array(data):
        for _, batch in checked_batches(enumerate(finite_batches(data))):
            yield batch.images, None if batch.labels is None else squeeze_column(batch.labels)
        return
    if isinstance(data, tuple) and len(data) not in (2, 3):
        raise _not_images(data)
    images, labels = (data[0], squeeze_column(data[1])) if isinstance(data, tuple) else (data, None)
    try:
        dataset = tf.data.Dataset.from_tensor_slices(images)
    except (ValueError, TypeError) as error:
        raise _not_images(data) from error
    _check_lengths(images, labels)
    first = 0
    for batch in dataset.batch(batch_size):
        check_finite_images(batch, first)
        yield batch, None if labels is None else labels[first : first + batch_size]
        first += batch_size


class LabeledBatch(NamedTuple):
    """Parts of a batch; `labels`, `is_query` and `weights` are `None` if the batch has none."""

    images: Any
    labels: Any = None
    is_query: np.ndarray | None = None
    weights: Any = None


def checked_batches(numbered):
    """Yield pairs (number, `LabeledBatch`) after checking the images and the number of labels.

    Args:
        numbered: Iterable of pairs (number, batch). A batch is images, (images, labels) or (images, labels, weights).
            Labels may be a dict with the keys `"label"` and `"is_query"`.

    Raises:
        ValueError: If an image contains NaN or infinity, or the numbers of images and labels differ.
    """
    first = 0
    for number, batch in numbered:
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        is_query = None
        if isinstance(labels, collections.abc.Mapping):
            if "is_query" in labels:
                is_query = np.asarray(labels["is_query"], bool).reshape(-1)
            labels = labels["label"]
        _check_lengths(images, labels)
        check_finite_images(images, first)
        first += len(tf.nest.flatten(images)[0])
        yield number, LabeledBatch(images, labels, is_query, weights)


def _not_images(data):
    """Return a ValueError that describes what was passed instead of images."""
    if isinstance(data, (list, tuple)):
        parts = [str(np.shape(part)) if hasattr(part, "shape") else type(part).__name__ for part in data[:4]]
        received = f"a {type(data).__name__} of {len(data)} ({', '.join(parts)}{', …' if len(data) > 4 else ''})"
    elif isinstance(data, (str, os.PathLike)):
        received = f"{os.fspath(data)!r}"
    else:
        received = f"an object of type {type(data).__name__}"
    return ValueError(
        f"Images must be an array or batches. Received: {received}. Expected: an array (n, height, width, channels), a "
        "tuple (images, labels), or a `tf.data.Dataset`; `tfdml.data.folder` reads image files."
    )


def check_images(model, images):
    """Raise a ValueError unless the type and shape of a batch match the input of a model.

    Integers are rejected rather than cast: 0–255 read as floats in 0–1 would saturate the network.

    Args:
        model: Keras model of images. A model without symbolic inputs accepts anything.
        images: Batch of images, or an object with its `shape` and `dtype`; a nest of them for several inputs.
    """
    model = getattr(model, "embedder", model)
    inputs, parts = getattr(model, "inputs", None) or [], tf.nest.flatten(images)
    if not inputs or not all(hasattr(part, "dtype") and hasattr(part, "shape") for part in (*inputs, *parts)):
        return
    if len(inputs) != len(parts):
        keys = f" with the keys {sorted(images)}" if isinstance(images, collections.abc.Mapping) else ""
        raise ValueError(
            f"Images do not fit the embedder. Received: {len(parts)} inputs, a {type(images).__name__}{keys}. "
            f"Expected: {len(inputs)}; pairs (images, labels) are tuples."
        )
    if len(inputs) > 1:
        return
    shape, expected = tf.TensorShape(parts[0].shape), tf.TensorShape(inputs[0].shape)
    dtype, expected_dtype = tf.as_dtype(parts[0].dtype), tf.as_dtype(inputs[0].dtype)
    if (dtype == tf.string) != (expected_dtype == tf.string):
        raise ValueError(
            f"Images must be numbers. Received: images of type {dtype.name}. Expected: {expected_dtype.name}; "
            "`tfdml.data.folder` reads image files."
        )
    # Keras adds and drops a last axis of 1.
    fits = shape.is_compatible_with(expected) or shape.rank != expected.rank and 1 in (shape[-1:] + expected[-1:])
    if not fits:
        raise ValueError(
            f"Images do not fit the embedder. Received: a batch of shape {tuple(shape)}. Expected: {tuple(expected)}."
        )
    if dtype.is_integer and expected_dtype.is_floating and expected.rank == 4 and _expected_range(model) != _BYTES:
        raise ValueError(
            f"Images are integers, but the embedder expects floats. Received: images of type {dtype.name}. Expected: "
            "floats in 0–1, such as `images / 255`, or `images.astype('float32')` for an embedder that expects 0–255."
        )


def warn_of_bytes(model, images):
    """Warn if float images are in 0–255 and the model is known to expect 0–1.

    Args:
        model: Keras model of images.
        images: Batch of images.
    """
    model, parts = getattr(model, "embedder", model), tf.nest.flatten(images)
    if len(parts) != 1 or len(getattr(parts[0], "shape", ())) != 4 or tf.is_symbolic_tensor(parts[0]):
        return
    if not (tf.as_dtype(parts[0].dtype).is_floating and isinstance(model, keras.Model)):
        return
    largest = float(np.max(parts[0], initial=0.0))
    if largest > _BEYOND_UNIT and _expected_range(model) == ops.UNIT_RANGE:
        warnings.warn(
            f"Images seem to be in 0–255, but the embedder expects 0–1. Received: values up to {largest:g}. Expected: "
            "images / 255.",
            stacklevel=4,
        )


def _expected_range(model):
    try:
        return backbones.expected_range(model)[0]
    except ValueError:  # The range is unknown.
        return None


def _check_lengths(images, labels):
    """Raise a ValueError unless there is one label per image."""
    if labels is None:
        return
    count, given = (tuple(np.shape(value))[:1] for value in (tf.nest.flatten(images)[0], labels))
    if not given or not count:
        raise ValueError(
            "The dataset is not batched. Received: single images. Expected: batches of (images, labels), such as "
            "`dataset.batch(32)`."
        )
    if count != given:
        raise ValueError(
            f"The numbers of images and labels differ. Received: {count[0]} images and {given[0]} labels. Expected: "
            "one label per image."
        )


def _is_array(data):
    # A list is converted to an array; a tuple is (images, labels); a dict has the inputs of a multi-input model.
    kinds = (np.ndarray, list, tuple, str, collections.abc.Mapping)
    is_of_arrays = isinstance(data, kinds) or tf.is_tensor(data) or hasattr(data, "__array__")
    return is_of_arrays or not isinstance(data, collections.abc.Iterable)


def check_finite_images(images, first=0):
    """Raise a ValueError that names the first image with NaN or infinity.

    Args:
        images: Batch of images; a nest of batches for several inputs.
        first: int. Index in the dataset of the batch's first image, for the message. Default 0.
    """
    for part in tf.nest.flatten(images):
        part = tf.convert_to_tensor(part)
        if not part.dtype.is_floating or bool(tf.math.is_finite(tf.reduce_sum(part))):
            continue
        # The sum of large finite values can overflow, so look at each value.
        wrong = ~np.isfinite(np.asarray(tf.cast(part, tf.float32))).reshape(len(part), -1).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"Images must be finite. Received: NaN or infinity in image {first + int(np.argmax(wrong))} "
                f"(counted from 0), and in {int(wrong.sum())} of the {len(part)} images of its batch. Expected: finite "
                "values, such as floats in 0–1."
            )


def check_finite_embeddings(embeddings):
    """Raise a ValueError that names the first row with NaN or infinity."""
    wrong = ~np.isfinite(embeddings).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"Embeddings must be finite. Received: NaN or infinity in row {int(np.argmax(wrong))} (counted from 0), "
            f"and in {int(wrong.sum())} of {len(wrong)} rows; the images are finite. Expected: an embedder with finite "
            "weights. Training may have diverged."
        )


@dataclasses.dataclass(frozen=True)
class LabelCheck:
    """Checks that training labels are integers and in the range of the class proxies, or what a relation compares.

    Attributes:
        classes: int. Number of classes, or `None` for no limit.
        of: str. Name of the object that has one entry per class, for messages.
        relation: `Relation` of labels that are not classes, or `None`.
    """

    classes: int | None = None
    of: str = "class proxies"
    relation: Any = None

    def array(self, labels):
        """Return the labels as integers of the same shape.

        Args:
            labels: Array or tensor of labels.

        Raises:
            ValueError: If a label is not a whole number or out of range.
        """
        if self.relation is not None:
            self.relation.encode(labels)
            return labels if hasattr(labels, "dtype") else np.asarray(labels)
        checked = ops.integer_labels(labels)
        if self.classes is not None:
            ops.check_label_range(checked, self.classes, self.of)
        # Valid labels are not copied.
        return labels if getattr(labels, "dtype", None) == checked.dtype else checked.numpy()

    def data(self, data):
        """Return data that checks the labels of each batch in the input pipeline.

        The check is not part of the training step, so it also works with `jit_compile=True`.

        Args:
            data: `tf.data.Dataset`, `keras.utils.PyDataset` or iterator (such as a generator) of (images, labels, …).

        Returns:
            Data of the same kind with the same batches. Data of any other kind is returned unchanged.

        Raises:
            ValueError: If the labels are not numeric.
        """
        if isinstance(data, tf.data.Dataset):
            return self._dataset(data)
        if isinstance(data, keras.utils.Sequence):
            return _CheckedSequence(data, self)
        return self._generator(data) if isinstance(data, collections.abc.Iterator) else data

    def _dataset(self, dataset):
        spec = dataset.element_spec
        if not isinstance(spec, tuple) or len(spec) < 2 or not isinstance(spec[1], tf.TensorSpec):
            return dataset
        if self.relation is not None:
            encode = tf.autograph.experimental.do_not_convert(self.relation.encode)
            return dataset.map(lambda images, labels, *weights: (images, encode(labels), *weights))
        ops.integer_labels(tf.zeros((0,), spec[1].dtype))
        if self.classes is None and not spec[1].dtype.is_floating:
            return dataset

        @tf.autograph.experimental.do_not_convert
        def checked(images, labels, *weights):
            whole = ops.integer_labels(labels)
            if self.classes is None:
                return images, whole, *weights
            known = ops.known_labels(whole, self.classes)
            # Flattened because the rank may be unknown.
            wrong = tf.boolean_mask(tf.reshape(whole, (-1,)), tf.reshape(~known, (-1,)))
            wrong = tf.strings.as_string(tf.unique(wrong)[0][:5])
            message = tf.strings.join([
                f"Labels are out of range for {self.of}. Received: ", tf.strings.reduce_join(wrong, separator=", "),
                f". Expected: 0 <= label < {self.classes}. Renumber labels with `tfdml.data.encode_labels`.",
            ])  # fmt: skip
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(known), [message])]):
                return images, tf.identity(whole), *weights

        return dataset.map(checked)

    def _generator(self, batches):
        for batch in batches:
            yield self.batch(batch)

    def batch(self, batch):
        """Check the labels of a batch (images, labels, …) and return the batch unchanged."""
        if isinstance(batch, (tuple, list)) and len(batch) > 1:
            self.array(batch[1])
        return batch


class _CheckedSequence(keras.utils.Sequence):
    """Wraps a Sequence and checks its batches."""

    def __init__(self, sequence, check):
        super().__init__(**sequence_options(sequence))
        self._sequence, self._check = sequence, check

    def __getitem__(self, index):
        return self._check.batch(self._sequence[index])

    def __len__(self):
        return len(self._sequence)

    @property
    def num_batches(self):
        return number_of_batches(self._sequence)

    def on_epoch_begin(self):
        if hasattr(self._sequence, "on_epoch_begin"):
            self._sequence.on_epoch_begin()

    def on_epoch_end(self):
        self._sequence.on_epoch_end()


@contextlib.contextmanager
def data_errors():
    """Re-raise a graph's error about labels or images as a one-line ValueError."""
    try:
        yield
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        found = _DATA_ERROR.search(str(error))
        if found is None:
            raise
        message = next(filter(None, found.groups()))
    else:
        return
    raise ValueError(message)


# Matches the message of an assertion, and the message that Keras 2 appends to a traceback.
_DATA_ERROR = re.compile(
    r"assertion failed: \[(Labels .*?)\](?: \[|\n|$)"
    r"|ValueError: ((?:Labels|Images) [^\n]*)|^((?:Labels|Images) [^\n]*)$",
    re.DOTALL,
)
