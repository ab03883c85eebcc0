"""Embedders as SavedModels, which need TensorFlow and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf

from tfdml import backbones
from tfdml._utils.arguments import check_whole_number
from tfdml._utils.foreign_graphs import check_saved_model
from tfdml._utils.types import Batches, InputRange, PathLike, TensorLike
from tfdml.data import Preprocessing
from tfdml.data.image_files import read_encoded
from tfdml.data.labeled_images import LabeledImages
from tfdml.models import MetricModel, embed
from tfdml.ops import MAX_PIXELS, UNIT_RANGE, check_input_range, decode_image, to_input_range
from tfdml.version import __version__

# The folder of a SavedModel that is left to those who write it.
_METADATA = Path("assets.extra", "tfdml.json")
_OUTPUT = "embedding"
_SIGNATURES = {"serving_default": "images", "serving_uint8": "images", "serving_encoded": "encoded"}
_SIGNATURES_OF_HEAD = {"serving_default": "features"}
# TensorFlow takes these in a path for patterns.
_PATTERN_CHARACTERS = set("*?[]\\{}")
# Interpolation and augmentation overshoot 0–1; images in 0–255 or standardized ones are far outside.
_TOLERANCE = 0.5


def export_saved_model(
    embedder: keras.Model,
    path: PathLike,
    preprocessing: Callable[[tf.Tensor], tf.Tensor] | None = None,
    input_range: InputRange | None = None,
    max_pixels: int = MAX_PIXELS,
) -> pathlib.Path:
    """Writes an embedder, with the preprocessing of its images, as a SavedModel.

    It is loaded by `tf.saved_model.load(path)`, TensorFlow Serving and whatever else reads a SavedModel,
    without this package, without Keras and without the Python code of the layers. Its signatures, each giving
    `{"embedding": (b, embedding_size)}` in float32 for any number `b` of images, 0 too:

    | signature | argument | images |
    |---|---|---|
    | `serving_default` | `images` | float32 `(b, h, w, c)` in 0–1 |
    | `serving_uint8` | `images` | uint8 `(b, h, w, c)` |
    | `serving_encoded` | `encoded` | `(b,)` strings: PNG, JPEG, GIF or BMP files, which may differ in size |

    h, w and c are what `preprocessing` takes; its default takes any size and 1 to 4 channels. Layers run as with
    `training=False`. `serving_default` can be differentiated by its images. `serving_encoded` applies the EXIF
    orientation and takes the first frame of a GIF.

    A signature gives the embeddings of a whole batch or an error (`InvalidArgument`): for an image without a batch
    axis, for images with other channels or without pixels, for floats that are NaN, infinite or far outside 0–1, and
    for a file that is not an image, is damaged or claims more than `max_pixels` pixels in its header.

    A head, which takes features `(b, d)` as `build_head` gives it, has the signature `serving_default` alone, with the
    argument `features`, float32 `(b, d)`.

    The folder appears whole or not at all: it is written beside its place and then moved there.

    Args:
        embedder: A built `keras.Model` from one batch of images `(b, height, width, channels)`, or of features
            `(b, d)`, to embeddings `(b, embedding_size)`; or a `MetricModel`, whose embedder is exported. Embeddings of
            half precision become float32.
        path: The folder to make, on a local disk. `~` is the home folder.
        preprocessing: From one decoded image `(h, w, c)`, of any size, uint8 or float32 in 0–1, to what the
            embedder takes; made of TensorFlow ops. `None` is `tfdml.data.Preprocessing` to the embedder's
            size and channels, which leaves images that have them as they are; for features there is none.
        input_range: What the embedder expects of images, `(low, high)` or a mode of `keras.applications` (`"caffe"`,
            `"tf"`, `"torch"`); served images are scaled to it. `None` is that of `preprocessing`; if this is the
            default, 0–1, an embedder that begins with a network of `keras.applications`, a `Rescaling` or a
            `Normalization` is served what these expect, with a warning, and one that takes integers 0–255. Embedders
            of `build_embedder` take 0–1. A `preprocessing` other than `tfdml.data.Preprocessing` gives what the
            embedder takes, unless there is an `input_range`.
        max_pixels: int. The largest image, height × width, that `serving_encoded` decodes.

    Returns:
        The path, as `pathlib.Path`.

    Raises:
        FileExistsError: If there is something at `path` already; nothing is overwritten.
        TypeError: If the embedder is no Keras model or the preprocessing cannot be called.
        ValueError: If the embedder does not take one batch of images or features and give one of vectors, if its
            input has no fixed size and there is no preprocessing, if the preprocessing gives another shape, if
            there is one of features, or if the input range is unclear or does not fit.
    """
    embedder = embedder.embedder if isinstance(embedder, MetricModel) else embedder
    input_shape, embedding_size = _sizes(embedder)
    max_pixels = check_whole_number("max_pixels", max_pixels, minimum=1)
    is_head = len(input_shape) == 1
    if is_head and input_range is not None:
        raise ValueError(f"Features have no input range. Received: input_range={input_range!r} with a head.")
    if is_head and preprocessing is not None:
        raise ValueError(
            f"Features are taken as they are. Received: preprocessing={preprocessing!r} with a head for features of "
            f"{input_shape[0]} numbers; expected None."
        )
    if not is_head:
        preprocessing = _checked_preprocessing(preprocessing, *input_shape)
        input_range = _checked_input_range(embedder, preprocessing, input_range)
        if isinstance(preprocessing, Preprocessing):
            preprocessing = preprocessing.with_input_range(UNIT_RANGE)
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise FileExistsError(
            f"The SavedModel would overwrite what is there. Received: path={str(path)!r}, which exists."
        )

    if is_head:
        module = _ServingHead(embedder)
    else:
        module = _Serving(embedder, preprocessing, input_shape, input_range, max_pixels)
    signatures = _SIGNATURES_OF_HEAD if is_head else _SIGNATURES
    metadata = {
        "tfdml_version": __version__,
        "tensorflow_version": tf.__version__,
        "keras_version": keras.__version__,
        "input_shape": list(module.input_shape),
        "embedding_size": embedding_size,
        "preprocessing": preprocessing.config() if isinstance(preprocessing, Preprocessing) else None,
        "input_range": input_range,
        "max_pixels": None if is_head else max_pixels,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with path_for_tensorflow(unfinished) as plain:
            tf.saved_model.save(
                module,
                plain,
                signatures={name: getattr(module, name) for name in signatures},
                # The gradients of tf.custom_gradient are Python code: their graphs are saved with the model's.
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
            )
        (unfinished / _METADATA).parent.mkdir()
        (unfinished / _METADATA).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        # A folder is never moved over one that holds something, should another have made it meanwhile.
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def load_saved_model(path: PathLike, trust: bool = False) -> SavedEmbedder:
    """Loads what `export_saved_model` wrote.

    A graph runs with the rights of the process, so it is checked before it is loaded.

    Args:
        path: The SavedModel's folder. `~` is the home folder.
        trust: Whether to load a SavedModel that has operations on files, processes, network or Python, or operations
            that TensorFlow does not know. Pass `True` only if you know who made it.

    Returns:
        A `SavedEmbedder`.

    Raises:
        FileNotFoundError: If there is no SavedModel at `path`.
        ValueError: If it is one that `export_saved_model` did not write, is damaged, or does not pass the check.
    """
    path = Path(path).expanduser()
    if not (path / "saved_model.pb").is_file():
        raise FileNotFoundError(f"Received: path={str(path)!r}; expected the folder of a SavedModel (saved_model.pb).")
    if not (path / _METADATA).is_file():
        raise ValueError(
            f"Received: path={str(path)!r}, a SavedModel without {_METADATA}; expected one of export_saved_model."
        )
    check_saved_model(path, trust)
    metadata = json.loads((path / _METADATA).read_text(encoding="utf-8"))
    with path_for_tensorflow(path) as plain:
        return SavedEmbedder(tf.saved_model.load(plain), metadata)


def is_own_saved_model(path: PathLike) -> bool:
    """Whether there is a SavedModel at `path` that `export_saved_model` wrote."""
    path = Path(path).expanduser()
    return (path / "saved_model.pb").is_file() and (path / _METADATA).is_file()


@contextlib.contextmanager
def path_for_tensorflow(folder):
    """The folder under a name that TensorFlow can open: it searches for patterns and takes names in UTF-8 alone."""
    text = os.fsdecode(folder)
    if not _PATTERN_CHARACTERS & set(text) and text.isprintable():
        yield text
        return
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary, "saved_model")
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield str(link)


class SavedEmbedder:
    """An embedder out of a SavedModel; it can stand where a function reads an embedder, as in `tfdml.models.embed`.

    Attributes:
        metadata: What was written beside the model: `"input_shape"` (height, width, channels; for a head the
            size of a feature alone), `"embedding_size"`, `"preprocessing"` (the arguments of
            `tfdml.data.Preprocessing`, `None` for another preprocessing or none), `"input_range"` (to which images
            are scaled behind it; `None` for none), and the versions
            `"tfdml_version"`, `"tensorflow_version"`, `"keras_version"`.
    """

    def __init__(self, model: Any, metadata: Mapping[str, Any]) -> None:
        # The signatures hold the variables only as long as the model lives.
        self._model = model
        self.metadata = metadata

    def __call__(self, images: TensorLike, training: bool = False) -> tf.Tensor:
        """Embeds one batch.

        Args:
            images: `(b, h, w, c)`, uint8 or float in 0–1, or `(b,)` encoded images; for a head features
                `(b, d)`, float.
            training: There for the likeness to a Keras model; only `False` is possible.

        Returns:
            Embeddings, a float32 tensor `(b, embedding_size)`.
        """
        if training:
            raise ValueError("A SavedModel cannot be trained. Received: training=True; expected False.")
        images = tf.convert_to_tensor(images)
        if self.takes_features:
            return self._embed_features(images)
        if images.dtype == tf.string:
            name = "serving_encoded"
        elif images.dtype == tf.uint8:
            name = "serving_uint8"
        elif images.dtype.is_floating:
            name, images = "serving_default", tf.cast(images, tf.float32)
        else:
            raise TypeError(
                f"Received: images of type {images.dtype.name}; expected float in 0–1, uint8, or encoded strings."
            )
        rank = 1 if name == "serving_encoded" else 4
        if images.shape.rank != rank:
            raise ValueError(
                f"Received: {images.dtype.name} of shape {images.shape}; "
                "expected (b, h, w, c), or (b,) encoded images."
            )
        return self._model.signatures[name](**{_SIGNATURES[name]: images})[_OUTPUT]

    @property
    def takes_features(self) -> bool:
        """Whether this is a head, which embeds features rather than images."""
        return len(self.metadata["input_shape"]) == 1

    @property
    def preprocessing(self) -> Any:
        """The shape that images are brought to and how, `None` for a head."""
        if self.takes_features:
            return None
        config = self.metadata["preprocessing"]
        if config is None:
            # Of another preprocessing, which is inside the model, images need only the shape.
            height, width, channels = self.metadata["input_shape"]
            config = {"size": (height, width), "channels": channels}
        return Preprocessing.from_config(config)

    def batches(self, dataset: LabeledImages, batch_size: int = 256) -> Any:
        """Batches of a `LabeledImages` as a call takes them: (uint8 images or encoded files, labels)."""
        if dataset.holds_paths:
            max_pixels = min(self.metadata.get("max_pixels") or MAX_PIXELS, dataset.max_pixels)

            def read(path):
                contents = tf.numpy_function(lambda path: read_encoded(path, max_pixels), [path], tf.string)
                return tf.ensure_shape(contents, [])

            paths = tf.data.Dataset.from_tensor_slices(dataset.encoded_paths)
            images = paths.map(read, num_parallel_calls=tf.data.AUTOTUNE)
        else:
            images = tf.data.Dataset.from_tensor_slices(dataset.images)
        labels = tf.data.Dataset.from_tensor_slices(dataset.labels)
        return tf.data.Dataset.zip((images, labels)).batch(batch_size).prefetch(2)

    def _embed_features(self, features):
        size = self.metadata["input_shape"][0]
        if not features.dtype.is_floating or features.shape.rank != 2 or features.shape[1] != size:
            raise ValueError(
                f"Received: {features.dtype.name} of shape {features.shape}; expected features (b, {size}), float."
            )
        features = tf.cast(features, tf.float32)
        return self._model.signatures["serving_default"](features=features)[_OUTPUT]

    def embed(self, data: Batches, batch_size: int = 256) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embeds a whole set, as `tfdml.models.embed` does.

        Args:
            data: Images `(n, h, w, c)`, uint8 or float in 0–1; or `n` encoded images (bytes of PNG or JPEG
                files); or a finite `tf.data.Dataset` of batches of these, or of (images, labels).
            batch_size: How many images at a time, where `data` is no data set.

        Returns:
            Embeddings, float32 NumPy array `(n, embedding_size)`; for a data set with labels (embeddings,
            labels).
        """
        return embed(self, data, batch_size)


class _Serving(tf.Module):
    """The functions and variables that go into the SavedModel: the same for both lines of Keras."""

    def __init__(self, embedder, preprocessing, image_shape, input_range, max_pixels):
        super().__init__()
        self.weights = _tensorflow_variables([*embedder.variables, *getattr(preprocessing, "variables", ())])
        dtype = tf.as_dtype(embedder.inputs[0].dtype)
        takes_batches = isinstance(preprocessing, Preprocessing)
        # AutoGraph is for code of users alone. An object with a __call__ has no name to give to tf.function.
        preprocess_one = preprocessing if takes_batches else tf.function(lambda one: preprocessing(one))

        def preprocess(images):
            if takes_batches:
                return preprocessing(images)
            image = tf.TensorSpec(self.input_shape, tf.float32)
            return tf.map_fn(lambda one: tf.cast(preprocess_one(one), tf.float32), images, fn_output_signature=image)

        def decode(index_and_contents):
            index, contents = index_and_contents
            image = decode_image(contents, max_pixels, source=("Image", index, "of the batch (from 0)"))
            return tf.cast(preprocess_one(image), tf.float32)

        def embeddings(images):
            # TensorFlow's convolutions on a CPU give a wrong shape for no image, so there it is one blank image.
            count = tf.shape(images)[0]
            blank = tf.zeros(tf.concat([[tf.cast(count == 0, tf.int32)], tf.shape(images)[1:]], axis=0))
            images = tf.concat([images, blank], axis=0)
            images.set_shape([None, *self.input_shape])
            if input_range is not None:
                images = to_input_range(images, input_range)
            images = tf.saturate_cast(tf.round(images), dtype) if dtype.is_integer else tf.cast(images, dtype)
            vectors = embedder(images, training=False)
            return {_OUTPUT: tf.cast(vectors, tf.float32)[:count]}

        def encoded_embeddings(encoded):
            encoded = _with_rank(encoded, 1)
            image = tf.TensorSpec(self.input_shape, tf.float32)
            numbered = (tf.range(tf.size(encoded)), encoded)
            return embeddings(tf.map_fn(decode, numbered, fn_output_signature=image))

        self.input_shape = _preprocessed_shape(preprocessing, image_shape)
        batch = [None, None, None, None]
        self.serving_default = tf.function(
            lambda images: embeddings(preprocess(_in_unit_range(_with_rank(images, 4)))),
            input_signature=[tf.TensorSpec(batch, tf.float32, name="images")],
            autograph=False,
        )
        self.serving_uint8 = tf.function(
            lambda images: embeddings(preprocess(_with_rank(images, 4))),
            input_signature=[tf.TensorSpec(batch, tf.uint8, name="images")],
            autograph=False,
        )
        self.serving_encoded = tf.function(
            encoded_embeddings,
            input_signature=[tf.TensorSpec([None], tf.string, name="encoded")],
            autograph=False,
        )


class _ServingHead(tf.Module):
    """The same for a network that takes features."""

    def __init__(self, head):
        super().__init__()
        self.weights = _tensorflow_variables(head.variables)
        self.input_shape = tuple(head.inputs[0].shape[1:])
        dtype = tf.as_dtype(head.inputs[0].dtype)
        if not dtype.is_floating:
            raise ValueError(f"Features are floats. Received: a head that takes {dtype.name}. Expected: a float input.")

        def embeddings(features):
            features = _finite(tf.ensure_shape(features, [None, *self.input_shape], name="features_batch_and_size"))
            return {_OUTPUT: tf.cast(head(tf.cast(features, dtype), training=False), tf.float32)}

        self.serving_default = tf.function(
            embeddings,
            input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32, name="features")],
            autograph=False,
        )


def _with_rank(tensor, rank):
    """The tensor, if it has this rank when it is served: a loaded graph is not checked, and TensorFlow may abort."""
    # The name is part of the error.
    name = "encoded_is_a_batch_of_files" if rank == 1 else "images_are_batch_height_width_channels"
    return tf.ensure_shape(tensor, [None] * rank, name=name)


def _finite(values):
    """The values, unless one is NaN or infinite."""
    is_good = tf.reduce_all(tf.math.is_finite(values), axis=list(range(1, values.shape.rank)))
    # The first that is not finite, or one past the end; there may be no rows.
    number = tf.argmin(tf.concat([is_good, [False]], axis=0))
    check = tf.debugging.Assert(
        tf.reduce_all(is_good), ["Values are NaN or infinite. Received: number", number, "of the batch (from 0)."]
    )
    with tf.control_dependencies([check]):
        return tf.identity(values)


def _in_unit_range(images):
    """Float images, unless they are not finite or in another range."""
    images = _finite(images)
    low, high = tf.reduce_min(images), tf.reduce_max(images)
    check = tf.debugging.Assert(
        (low >= -_TOLERANCE) & (high <= 1 + _TOLERANCE),
        ["Float images are in 0–1. Received: values from", low, "to", high, "Pass bytes to serving_uint8."],
    )
    with tf.control_dependencies([check]):
        return tf.identity(images)


def _tensorflow_variables(variables):
    """What is tracked: the variables alone.

    Tracking Keras 2 layers would write them, and their code's names, as well. A variable of Keras 3 wraps one of
    TensorFlow.
    """
    return [variable if isinstance(variable, tf.Variable) else variable.value for variable in variables]


def _sizes(embedder):
    """The shape of an image or a feature, and the size of an embedding."""
    if not isinstance(embedder, keras.Model):
        raise TypeError(f"Received: embedder of type {type(embedder).__name__}; expected a keras.Model.")
    inputs, outputs = (getattr(embedder, name, None) or [] for name in ("inputs", "outputs"))
    input_shapes, output_shapes = ([tuple(tensor.shape) for tensor in tensors] for tensors in (inputs, outputs))
    fits = len(inputs) == len(outputs) == 1 and len(input_shapes[0]) in (2, 4) and len(output_shapes[0]) == 2
    if not fits or input_shapes[0][-1] is None or output_shapes[0][-1] is None:
        raise ValueError(
            f"Received: an embedder with inputs of shapes {input_shapes} and outputs of shapes {output_shapes}; "
            "expected one input (b, height, width, channels) or (b, d) and one output (b, embedding_size)."
        )
    return input_shapes[0][1:], output_shapes[0][1]


def _checked_preprocessing(preprocessing, height, width, channels):
    if preprocessing is None:
        if None in (height, width):
            raise ValueError(
                "The embedder takes images of any size. "
                f"Received: an input of shape (b, {height}, {width}, {channels}) without preprocessing; "
                "expected preprocessing=tfdml.data.Preprocessing(size, channels)."
            )
        return Preprocessing(size=(height, width), channels=channels)
    if not callable(preprocessing):
        raise TypeError(f"Received: preprocessing={preprocessing!r}; expected a callable on one image.")
    return preprocessing


def _checked_input_range(embedder, preprocessing, given):
    """The range that preprocessed images are brought to, or `None` if they stay as they are."""
    dtype = tf.as_dtype(embedder.inputs[0].dtype)
    given = None if given is None else check_input_range(given)
    if not isinstance(preprocessing, Preprocessing):
        return given
    if preprocessing.input_range != UNIT_RANGE:
        if given not in (None, preprocessing.input_range):
            raise ValueError(
                f"Two input ranges. Received: input_range={given!r} with {preprocessing!r}. Expected: one of them."
            )
        given = preprocessing.input_range
    if given is None:
        given, name = backbones.expected_range(embedder)
        if name is None:
            given = (0.0, 255.0) if dtype.is_integer else UNIT_RANGE
        elif given != UNIT_RANGE:
            warnings.warn(
                f"The embedder begins with {name}, so served images are scaled to what that expects, {given!r}. Pass "
                "input_range=(0, 1) to export_saved_model if the embedder was trained on images in 0–1, or "
                f"input_range={given!r} to confirm.",
                stacklevel=3,
            )
    if isinstance(given, str) and embedder.inputs[0].shape[-1] != 3:
        raise ValueError(
            f"The input range {given!r} is for color images. Received: an embedder that takes "
            f"{embedder.inputs[0].shape[-1]} channels. Expected: 3."
        )
    if dtype.is_integer and given != (0.0, 255.0):
        raise ValueError(
            f"Rounding to integers would lose the image. Received: an embedder that takes {dtype.name} with "
            f"input_range={given!r}. Expected: input_range=(0, 255), or an embedder with a float input."
        )
    return given


def _preprocessed_shape(preprocessing, expected):
    """The shape of a preprocessed image; raises ValueError unless the embedder takes it."""
    shape = tf.TensorShape(expected)
    for dtype in (tf.float32, tf.uint8):
        image = tf.TensorSpec([None, None, None], dtype)
        # Not tf.function(preprocessing): an object with a __call__ has no name to give it.
        traced = tf.function(lambda one: preprocessing(one), autograph=not isinstance(preprocessing, Preprocessing))
        received = traced.get_concrete_function(image).output_shapes
        if not shape.is_compatible_with(received):
            raise ValueError(f"Received: preprocessing that gives images of shape {received}; expected {expected}.")
        shape = shape.merge_with(received)
    return tuple(shape)
