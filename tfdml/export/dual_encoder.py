"""Export both towers of a dual encoder as one SavedModel."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.foreign_graphs import check_saved_model
from tfdml._utils.keras_compat import all_layers
from tfdml._utils.types import PathLike
from tfdml.export.saved_model import (
    METADATA,
    TOWERS_METADATA,
    _finite,
    _tensorflow_variables,
    path_for_tensorflow,
    write_saved_model,
)
from tfdml.models import DualEncoder
from tfdml.version import __version__

_OUTPUT = "embedding"
_SINGLE = "inputs"


def export_dual_encoder(model: DualEncoder, path: PathLike) -> pathlib.Path:
    """Export both encoders of a `DualEncoder` as one SavedModel with two signatures.

    One SavedModel, so that the encoders of different training runs, whose embeddings cannot be compared, never meet,
    and a shared encoder is stored once. TensorFlow Serving, `tf.saved_model.load(path)` and other readers of
    SavedModels load it without this package and without Keras. Each signature returns
    `{"embedding": (batch, dim)}` in float32:

    | signature | arguments |
    |---|---|
    | `query`, also `serving_default` | the inputs of the query encoder |
    | `item` | the inputs of the item encoder |

    The only input of an encoder is the argument `inputs`; those of a dict have the keys as names, and several inputs
    the names of their `keras.Input`. The encoders run with `training=False`. NaN and infinity in float inputs raise an
    error (`InvalidArgument`). With `similarity="cosine"`, compare the embeddings by their cosine, for example in
    `tfdml.Gallery(distance="cosine")`.

    The folder appears complete or not at all: it is written under a temporary name next to `path` and then renamed.

    Args:
        model: `DualEncoder` whose encoders are functional or sequential models.
        path: str or `os.PathLike`. Folder to create, on a local disk. `~` is the home folder.

    Returns:
        `pathlib.Path` of the folder.

    Raises:
        FileExistsError: If `path` exists; nothing is overwritten.
        TypeError: If the model is not a `DualEncoder`.
        ValueError: If an encoder has no known inputs.

    Example:
        >>> import tempfile
        >>> towers = [keras.Sequential([keras.Input((size,)), keras.layers.Dense(2)]) for size in (4, 3)]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = load_dual_encoder(export_dual_encoder(DualEncoder(*towers), os.path.join(folder, "towers")))
        ...     saved.embed_queries(np.zeros((5, 4), "float32")).shape
        (5, 2)
    """
    if not isinstance(model, DualEncoder):
        raise TypeError(f"The model has no two encoders. Received: {type(model).__name__}. Expected: a DualEncoder.")
    module = _Serving(model)
    path = Path(path).expanduser()
    if os.path.lexists(path):
        raise FileExistsError(
            f"The path exists already. Received: path={str(path)!r}. Expected: a new path. Remove the folder, or "
            "export to another one."
        )
    metadata = {
        "tfdml_version": __version__,
        "tensorflow_version": tf.__version__,
        "keras_version": keras.__version__,
        "similarity": model.similarity,
        "embedding_size": module.embedding_size,
        "query_inputs": module.names["query"],
        "item_inputs": module.names["item"],
    }
    signatures = {"query": module.query, "item": module.item, "serving_default": module.query}
    write_saved_model(path, module, signatures, TOWERS_METADATA, metadata)
    return path


def load_dual_encoder(path: PathLike, trust: bool = False) -> SavedDualEncoder:
    """Load a SavedModel written by `export_dual_encoder`.

    A graph runs with the rights of the process, so it is checked before it is loaded, as by `load_saved_model`.

    Args:
        path: str or `os.PathLike`. Folder of the SavedModel. `~` is the home folder.
        trust: bool. Load the SavedModel even if it contains operations on files, processes, the network or Python, or
            operations unknown to TensorFlow. Pass `True` only if you trust its author. Default `False`.

    Returns:
        `SavedDualEncoder`.

    Raises:
        FileNotFoundError: If there is no such SavedModel at `path`.
        ValueError: If it is a SavedModel of an embedder, is damaged or does not pass the check.

    Example:
        >>> import tempfile
        >>> tower = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = load_dual_encoder(export_dual_encoder(DualEncoder(tower), os.path.join(folder, "towers")))
        >>> saved.metadata["similarity"], saved.metadata["query_inputs"]
        ('cosine', ['inputs'])
    """
    path = Path(path).expanduser()
    if (path / METADATA).is_file():
        raise ValueError(
            f"This SavedModel has one encoder. Received: path={str(path)!r}. Expected: a folder written by "
            "export_dual_encoder. Load it with `tfdml.export.load_saved_model`."
        )
    for name in ("saved_model.pb", TOWERS_METADATA):
        if not (path / name).is_file():
            raise FileNotFoundError(
                f"There is no SavedModel of two encoders. Received: path={str(path)!r} without {name}. Expected: a "
                "folder written by export_dual_encoder."
            )
    check_saved_model(path, trust)
    metadata = json.loads((path / TOWERS_METADATA).read_text(encoding="utf-8"))
    with path_for_tensorflow(path) as plain:
        return SavedDualEncoder(tf.saved_model.load(plain), metadata)


class SavedDualEncoder:
    """Two encoders loaded from a SavedModel. Create it with `load_dual_encoder`.

    Args:
        model: Object returned by `tf.saved_model.load`.
        metadata: dict. Metadata of the export.

    Attributes:
        metadata: dict with `"similarity"`, `"embedding_size"`, `"query_inputs"` and `"item_inputs"` (names of
            arguments), and the versions `"tfdml_version"`, `"tensorflow_version"` and `"keras_version"`.

    Example:
        >>> import tempfile
        >>> tower = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     saved = load_dual_encoder(export_dual_encoder(DualEncoder(tower), os.path.join(folder, "towers")))
        >>> saved.embed_items(np.ones((2, 3), "float32")).dtype
        dtype('float32')
    """

    def __init__(self, model: Any, metadata: Mapping[str, Any]) -> None:
        # Signatures keep their variables alive only while the loaded model is alive.
        self._model = model
        self.metadata = metadata

    def embed_queries(self, queries: Any, batch_size: int = 256) -> np.ndarray:
        """Embed queries.

        Args:
            queries: Array `(n, …)`, or a dict of arrays by the names of the inputs.
            batch_size: int. Queries per batch. Default 256.

        Returns:
            float32 NumPy array `(n, dim)`.

        Raises:
            ValueError: If there are no queries, or the names of the inputs are others.
        """
        return self._embed("query", queries, batch_size)

    def embed_items(self, items: Any, batch_size: int = 256) -> np.ndarray:
        """Embed items.

        Args:
            items: Array `(n, …)`, or a dict of arrays by the names of the inputs.
            batch_size: int. Items per batch. Default 256.

        Returns:
            float32 NumPy array `(n, dim)`.

        Raises:
            ValueError: If there are no items, or the names of the inputs are others.
        """
        return self._embed("item", items, batch_size)

    def _embed(self, signature, data, batch_size):
        batch_size = check_whole_number("batch_size", batch_size, 1)
        names = self.metadata[f"{signature}_inputs"]
        data = data if isinstance(data, Mapping) else {_SINGLE: data}
        if sorted(data) != sorted(names):
            raise ValueError(f"Inputs have other names. Received: {sorted(data)}. Expected: {sorted(names)}.")
        function = self._model.signatures[signature]
        specs = function.structured_input_signature[1]
        arrays = {name: np.asarray(value, specs[name].dtype.as_numpy_dtype) for name, value in data.items()}
        lengths = {len(array) for array in arrays.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                f"There is nothing to embed, or lengths differ. Received: lengths {sorted(lengths)}. Expected: one "
                "length > 0."
            )
        parts = []
        for start in range(0, lengths.pop(), batch_size):
            batch = {name: tf.constant(array[start : start + batch_size]) for name, array in arrays.items()}
            parts.append(function(**batch)[_OUTPUT].numpy())
        return np.concatenate(parts)


class _Serving(tf.Module):
    """Functions and variables of the SavedModel."""

    def __init__(self, model):
        super().__init__()
        encoders = {"query": model.query_encoder, "item": model.item_encoder}
        variables = {id(variable): variable for encoder in encoders.values() for variable in encoder.variables}
        self.weights = _tensorflow_variables(variables.values())
        # Layers of text look up tokens in tables, which a SavedModel has to know like variables.
        layers = [layer for encoder in encoders.values() for layer in all_layers(encoder)]
        self.tables = [layer.lookup_table for layer in layers if hasattr(layer, "lookup_table")]
        self.names, functions = {}, {}
        for name, encoder in encoders.items():
            self.names[name], functions[name] = _signature(encoder, name)
        self.query, self.item = functions["query"], functions["item"]
        self.embedding_size = self.query.structured_outputs[_OUTPUT].shape[-1]


def _signature(encoder, tower):
    """Return the names of the arguments and the concrete function of an encoder."""
    inputs = getattr(encoder, "inputs", None) or []
    if not inputs:
        raise ValueError(
            f"The inputs of an encoder are unknown. Received: a {tower} encoder of type {type(encoder).__name__}. "
            "Expected: a functional or sequential keras.Model with keras.Input."
        )
    structure = encoder.input if len(inputs) > 1 or isinstance(getattr(encoder, "input", None), Mapping) else inputs[0]
    is_dict = isinstance(structure, Mapping)
    if is_dict:
        tensors = dict(structure)
    elif len(inputs) == 1:
        tensors = {_SINGLE: inputs[0]}
    else:
        tensors = {tensor.name.split(":")[0]: tensor for tensor in inputs}
    dtypes = {name: tf.as_dtype(tensor.dtype) for name, tensor in tensors.items()}

    def embed(**given):
        values = {}
        for name, value in given.items():
            value = _finite(value) if value.dtype.is_floating else value
            values[name] = value if value.dtype == dtypes[name] else tf.cast(value, dtypes[name])
        batch: Any = values if is_dict else list(values.values())
        batch = batch[0] if len(inputs) == 1 and not is_dict else batch
        return {_OUTPUT: tf.cast(encoder(batch, training=False), tf.float32)}

    specs = {
        name: tf.TensorSpec(tensor.shape, tf.float32 if dtypes[name].is_floating else dtypes[name], name=name)
        for name, tensor in tensors.items()
    }
    return list(tensors), tf.function(embed, autograph=False).get_concrete_function(**specs)
