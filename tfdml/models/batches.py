"""Batches of images and labels, from whatever holds them, and the checks that they pass before they reach a graph."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import os
import re
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


def finite_batches(data, steps=None):
    """Refuses endless datasets, and gives the batches of a Keras dataset one after the other.

    Args:
        data: A `tf.data.Dataset`, a `keras.utils.PyDataset` (`keras.utils.Sequence`), or another iterable of batches.
        steps: The number of batches that are taken, which may be of an endless dataset; `None` takes all.

    Returns:
        An iterable of batches: a `tf.data.Dataset` as it is.

    Raises:
        ValueError: If there is no end of the batches. Of a generator that cannot be told.
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


def number_of_batches(data):
    """The number of batches of an iterable, or `None` if it is unknown or infinite."""
    try:
        return number_of_batches_of(data)
    except (TypeError, NotImplementedError):
        return None


def _is_endless(data):
    if isinstance(data, tf.data.Dataset):
        return int(data.cardinality()) == tf.data.INFINITE_CARDINALITY
    return isinstance(data, keras.utils.Sequence) and number_of_batches(data) is None


def image_batches(data: Batches, batch_size: int = 256) -> Iterator[tuple[Any, Any]]:
    """Gives (images, labels or None), batch by batch, and refuses images that are not finite.

    Args:
        data: An array of images, or a pair of arrays (images, labels); or a finite `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a generator or another iterable of batches of images or of (images, labels).
        batch_size: For arrays.

    Yields:
        Pairs of a batch of images and its labels `(batch,)`, or `None`.

    Raises:
        ValueError: If the dataset is endless or not batched, images and labels differ in number, or an image has a
            value that is not finite.
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
    """The parts of a batch; `labels`, `is_query` and `weights` are `None` where it has none."""

    images: Any
    labels: Any = None
    is_query: np.ndarray | None = None
    weights: Any = None


def checked_batches(numbered):
    """Gives pairs of a number and a `LabeledBatch`; refuses images that are not finite and labels of another number.

    Args:
        numbered: Pairs of a number and a batch: images, (images, labels) or (images, labels, weights). Labels can be a
            dict of `"label"` and `"is_query"`.
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
    """A ValueError that tells what was given in the place of images."""
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
    """Raises a ValueError unless a batch fits the input of a model: in kind, in shape, and as integers or floats.

    Integers are not cast to the floats in 0–1 that an embedder takes: all images would look alike.

    Args:
        model: A Keras model from images. Models that do not tell their inputs take anything.
        images: A batch, or what has its `shape` and `dtype`; of several inputs a nest of them.
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
            f"Images are integers, and the embedder takes floats. Received: images of type {dtype.name}. Expected: "
            "floats in 0–1, such as `images / 255`; for an embedder that takes 0–255, `images.astype('float32')`."
        )


def _expected_range(model):
    try:
        return backbones.expected_range(model)[0]
    except ValueError:  # Nothing tells.
        return None


def _check_lengths(images, labels):
    """Raises a ValueError if there is not one label for each image."""
    if labels is None:
        return
    count, given = (tuple(np.shape(value))[:1] for value in (tf.nest.flatten(images)[0], labels))
    if not given or not count:
        raise ValueError(
            "The dataset is not batched. Received: elements of one image. Expected: batches of (images, labels), such "
            "as `dataset.batch(32)`."
        )
    if count != given:
        raise ValueError(
            f"Images and labels differ in number. Received: {count[0]} images and {given[0]} labels. Expected: one "
            "label for each image."
        )


def _is_array(data):
    # Lists are arrays of lists; a tuple is (images, labels), a dict has the inputs of a model with several.
    kinds = (np.ndarray, list, tuple, str, collections.abc.Mapping)
    is_of_arrays = isinstance(data, kinds) or tf.is_tensor(data) or hasattr(data, "__array__")
    return is_of_arrays or not isinstance(data, collections.abc.Iterable)


def check_finite_images(images, first=0):
    """Raises a ValueError that names the first image with NaN or infinity.

    Args:
        images: A batch; of several inputs a nest of them.
        first: The number of the first image of the batch, for the message.
    """
    for part in tf.nest.flatten(images):
        part = tf.convert_to_tensor(part)
        if not part.dtype.is_floating or bool(tf.math.is_finite(tf.reduce_sum(part))):
            continue
        # Large values that are finite can have an infinite sum.
        wrong = ~np.isfinite(np.asarray(tf.cast(part, tf.float32))).reshape(len(part), -1).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"Images must be finite. Received: NaN or infinity in image {first + int(np.argmax(wrong))} "
                f"(counted from 0), and in {int(wrong.sum())} of the {len(part)} images of its batch. Expected: finite "
                "values, such as floats in 0–1."
            )


def check_finite_embeddings(embeddings):
    """Raises a ValueError that names the first row with NaN or infinity."""
    wrong = ~np.isfinite(embeddings).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"Embeddings must be finite. Received: NaN or infinity in row {int(np.argmax(wrong))} (counted from 0), "
            f"and in {int(wrong.sum())} of {len(wrong)} rows, of images that are finite. Expected: an embedder whose "
            "weights are finite; training may have diverged."
        )


@dataclasses.dataclass(frozen=True)
class LabelCheck:
    """What the labels of training batches must be: integers, and in the range of what is trained for each class.

    Attributes:
        classes: The number of classes, or `None` for any.
        of: What has one entry per class, for messages.
    """

    classes: int | None = None
    of: str = "class proxies"

    def array(self, labels):
        """The labels as integers, checked one by one, in the shape they have.

        Args:
            labels: An array or a tensor.

        Raises:
            ValueError: If one is not a whole number or out of range.
        """
        checked = ops.integer_labels(labels)
        if self.classes is not None:
            ops.check_label_range(checked, self.classes, self.of)
        # What is sound is handed on as it is.
        return labels if getattr(labels, "dtype", None) == checked.dtype else checked.numpy()

    def data(self, data):
        """Training data whose labels are checked when a batch is made, which XLA does not compile.

        Args:
            data: A `tf.data.Dataset`, a `keras.utils.PyDataset`, or an iterator, such as a generator, of (images,
                labels, …).

        Returns:
            Data of the same kind and the same batches; what is of another kind as it is.

        Raises:
            ValueError: If the labels have a type that is not a number.
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
        ops.integer_labels(tf.zeros((0,), spec[1].dtype))
        if self.classes is None and not spec[1].dtype.is_floating:
            return dataset

        @tf.autograph.experimental.do_not_convert
        def checked(images, labels, *weights):
            whole = ops.integer_labels(labels)
            if self.classes is None:
                return images, whole, *weights
            known = ops.known_labels(whole, self.classes)
            # Flat, as the number of axes may be unknown.
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
        """A batch (images, labels, …) as it is, its labels checked."""
        if isinstance(batch, (tuple, list)) and len(batch) > 1:
            self.array(batch[1])
        return batch


class _CheckedSequence(keras.utils.Sequence):
    """Batches of another one, checked."""

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
    """Raises what a graph says of wrong labels and images as a ValueError of one line."""
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


# What an assertion says, and what Keras 2 puts below the lines of the code that raised it.
_DATA_ERROR = re.compile(
    r"assertion failed: \[(Labels .*?)\](?: \[|\n|$)"
    r"|ValueError: ((?:Labels|Images) [^\n]*)|^((?:Labels|Images) [^\n]*)$",
    re.DOTALL,
)
