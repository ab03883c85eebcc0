"""Aliases for the annotations of the public API, without TensorFlow, which commands import when they need it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Callable, Literal, Optional, Union

import numpy.typing as npt

if TYPE_CHECKING:
    import tensorflow as tf

    # TensorFlow has no types: unions with its tensors check nothing at calls and fail where tensors are used.
    TensorLike = Any
    ArrayLike = Any
    Labels = Any
else:
    # Anything that TensorFlow converts to a tensor.
    TensorLike = Union["tf.Tensor", "tf.Variable", npt.ArrayLike]
    # Anything that NumPy converts to an array, including tensors outside of a graph.
    ArrayLike = Union["tf.Tensor", npt.ArrayLike]
    # Class labels, (n,) or (n, 1): integers. Metrics and containers also take strings.
    Labels = Union["tf.Tensor", npt.ArrayLike]

# A trainable or non-trainable weight: a `tf.Variable` of Keras 2, a `keras.Variable` of Keras 3.
Weight = Any

PathLike = Union[str, "os.PathLike[str]"]

# `None` is an axis of unknown length.
Shape = Sequence[Optional[int]]

# The arguments of an object, as `get_config` gives and `from_config` takes them.
Config = dict[str, Any]

# The logs of an epoch or a batch, as Keras hands them to callbacks. Some callbacks of this package add to them.
Logs = dict[str, Any]

# A name, a configuration as `keras.saving.serialize_keras_object` gives, an object or a callable.
Identifier = Union[str, dict[str, Any], Callable[..., Any], Any]

# Images or features: an array, a pair of arrays (images, labels), or batches of images or of (images, labels).
Batches = Union["tf.data.Dataset", npt.ArrayLike, Iterable[Any]]

DistanceName = Literal["l2", "squared_l2", "cosine"]

# (low, high), or a mode: "caffe", "tf" or "torch" of `keras.applications`, or "clip".
InputRange = Union[tuple[float, float], str]

# (index, count): which part of how many.
Part = tuple[int, int]

FrozenBatchNorm = Literal["none", "statistics", "all"]
