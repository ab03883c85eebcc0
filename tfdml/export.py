"""Embedders as SavedModels, which need TensorFlow and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import keras
import tensorflow as tf

from tfdml.data import Preprocessing
from tfdml.models import embed
from tfdml.version import __version__

# The folder of a SavedModel that is left to those who write it.
_METADATA = Path("assets.extra", "tfdml.json")
_OUTPUT = "embedding"
_SIGNATURES = {"serving_default": "images", "serving_uint8": "images", "serving_encoded": "encoded"}
_SIGNATURES_OF_HEAD = {"serving_default": "features"}


def export_saved_model(embedder, path, preprocessing=None):
    """Writes an embedder, with the preprocessing of its images, as a SavedModel.

    It is loaded by `tf.saved_model.load(path)`, TensorFlow Serving and whatever else reads a SavedModel,
    without this package, without Keras and without the Python code of the layers. Its signatures, each giving
    `{"embedding": (b, embedding_size)}` in float32 for any number `b` of images, 0 too:

    | signature | argument | images |
    |---|---|---|
    | `serving_default` | `images` | float32 `(b, h, w, c)` in 0–1 |
    | `serving_uint8` | `images` | uint8 `(b, h, w, c)` |
    | `serving_encoded` | `encoded` | `(b,)` strings: PNG or JPEG files, which may differ in size |

    h, w and c are what `preprocessing` takes; its default takes any size and 1 to 4 channels. Layers run as with
    `training=False`. `serving_default` can be differentiated by its images.

    A head, which takes features `(b, d)` as `build_head` gives it, has the signature `serving_default` alone, with the
    argument `features`, float32 `(b, d)`.

    The folder appears whole or not at all: it is written beside its place and then moved there.

    Args:
        embedder: A built `keras.Model` from one batch of images, float32 `(b, height, width, channels)` in
            0–1, or of features `(b, d)`, to embeddings `(b, embedding_size)`. Embeddings of half precision become
            float32.
        path: The folder to make, on a local disk.
        preprocessing: From one decoded image `(h, w, c)`, of any size, uint8 or float32 in 0–1, to what the
            embedder takes; made of TensorFlow ops. `None` is `tfdml.data.Preprocessing` to the embedder's
            size and channels, which leaves images that have them as they are; for features there is none.

    Returns:
        The path, as `pathlib.Path`.

    Raises:
        FileExistsError: If there is something at `path` already; nothing is overwritten.
        TypeError: If the embedder is no Keras model or the preprocessing cannot be called.
        ValueError: If the embedder does not take one batch of images or features and give one of vectors, if its
            input has no fixed size and there is no preprocessing, if the preprocessing gives another shape, or if
            there is one of features.
    """
    input_shape, embedding_size = _sizes(embedder)
    is_head = len(input_shape) == 1
    if is_head and preprocessing is not None:
        raise ValueError(
            f"Features are taken as they are. Received: preprocessing={preprocessing!r} with a head for features of "
            f"{input_shape[0]} numbers; expected None."
        )
    if not is_head:
        preprocessing = _checked_preprocessing(preprocessing, *input_shape)
    path = Path(path)
    if os.path.lexists(path):
        raise FileExistsError(
            f"The SavedModel would overwrite what is there. Received: path={str(path)!r}, which exists."
        )

    module = _ServingHead(embedder) if is_head else _Serving(embedder, preprocessing, input_shape)
    signatures = _SIGNATURES_OF_HEAD if is_head else _SIGNATURES
    metadata = {
        "tfdml_version": __version__,
        "tensorflow_version": tf.__version__,
        "keras_version": keras.__version__,
        "input_shape": list(module.input_shape),
        "embedding_size": embedding_size,
        "preprocessing": preprocessing.config() if isinstance(preprocessing, Preprocessing) else None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    try:
        tf.saved_model.save(
            module,
            str(unfinished),
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


def load_saved_model(path):
    """Loads what `export_saved_model` wrote.

    Args:
        path: The SavedModel's folder.

    Returns:
        A `SavedEmbedder`.

    Raises:
        FileNotFoundError: If there is no SavedModel at `path`.
        ValueError: If it is one that `export_saved_model` did not write.
    """
    path = Path(path)
    if not (path / "saved_model.pb").is_file():
        raise FileNotFoundError(f"Received: path={str(path)!r}; expected the folder of a SavedModel (saved_model.pb).")
    if not (path / _METADATA).is_file():
        raise ValueError(
            f"Received: path={str(path)!r}, a SavedModel without {_METADATA}; expected one of export_saved_model."
        )
    metadata = json.loads((path / _METADATA).read_text(encoding="utf-8"))
    return SavedEmbedder(tf.saved_model.load(str(path)), metadata)


def is_own_saved_model(path):
    """Whether there is a SavedModel at `path` that `export_saved_model` wrote."""
    return (Path(path) / "saved_model.pb").is_file() and (Path(path) / _METADATA).is_file()


class SavedEmbedder:
    """An embedder out of a SavedModel; it can stand where a function reads an embedder, as in `tfdml.models.embed`.

    Attributes:
        metadata: What was written beside the model: `"input_shape"` (height, width, channels; for a head the
            size of a feature alone), `"embedding_size"`, `"preprocessing"` (the arguments of
            `tfdml.data.Preprocessing`, `None` for another preprocessing or none), and the versions
            `"tfdml_version"`, `"tensorflow_version"`, `"keras_version"`.
    """

    def __init__(self, model, metadata):
        # The signatures hold the variables only as long as the model lives.
        self._model = model
        self.metadata = metadata

    def __call__(self, images, training=False):
        """Embeds one batch.

        Args:
            images: `(b, h, w, c)`, uint8 or float in 0–1, or `(b,)` encoded pictures; for a head features
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
                "expected (b, h, w, c), or (b,) encoded pictures."
            )
        return self._model.signatures[name](**{_SIGNATURES[name]: images})[_OUTPUT]

    @property
    def takes_features(self):
        """Whether this is a head, which embeds features rather than images."""
        return len(self.metadata["input_shape"]) == 1

    def _embed_features(self, features):
        size = self.metadata["input_shape"][0]
        if not features.dtype.is_floating or features.shape.rank != 2 or features.shape[1] != size:
            raise ValueError(
                f"Received: {features.dtype.name} of shape {features.shape}; expected features (b, {size}), float."
            )
        features = tf.cast(features, tf.float32)
        return self._model.signatures["serving_default"](features=features)[_OUTPUT]

    def embed(self, data, batch_size=256):
        """Embeds a whole set, as `tfdml.models.embed` does.

        Args:
            data: Images `(n, h, w, c)`, uint8 or float in 0–1; or `n` encoded pictures (bytes of PNG or JPEG
                files); or a finite `tf.data.Dataset` of batches of these, or of (images, labels).
            batch_size: How many images at a time, where `data` is no data set.

        Returns:
            Embeddings, float32 NumPy array `(n, embedding_size)`; for a data set with labels (embeddings,
            labels).
        """
        return embed(self, data, batch_size)


class _Serving(tf.Module):
    """The functions and variables that go into the SavedModel: the same for both lines of Keras."""

    def __init__(self, embedder, preprocessing, image_shape):
        super().__init__()
        self.weights = _tensorflow_variables([*embedder.variables, *getattr(preprocessing, "variables", ())])
        dtype = embedder.inputs[0].dtype

        def preprocess_each(images):
            image = tf.TensorSpec(self.input_shape, tf.float32)
            return tf.map_fn(lambda one: tf.cast(preprocessing(one), tf.float32), images, fn_output_signature=image)

        def preprocess(images):
            # This one takes a batch at once.
            return preprocessing(images) if isinstance(preprocessing, Preprocessing) else preprocess_each(images)

        def decode(contents):
            image = tf.io.decode_image(contents, expand_animations=False)
            image.set_shape([None, None, None])
            return tf.cast(preprocessing(image), tf.float32)

        def embeddings(images):
            # TensorFlow's convolutions on a CPU give a wrong shape for no image, so there it is one blank image.
            count = tf.shape(images)[0]
            blank = tf.zeros(tf.concat([[tf.cast(count == 0, tf.int32)], tf.shape(images)[1:]], axis=0))
            images = tf.concat([images, blank], axis=0)
            images.set_shape([None, *self.input_shape])
            vectors = embedder(tf.cast(images, dtype), training=False)
            return {_OUTPUT: tf.cast(vectors, tf.float32)[:count]}

        self.input_shape = _preprocessed_shape(preprocessing, image_shape)
        batch = [None, None, None, None]
        self.serving_default = tf.function(
            lambda images: embeddings(preprocess(images)),
            input_signature=[tf.TensorSpec(batch, tf.float32, name="images")],
        )
        self.serving_uint8 = tf.function(
            lambda images: embeddings(preprocess(images)),
            input_signature=[tf.TensorSpec(batch, tf.uint8, name="images")],
        )
        self.serving_encoded = tf.function(
            lambda encoded: embeddings(
                tf.map_fn(decode, encoded, fn_output_signature=tf.TensorSpec(self.input_shape, tf.float32))
            ),
            input_signature=[tf.TensorSpec([None], tf.string, name="encoded")],
        )


class _ServingHead(tf.Module):
    """The same for a network that takes features."""

    def __init__(self, head):
        super().__init__()
        self.weights = _tensorflow_variables(head.variables)
        self.input_shape = tuple(head.inputs[0].shape[1:])
        dtype = head.inputs[0].dtype
        self.serving_default = tf.function(
            lambda features: {_OUTPUT: tf.cast(head(tf.cast(features, dtype), training=False), tf.float32)},
            input_signature=[tf.TensorSpec([None, *self.input_shape], tf.float32, name="features")],
        )


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


def _preprocessed_shape(preprocessing, expected):
    """The shape of a preprocessed image; raises ValueError unless the embedder takes it."""
    shape = tf.TensorShape(expected)
    for dtype in (tf.float32, tf.uint8):
        image = tf.TensorSpec([None, None, None], dtype)
        # Not tf.function(preprocessing): an object with a __call__ has no name to give it.
        received = tf.function(lambda one: preprocessing(one)).get_concrete_function(image).output_shapes
        if not shape.is_compatible_with(received):
            raise ValueError(f"Received: preprocessing that gives images of shape {received}; expected {expected}.")
        shape = shape.merge_with(received)
    return tuple(shape)
