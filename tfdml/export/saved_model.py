"""Export embedders as SavedModels, which need only TensorFlow."""

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

# The folder of a SavedModel that is reserved for additional files.
METADATA = Path("assets.extra", "tfdml.json")
# Two towers have other signatures than an embedder.
TOWERS_METADATA = Path("assets.extra", "tfdml_dual_encoder.json")
_OUTPUT = "embedding"
_SIGNATURES = {
    "serving_default": "images",
    "serving_uint8": "images",
    "serving_encoded": "encoded",
    "serving_preprocessed": "images",
}
_SIGNATURES_OF_HEAD = {"serving_default": "features"}
# TensorFlow interprets these characters in a path as patterns.
_PATTERN_CHARACTERS = set("*?[]\\{}")
# Interpolation and augmentation exceed 0–1 slightly; images in 0–255 and standardized images exceed it by far.
_TOLERANCE = 0.5


def export_saved_model(
    embedder: keras.Model,
    path: PathLike,
    preprocessing: Callable[[tf.Tensor], tf.Tensor] | None = None,
    input_range: InputRange | None = None,
    max_pixels: int = MAX_PIXELS,
) -> pathlib.Path:
    """Export an embedder, together with the preprocessing of its images, as a SavedModel.

    Use it to serve a trained embedder. TensorFlow Serving, `tf.saved_model.load(path)` and other readers of SavedModels
    load it without this package, without Keras and without the Python code of the layers. Each signature returns
    `{"embedding": (batch, embedding_size)}` in float32 for any number of images, including 0:

    | signature | argument | images |
    |---|---|---|
    | `serving_default` | `images` | float32 `(batch, h, w, c)` in 0–1 |
    | `serving_uint8` | `images` | uint8 `(batch, h, w, c)` |
    | `serving_encoded` | `encoded` | `(batch,)` strings: PNG, JPEG, GIF or BMP files, which may differ in size |
    | `serving_preprocessed` | `images` | float32 of the size of the embedder, not preprocessed |

    `serving_preprocessed` accepts what `preprocessing` returns, before it is scaled to `input_range`. For
    `tfdml.data.Preprocessing` these are images in 0–1, whatever its own range.

    h, w and c are those that `preprocessing` accepts; the default accepts any size and 1 to 4 channels. Layers run with
    `training=False`. `serving_default` is differentiable with respect to images. `serving_encoded` applies the EXIF
    orientation and uses the first frame of a GIF.

    A signature returns the embeddings of the whole batch or raises an error (`InvalidArgument`): for images without a
    batch axis, with another number of channels or without pixels; for floats that are NaN, infinite or far outside 0–1;
    and for files that are not images, are damaged or declare more than `max_pixels` pixels in the header.

    A head of features `(batch, dim)`, such as one made by `build_head`, has only the signature `serving_default` with
    the argument `features`, float32 `(batch, dim)`.

    The folder appears complete or not at all: it is written under a temporary name next to `path` and then renamed.

    Args:
        embedder: Built `keras.Model` from one batch of images `(batch, height, width, channels)` or features
            `(batch, dim)` to embeddings `(batch, embedding_size)`; or a `MetricModel`, whose embedder is exported.
            Half-precision embeddings become float32.
        path: str or `os.PathLike`. Folder to create, on a local disk. `~` is the home folder.
        preprocessing: Function of TensorFlow ops from one decoded image `(h, w, c)` of any size, uint8 or float32 in
            0–1, to an image that the embedder accepts. `None` means `tfdml.data.Preprocessing` with the embedder's size
            and channels, which leaves images of this shape unchanged. Must be `None` for features. Default `None`.
        input_range: tuple (low, high) or a mode of `keras.applications` (`"caffe"`, `"tf"`, `"torch"`). Range that the
            embedder expects; served images are scaled to it. `None` uses that of `preprocessing`. If this is the
            default, 0–1, the range is inferred for an embedder that starts with a network of `keras.applications`, a
            `Rescaling` or a `Normalization` layer, with a warning, and is 0–255 for an embedder with integer input.
            Embedders made by `build_embedder` expect 0–1. If `preprocessing` is not a `tfdml.data.Preprocessing`, its
            result is scaled only if `input_range` is given. Default `None`.
        max_pixels: int. Largest height · width of an image that `serving_encoded` decodes.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: If `path` exists; nothing is overwritten.
        TypeError: If the embedder is not a `keras.Model`, or the preprocessing is not callable.
        ValueError: If the embedder does not have one input of images or features and one output of vectors, its input
            has no fixed size and there is no preprocessing, the preprocessing returns another shape or is given for
            features, or the input range is ambiguous or inconsistent.

    Example:
        >>> embedder = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = export_saved_model(embedder, os.path.join(folder, "embedder"))
        ...     saved = load_saved_model(path)
        ...     tuple(saved(np.zeros((1, 20, 10, 3), "uint8")).shape)
        (1, 2)
    """
    embedder = embedder.embedder if isinstance(embedder, MetricModel) else embedder
    input_shape, embedding_size = _sizes(embedder)
    max_pixels = check_whole_number("max_pixels", max_pixels, minimum=1)
    is_head = len(input_shape) == 1
    if is_head and input_range is not None:
        raise ValueError(f"Features have no input range. Received: input_range={input_range!r} with a head.")
    if is_head and preprocessing is not None:
        raise ValueError(
            f"Features are not preprocessed. Received: preprocessing={preprocessing!r} with a head for features of "
            f"size {input_shape[0]}. Expected: None."
        )
    if not is_head:
        preprocessing = _checked_preprocessing(preprocessing, *input_shape)
        input_range = _checked_input_range(embedder, preprocessing, input_range)
        if isinstance(preprocessing, Preprocessing):
            preprocessing = preprocessing.with_input_range(UNIT_RANGE)
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise FileExistsError(
            f"The path exists already. Received: path={str(path)!r}. Expected: a new path. Remove the folder, or "
            "export to another one."
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
    write_saved_model(path, module, {name: getattr(module, name) for name in signatures}, METADATA, metadata)
    return path


def load_saved_model(path: PathLike, trust: bool = False) -> SavedEmbedder:
    """Load a SavedModel written by `export_saved_model`.

    Use it to embed with an exported model in Python, with the metadata of the export. A graph runs with the rights of
    the process, so it is checked before it is loaded.

    Args:
        path: str or `os.PathLike`. Folder of the SavedModel. `~` is the home folder.
        trust: bool. Load the SavedModel even if it contains operations on files, processes, the network or Python, or
            operations unknown to TensorFlow. Pass `True` only if you trust its author. Default `False`.

    Returns:
        `SavedEmbedder`.

    Raises:
        FileNotFoundError: If there is no SavedModel at `path`.
        ValueError: If it was not written by `export_saved_model`, is damaged, or does not pass the check.

    Example:
        >>> head = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = load_saved_model(export_saved_model(head, os.path.join(folder, "head")))
        ...     saved.embed(np.zeros((3, 4), "float32")).shape
        (3, 2)
    """
    path = Path(path).expanduser()
    if not (path / "saved_model.pb").is_file():
        raise FileNotFoundError(
            f"There is no SavedModel. Received: path={str(path)!r}. Expected: a folder with saved_model.pb."
        )
    if (path / TOWERS_METADATA).is_file():
        raise ValueError(
            f"This SavedModel has two encoders, of queries and of items. Received: path={str(path)!r}. Expected: one "
            "of an embedder. Load it with `tfdml.export.load_dual_encoder`."
        )
    if not (path / METADATA).is_file():
        raise ValueError(
            f"The SavedModel was not written by tfdml. Received: path={str(path)!r} without {METADATA}. Expected: a "
            "folder written by export_saved_model."
        )
    check_saved_model(path, trust)
    metadata = json.loads((path / METADATA).read_text(encoding="utf-8"))
    with path_for_tensorflow(path) as plain:
        return SavedEmbedder(tf.saved_model.load(plain), metadata)


def is_own_saved_model(path: PathLike) -> bool:
    """Return whether `path` is a SavedModel written by `export_saved_model`.

    Args:
        path: str or `os.PathLike`. Folder to look at; it may not exist.

    Example:
        >>> is_own_saved_model("no/such/folder")
        False
    """
    path = Path(path).expanduser()
    return (path / "saved_model.pb").is_file() and (path / METADATA).is_file()


def write_saved_model(path, module, signatures, metadata_name, metadata):
    """Write a SavedModel and its metadata, as a whole or not at all.

    Args:
        path: `pathlib.Path` that does not exist.
        module: `tf.Module`.
        signatures: dict of functions.
        metadata_name: `pathlib.Path` of the metadata in the folder.
        metadata: dict that JSON can hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        with path_for_tensorflow(unfinished) as plain:
            tf.saved_model.save(
                module,
                plain,
                signatures=signatures,
                # The gradients of tf.custom_gradient are Python code, so save their graphs, too.
                options=tf.saved_model.SaveOptions(experimental_custom_gradients=True),
            )
        (unfinished / metadata_name).parent.mkdir()
        (unfinished / metadata_name).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        # Renaming fails if another process has created a folder with content in the meantime.
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@contextlib.contextmanager
def path_for_tensorflow(folder):
    """Give the folder a name that TensorFlow can open: only UTF-8, without characters of patterns."""
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
    """Embedder loaded from a SavedModel.

    Use it wherever a function accepts an embedder for inference, such as `tfdml.models.embed`. Create it with
    `load_saved_model`.

    Args:
        model: Object returned by `tf.saved_model.load`.
        metadata: dict. Metadata of the export.

    Attributes:
        metadata: dict with `"input_shape"` (height, width, channels; for a head, the size of a feature),
            `"embedding_size"`, `"preprocessing"` (arguments of `tfdml.data.Preprocessing`; `None` for another
            preprocessing or none), `"input_range"` (range to which preprocessed images are scaled; `None` for none),
            and the versions `"tfdml_version"`, `"tensorflow_version"` and `"keras_version"`.

    Example:
        >>> head = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = load_saved_model(export_saved_model(head, os.path.join(folder, "head")))
        >>> saved.takes_features, saved.metadata["embedding_size"]
        (True, 2)
    """

    def __init__(self, model: Any, metadata: Mapping[str, Any]) -> None:
        # Signatures keep their variables alive only while the loaded model is alive.
        self._model = model
        self.metadata = metadata

    def __call__(self, images: TensorLike, training: bool = False) -> tf.Tensor:
        """Embed one batch.

        Args:
            images: Images `(batch, h, w, c)`, uint8 or float in 0–1, or encoded images `(batch,)`; for a head, float
                features `(batch, dim)`.
            training: bool. Exists for compatibility with Keras models; must be `False`. Default `False`.

        Returns:
            float32 tensor `(batch, embedding_size)`.
        """
        if training:
            raise ValueError("A SavedModel cannot be trained. Received: training=True. Expected: training=False.")
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
                f"Images have the wrong type. Received: {images.dtype.name}. Expected: float in 0–1, uint8, or encoded "
                "strings."
            )
        rank = 1 if name == "serving_encoded" else 4
        if images.shape.rank != rank:
            raise ValueError(
                f"Images have the wrong shape. Received: {images.dtype.name} of shape {images.shape}. "
                "Expected: (batch, h, w, c), or (batch,) encoded images."
            )
        return self._model.signatures[name](**{_SIGNATURES[name]: images})[_OUTPUT]

    @property
    def variables(self) -> list[Any]:
        """Variables of the network and its preprocessing, in an order that the SavedModel fixes."""
        return list(self._model.signatures["serving_default"].variables)

    @property
    def takes_features(self) -> bool:
        """Whether this is a head, which embeds features instead of images."""
        return len(self.metadata["input_shape"]) == 1

    @property
    def preprocessing(self) -> Any:
        """`tfdml.data.Preprocessing` of the images; `None` for a head."""
        if self.takes_features:
            return None
        config = self.metadata["preprocessing"]
        if config is None:
            # The model contains another preprocessing, which needs only images of this shape.
            height, width, channels = self.metadata["input_shape"]
            config = {"size": (height, width), "channels": channels}
        return Preprocessing.from_config(config)

    def batches(self, dataset: LabeledImages, batch_size: int = 256) -> Any:
        """Return batches of a dataset in the form that a call accepts.

        Args:
            dataset: `LabeledImages`.
            batch_size: int. Images per batch. Default 256.

        Returns:
            Finite `tf.data.Dataset` of (uint8 images or encoded files, labels).
        """
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
                f"Features do not fit the head. Received: {features.dtype.name} of shape {features.shape}. Expected: "
                f"floats (batch, {size})."
            )
        features = tf.cast(features, tf.float32)
        return self._model.signatures["serving_default"](features=features)[_OUTPUT]

    def embed(self, data: Batches, batch_size: int = 256) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Embed a whole dataset, as `tfdml.models.embed` does.

        Args:
            data: Images `(n, h, w, c)`, uint8 or float in 0–1; `n` encoded images (bytes of PNG or JPEG files); or a
                finite `tf.data.Dataset` of batches of these or of (images, labels).
            batch_size: int. Images per batch; used for arrays only. Default 256.

        Returns:
            float32 NumPy array of embeddings `(n, embedding_size)`; if the data has labels, the pair (embeddings,
            labels).
        """
        return embed(self, data, batch_size)


class _Serving(tf.Module):
    """Functions and variables of the SavedModel; the same for both versions of Keras."""

    def __init__(self, embedder, preprocessing, image_shape, input_range, max_pixels):
        super().__init__()
        self.weights = _tensorflow_variables([*embedder.variables, *getattr(preprocessing, "variables", ())])
        dtype = tf.as_dtype(embedder.inputs[0].dtype)
        takes_batches = isinstance(preprocessing, Preprocessing)
        # Only users' code needs AutoGraph. The lambda is needed because tf.function requires a __name__.
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
            # On a CPU, TensorFlow's convolutions return a wrong shape for an empty batch, so embed one blank image.
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
        check = _in_unit_range if takes_batches else _finite
        self.serving_preprocessed = tf.function(
            lambda images: embeddings(check(tf.ensure_shape(images, [None, *self.input_shape], name="images_size"))),
            input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32, name="images")],
            autograph=False,
        )


class _ServingHead(tf.Module):
    """Functions and variables of the SavedModel of a head."""

    def __init__(self, head):
        super().__init__()
        self.weights = _tensorflow_variables(head.variables)
        self.input_shape = tuple(head.inputs[0].shape[1:])
        dtype = tf.as_dtype(head.inputs[0].dtype)
        if not dtype.is_floating:
            raise ValueError(
                f"Features must be floats. Received: a head with an input of type {dtype.name}. Expected: float."
            )

        def embeddings(features):
            features = _finite(tf.ensure_shape(features, [None, *self.input_shape], name="features_batch_and_size"))
            return {_OUTPUT: tf.cast(head(tf.cast(features, dtype), training=False), tf.float32)}

        self.serving_default = tf.function(
            embeddings,
            input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32, name="features")],
            autograph=False,
        )


def _with_rank(tensor, rank):
    """Check the rank at run time: a loaded graph is not checked otherwise, and TensorFlow may abort the process."""
    # The name appears in the error.
    name = "encoded_is_a_batch_of_files" if rank == 1 else "images_are_batch_height_width_channels"
    return tf.ensure_shape(tensor, [None] * rank, name=name)


def _finite(values):
    """Return the values after checking that none is NaN or infinite."""
    is_good = tf.reduce_all(tf.math.is_finite(values), axis=list(range(1, values.shape.rank)))
    # The first row that is not finite, or the number of rows, which may be 0.
    number = tf.argmin(tf.concat([is_good, [False]], axis=0))
    check = tf.debugging.Assert(
        tf.reduce_all(is_good), ["Values are NaN or infinite. Received: number", number, "of the batch (from 0)."]
    )
    with tf.control_dependencies([check]):
        return tf.identity(values)


def _in_unit_range(images):
    """Return float images after checking that they are finite and in 0–1."""
    images = _finite(images)
    low, high = tf.reduce_min(images), tf.reduce_max(images)
    check = tf.debugging.Assert(
        (low >= -_TOLERANCE) & (high <= 1 + _TOLERANCE),
        ["Float images are in 0–1. Received: values from", low, "to", high, "Pass bytes to serving_uint8."],
    )
    with tf.control_dependencies([check]):
        return tf.identity(images)


def _tensorflow_variables(variables):
    """Return the TensorFlow variables to track.

    Tracking Keras 2 layers would also save the layers and the names of their code. A Keras 3 variable wraps a
    TensorFlow variable.
    """
    # Keras 2 lists the vocabulary of a text layer as a weight, although it is not a variable.
    return [
        variable if isinstance(variable, tf.Variable) else variable.value
        for variable in variables
        if isinstance(variable, tf.Variable) or hasattr(variable, "value")
    ]


def _sizes(embedder):
    """Return the shape of an image or a feature, and the size of an embedding."""
    if not isinstance(embedder, keras.Model):
        raise TypeError(f"The embedder is not a model. Received: {type(embedder).__name__}. Expected: a keras.Model.")
    inputs, outputs = (getattr(embedder, name, None) or [] for name in ("inputs", "outputs"))
    input_shapes, output_shapes = ([tuple(tensor.shape) for tensor in tensors] for tensors in (inputs, outputs))
    fits = len(inputs) == len(outputs) == 1 and len(input_shapes[0]) in (2, 4) and len(output_shapes[0]) == 2
    if not fits or input_shapes[0][-1] is None or output_shapes[0][-1] is None:
        raise ValueError(
            "The embedder has the wrong inputs or outputs. "
            f"Received: an embedder with inputs of shapes {input_shapes} and outputs of shapes {output_shapes}. "
            "Expected: one input (b, height, width, channels) or (b, d), and one output (b, embedding_size)."
        )
    return input_shapes[0][1:], output_shapes[0][1]


def _checked_preprocessing(preprocessing, height, width, channels):
    if preprocessing is None:
        if None in (height, width):
            raise ValueError(
                "The embedder's input has no fixed size. "
                f"Received: an input of shape (b, {height}, {width}, {channels}) without preprocessing. "
                "Expected: preprocessing=tfdml.data.Preprocessing(size, channels)."
            )
        return Preprocessing(size=(height, width), channels=channels)
    if not callable(preprocessing):
        raise TypeError(
            f"Invalid preprocessing. Received: preprocessing={preprocessing!r}. Expected: a function of one image."
        )
    return preprocessing


def _checked_input_range(embedder, preprocessing, given):
    """Return the range to which preprocessed images are scaled, or `None` if they are not scaled."""
    dtype = tf.as_dtype(embedder.inputs[0].dtype)
    given = None if given is None else check_input_range(given)
    if not isinstance(preprocessing, Preprocessing):
        return given
    if preprocessing.input_range != UNIT_RANGE:
        if given not in (None, preprocessing.input_range):
            raise ValueError(
                f"Two input ranges are given. Received: input_range={given!r} with {preprocessing!r}. Expected: one."
            )
        given = preprocessing.input_range
    if given is None:
        given, name = backbones.expected_range(embedder)
        if name is None:
            given = (0.0, 255.0) if dtype.is_integer else UNIT_RANGE
        elif given != UNIT_RANGE:
            warnings.warn(
                f"The embedder starts with {name}, so served images are scaled to the range it expects, {given!r}. "
                "Pass input_range=(0, 1) to export_saved_model if the embedder was trained on images in 0–1, or "
                f"input_range={given!r} to confirm.",
                stacklevel=3,
            )
    if isinstance(given, str) and embedder.inputs[0].shape[-1] != 3:
        raise ValueError(
            f"The input range {given!r} is for color images. Received: an embedder with "
            f"{embedder.inputs[0].shape[-1]} input channels. Expected: 3."
        )
    if dtype.is_integer and given != (0.0, 255.0):
        raise ValueError(
            "Rounding to integers would destroy the images. Received: an embedder with an input of type "
            f"{dtype.name} and input_range={given!r}. Expected: input_range=(0, 255), or an embedder with a float "
            "input."
        )
    return given


def _preprocessed_shape(preprocessing, expected):
    """Return the shape of a preprocessed image; raise a ValueError unless it fits the embedder."""
    shape = tf.TensorShape(expected)
    for dtype in (tf.float32, tf.uint8):
        image = tf.TensorSpec([None, None, None], dtype)
        # The lambda is needed because tf.function requires a __name__.
        traced = tf.function(lambda one: preprocessing(one), autograph=not isinstance(preprocessing, Preprocessing))
        received = traced.get_concrete_function(image).output_shapes
        if not shape.is_compatible_with(received):
            raise ValueError(
                f"The preprocessing does not fit the embedder. Received: images of shape {received}. Expected: "
                f"{expected}."
            )
        shape = shape.merge_with(received)
    return tuple(shape)
