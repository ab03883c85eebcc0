"""Export embedders to TFLite and ONNX files, for programs without TensorFlow."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from typing import Any, Callable

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.files import whole_file
from tfdml._utils.types import ArrayLike, InputRange, PathLike
from tfdml.data import Preprocessing
from tfdml.export.saved_model import _checked_input_range, _sizes, _tensorflow_variables
from tfdml.metrics import nearest_neighbors
from tfdml.models import MetricModel
from tfdml.ops import to_input_range

QUANTIZATIONS = (None, "float16", "int8", "int8-weights")
# Largest accepted difference of a float32 file, relative to the largest absolute value of an embedding.
_TOLERANCE = 1e-3
_CHECKED_IMAGES = 8
_BATCH = 32


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """Comparison of an exported file with its embedder.

    Attributes:
        path: `pathlib.Path` of the file.
        file_bytes: int. Size of the file.
        largest_difference: float. Largest absolute difference between values of the file's embeddings and those of the
            embedder.
        neighbor_recall: float or `None`. Mean share of each image's nearest neighbors under the embedder that are also
            its nearest neighbors under the file. `None` if no images were given.

    Example:
        >>> ExportReport(pathlib.Path("embedder.tflite"), 1000, 1e-7, None).largest_difference
        1e-07
    """

    path: pathlib.Path
    file_bytes: int
    largest_difference: float
    neighbor_recall: float | None


def export_tflite(
    embedder: keras.Model,
    path: PathLike,
    quantization: str | None = None,
    representative_images: ArrayLike | None = None,
    images: ArrayLike | None = None,
    neighbors: int = 10,
    input_range: InputRange | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Export an embedder as a TFLite file and compare the file with the embedder.

    Use it to embed on phones and other devices with LiteRT. The file has the input `images`, float32
    `(batch, height, width, channels)` in 0–1, of the embedder's size, and the output `embedding`, float32
    `(batch, embedding_size)`. It does not contain preprocessing: resize images with `tfdml.data.Preprocessing` or its
    equivalent. The batch has size 1 until the interpreter's `resize_tensor_input` is called.

    The file is run with `ai-edge-litert` (extra `tflite`), or with TensorFlow's own interpreter if that package is not
    installed. Nothing is written if the file of a float32 export does not return the embedder's numbers.

    Args:
        embedder: Built `keras.Model` from images `(batch, height, width, channels)` of a fixed size to embeddings
            `(batch, embedding_size)`; or a `MetricModel`, whose embedder is exported.
        path: str or `os.PathLike`. File to write. `~` is the home folder.
        quantization: `None` (float32); `"float16"` (weights in float16); `"int8"` (weights and activations in int8;
            operations without an int8 kernel, input and output stay float32); or `"int8-weights"` (weights in int8,
            activations in float32, which needs no representative images). Embedders with a loop, such as that of
            generalized sum pooling, accept all but `"int8"`. Default `None`.
        representative_images: Images `(n, height, width, channels)` as for `images`, from which the ranges of
            activations are measured. Required for `"int8"`, and only for it; about 100 training images suffice.
        images: Images `(n, height, width, channels)` for the comparison, uint8 or float in 0–1. `None` means random
            images. Default `None`.
        neighbors: int. Number of nearest neighbors whose recall is measured, at most n − 1. Default 10.
        input_range: As for `export_saved_model`. Default `None`.
        overwrite: bool. Replace an existing file. Default `False`.

    Returns:
        `ExportReport`.

    Raises:
        FileExistsError: If `path` exists and `overwrite` is `False`.
        TypeError: If the embedder is not a `keras.Model`.
        ValueError: If the quantization is unknown, representative images are missing or superfluous, images have
            another shape or values outside 0–1, the embedder does not accept images of a fixed size, or int8 is
            requested for an embedder with a loop.
        ImportError: If no interpreter is installed.
        RuntimeError: If the file does not return the embedder's numbers.

    Example:
        >>> import tempfile
        >>> embedder = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = export_tflite(embedder, os.path.join(folder, "embedder.tflite"))
        >>> report.largest_difference < 1e-5
        True
    """
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"Unknown quantization. Received: {quantization!r}. Expected: one of {QUANTIZATIONS}.")
    if quantization == "int8" and representative_images is None:
        raise ValueError(
            "Quantization to int8 measures the ranges of activations. Received: representative_images=None. Expected: "
            "training images (n, height, width, channels)."
        )
    if quantization != "int8" and representative_images is not None:
        raise ValueError(
            f"Only int8 needs representative images. Received: quantization={quantization!r} with "
            "representative_images. Expected: quantization='int8'."
        )
    export = _Export(embedder, path, images, neighbors, input_range, overwrite)
    interpreter = _tflite_interpreter()
    function = export.function.get_concrete_function()
    if quantization == "int8" and _has_loop(function):
        # The process ends without a message, with TensorFlow 2.15 and 2.21.
        raise ValueError(
            "TensorFlow's converter dies when it quantizes a loop to int8. Received: quantization='int8' with an "
            "embedder that contains a loop, such as generalized sum pooling. Expected: quantization='int8-weights', "
            "'float16' or None."
        )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], export.module)
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        representative = export.checked_images(representative_images, "representative_images")
        converter.representative_dataset = lambda: ([image[None]] for image in representative)
    content = converter.convert()
    return export.write(content, _run_tflite(interpreter, content), must_be_equal=quantization is None)


def export_onnx(
    embedder: keras.Model,
    path: PathLike,
    images: ArrayLike | None = None,
    neighbors: int = 10,
    input_range: InputRange | None = None,
    opset: int = 17,
    overwrite: bool = False,
) -> ExportReport:
    """Export an embedder as an ONNX file and compare the file with the embedder.

    Use it to embed with ONNX Runtime and other programs that read ONNX. The file has the input `images`, float32
    `(batch, height, width, channels)` in 0–1, of the embedder's size, and the output `embedding`, float32
    `(batch, embedding_size)`, for any number of images. It does not contain preprocessing: resize images with
    `tfdml.data.Preprocessing` or its equivalent.

    Needs tf2onnx and onnxruntime, which the extra `onnx` installs.

    Args:
        embedder: As for `export_tflite`.
        path: str or `os.PathLike`. File to write. `~` is the home folder.
        images: Images for the comparison, as for `export_tflite`. Default `None`, random images.
        neighbors: int. Number of nearest neighbors whose recall is measured, at most n − 1. Default 10.
        input_range: As for `export_saved_model`. Default `None`.
        opset: int. Version of the ONNX operators. Default 17.
        overwrite: bool. Replace an existing file. Default `False`.

    Returns:
        `ExportReport`.

    Raises:
        FileExistsError: If `path` exists and `overwrite` is `False`.
        TypeError: If the embedder is not a `keras.Model`.
        ValueError: If images have another shape or values outside 0–1, or the embedder does not accept images of a
            fixed size.
        ImportError: If tf2onnx or onnxruntime is not installed.
        RuntimeError: If the file does not return the embedder's numbers.

    Example:
        >>> export_onnx(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), "embedder.onnx")
        Traceback (most recent call last):
        ...
        ValueError: Only embedders of images are exported. Received: a head for features of size 4. ...
    """
    opset = check_whole_number("opset", opset, minimum=13)
    export = _Export(embedder, path, images, neighbors, input_range, overwrite)
    try:
        import onnxruntime
        import tf2onnx
    except ImportError as error:
        raise ImportError(
            f"The export to ONNX needs a package that cannot be imported. Received: {error}. Expected: tf2onnx and "
            "onnxruntime. Install them: pip install 'tfdml[onnx]'."
        ) from error
    model, _ = tf2onnx.convert.from_function(
        export.function, input_signature=export.function.input_signature, opset=opset
    )
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return export.write(content, lambda batch: session.run(None, {name: batch})[0], must_be_equal=True)


class _Export:
    """Checked arguments of an export, its function, and the comparison of its file."""

    def __init__(self, embedder, path, images, neighbors, input_range, overwrite):
        embedder = embedder.embedder if isinstance(embedder, MetricModel) else embedder
        self.shape, _ = _sizes(embedder)
        if len(self.shape) == 1:
            raise ValueError(
                f"Only embedders of images are exported. Received: a head for features of size {self.shape[0]}. "
                "Expected: a model of images. Use export_saved_model for heads."
            )
        if None in self.shape:
            raise ValueError(
                f"The embedder's input has no fixed size. Received: an input of shape {(None, *self.shape)}. Expected: "
                "a fixed height and width."
            )
        self.path = pathlib.Path(path).expanduser()
        if self.path.is_dir() or (os.path.lexists(self.path) and not overwrite):
            raise FileExistsError(
                f"The path exists already. Received: path={str(self.path)!r}. Expected: a new path. Pass "
                "overwrite=True to replace a file."
            )
        neighbors = check_whole_number("neighbors", neighbors, minimum=1)
        self.neighbors = None if images is None else neighbors
        if images is None:
            images = np.random.default_rng(0).random((_CHECKED_IMAGES, *self.shape), np.float32)
        self.images = self.checked_images(images, "images")
        if self.neighbors is not None and len(self.images) <= neighbors:
            raise ValueError(
                f"There are too few images. Received: {len(self.images)} images with neighbors={neighbors}. Expected: "
                f"at least {neighbors + 1} images."
            )
        size = Preprocessing(size=self.shape[:2], channels=self.shape[2])
        input_range = _checked_input_range(embedder, size, input_range)
        dtype = tf.as_dtype(embedder.inputs[0].dtype)

        def embed(images):
            images = to_input_range(images, input_range)
            images = tf.saturate_cast(tf.round(images), dtype) if dtype.is_integer else tf.cast(images, dtype)
            return {"embedding": tf.cast(embedder(images, training=False), tf.float32)}

        signature = [tf.TensorSpec([None, *self.shape], tf.float32, name="images")]
        self.module = tf.Module()
        self.module.weights = _tensorflow_variables(embedder.variables)
        self.function = self.module.embed = tf.function(embed, input_signature=signature, autograph=False)

    def checked_images(self, images, name):
        """Return float32 images in 0–1."""
        images = np.asarray(images)
        if images.ndim != 4 or not len(images) or images.shape[1:] != self.shape:
            raise ValueError(
                f"{name} do not fit the embedder. Received: shape {images.shape}. Expected: (n, "
                f"{', '.join(map(str, self.shape))}) with n > 0. Resize them with tfdml.data.Preprocessing."
            )
        if images.dtype == np.uint8:
            return images.astype(np.float32) / np.float32(255)
        if images.dtype.kind != "f" or not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"{name} have wrong values. Received: {images.dtype} from {images.min()} to {images.max()}. Expected: "
                "uint8, or floats in 0–1."
            )
        return images.astype(np.float32)

    def write(self, content: bytes, run: Callable[[Any], Any], must_be_equal: bool) -> ExportReport:
        """Compare the file's content with the embedder, then write it."""
        starts = range(0, len(self.images), _BATCH)
        batches = [self.images[start : start + _BATCH] for start in starts]
        expected = np.concatenate([self.function(tf.constant(batch))["embedding"].numpy() for batch in batches])
        received = np.concatenate([run(batch) for batch in batches])
        difference = float(np.abs(expected - received).max()) if expected.shape == received.shape else np.inf
        largest = float(np.abs(expected).max())
        if not np.isfinite(difference) or (must_be_equal and difference > _TOLERANCE * largest):
            raise RuntimeError(
                "The exported file does not return the embedder's numbers, so it was not written. Received: shape "
                f"{received.shape}, differences up to {difference}. Expected: shape {expected.shape}, differences up "
                f"to {_TOLERANCE * largest}."
            )
        recall = None if self.neighbors is None else _neighbor_recall(expected, received, self.neighbors)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as file:
            file.write(content)
        return ExportReport(self.path, len(content), difference, recall)


def _neighbor_recall(expected, received, k):
    """Return the mean share of the k nearest neighbors that both embeddings of the same images have in common."""
    pairs = zip(nearest_neighbors(expected, k)[0], nearest_neighbors(received, k)[0])
    return float(np.mean([len(np.intersect1d(one, other)) / k for one, other in pairs]))


def _has_loop(function):
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for one in graph.library.function for node in one.node_def)]
    return any(node.op in ("While", "StatelessWhile") for node in nodes)


def _tflite_interpreter():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        Interpreter = getattr(tf.lite, "Interpreter", None)
        if Interpreter is None:
            raise ImportError(
                f"The file cannot be checked. Received: {error}. Expected: ai-edge-litert. Install it: "
                "pip install 'tfdml[tflite]'."
            ) from error
    return Interpreter


def _run_tflite(interpreter_class, content):
    interpreter = interpreter_class(model_content=content)
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(batch):
        interpreter.resize_tensor_input(source, batch.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(source, batch)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run
