"""Features of a frozen network, computed once and kept on disk."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import sys
from typing import Callable, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tqdm

from tfdml import backbones, data
from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.files import LOCK, PARTIAL_PREFIX, FolderInUseError, lock_folder
from tfdml._utils.plain_files import write_json, write_text
from tfdml.data.datasets.features import CLASSES, FEATURES, LABELS, ROLES, SOURCE
from tfdml.experiments.errors import InputError, input_errors, line_of, nearest_key
from tfdml.experiments.evaluation import load_pictures, open_network
from tfdml.experiments.extract_command import DTYPES, SCALES, extract_main
from tfdml.experiments.run_folder import check_is_free
from tfdml.experiments.trust import check_saved_model, load_keras_file
from tfdml.export.saved_model import is_own_saved_model, path_for_tensorflow
from tfdml.layers import pooling as poolings
from tfdml.version import __version__

_PARTIAL = f"{FEATURES}.partial"
_UNFINISHED = {_PARTIAL, LABELS, CLASSES, ROLES, SOURCE}
_SIGNATURE = "serving_default"


def extract_features(
    model,
    pictures,
    out,
    *,
    data_options=None,
    backbone_options=None,
    output=None,
    pooling=None,
    size=None,
    channels=None,
    short_side=None,
    scale=None,
    batch_size=64,
    dtype="float32",
    trust=False,
    verbose=True,
):
    """Puts pictures through a frozen network and keeps its features on disk, as `tfdml.data.features` reads them.

    The folder gets `labels.npy`, `classes.txt`, `roles.npy` (if the set has roles) and `source.json`, which tells where
    the features are from; `features.npy` comes last and at once, so a folder that has it is whole.

    Args:
        model: What gives the features: a Keras model from images to vectors `(b, d)` or a feature map `(b, h, w, c)`;
            the path of a `.keras` file, of any SavedModel with the signature `serving_default`, or of a run's folder;
            or the name of a backbone, with its weights in `backbone_options`.
        pictures: A `LabeledImages`, a data set of the registry or a folder of pictures.
        out: The folder to make. What an interrupted extraction left there is replaced; nothing else is.
        data_options: What the data set takes.
        backbone_options: What the backbone takes, as in `{"weights": "imagenet"}`.
        output: Which output, where a model has several; of a Keras model also the name of a layer.
        pooling: A pooling of tfdml without weights to be trained, by name, for a feature map; `None` is `"gap"`.
        size: `(height, width)` of the images, or one number for both; `None` for what the model takes or, if that is
            any size, what the data set has.
        channels: 1 or 3; `None` likewise.
        short_side: As for `tfdml.data.Preprocessing`.
        scale: Which numbers the model expects of black to white: `"0-1"` (the default), `"0-255"` or `"-1-1"`. The
            networks of this package (runs, SavedModels, backbones) bring their own preprocessing.
        batch_size: Pictures at once.
        dtype: `"float32"` or `"float16"`, which takes half of the disk.
        trust: Whether a SavedModel may have operations that reach files, processes or Python.
        verbose: Whether a bar shows the progress.

    Returns:
        The `LabeledFeatures` in the folder.

    Raises:
        ValueError: If the model or the data cannot be used, an option does not go with them, features are not finite
            (the pictures are named), the folder holds something else, or the disk is full.
    """
    folder = pathlib.Path(out).expanduser()
    _check_out(folder)
    with input_errors():
        batch_size = check_whole_number("batch_size", batch_size, minimum=1)
        check_choice("dtype", dtype, DTYPES)
        if scale is not None:
            check_choice("scale", scale, SCALES)
        if not isinstance(pictures, data.LabeledSamples):
            pictures = load_pictures(str(pictures), data_options or {})
        elif data_options:
            raise InputError(f"Options go with a data set's name. Received: data_options={data_options}.")
        if not isinstance(pictures, data.LabeledImages) or not len(pictures):
            raise InputError(f"Features are extracted from pictures. Received: {pictures!r}.")
        image_options = {"size": size, "channels": channels, "short_side": short_side, "scale": scale}
        network = _open(model, pictures, image_options, backbone_options or {}, output, trust)
        pool = _pooling(pooling)
    source = {
        "model": model.name if isinstance(model, keras.Model) else os.fspath(model),
        "output": output,
        "pooling": pooling,
        **network.images,
        "data": pictures.name,
        "pictures": len(pictures),
        "classes": pictures.num_classes,
        "num_train_classes": pictures.num_train_classes,
        "versions": {"tfdml": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    # AutoGraph would give errors another class.
    forward = tf.function(lambda images: pool(network.forward(images)), reduce_retracing=True, autograph=False)
    with _whole_or_nothing(folder):
        np.save(folder / LABELS, pictures.labels)
        write_text(folder / CLASSES, "".join(f"{' '.join(name.splitlines())}\n" for name in pictures.class_names))
        if pictures.roles is not None:
            np.save(folder / ROLES, pictures.roles)
        with tqdm.tqdm(total=len(pictures), unit="picture", disable=not verbose) as bar:
            feature_size = _write(folder / _PARTIAL, network.batches(batch_size), forward, pictures, dtype, bar)
        write_json(folder / SOURCE, {**source, "features": feature_size, "dtype": dtype})
        os.replace(folder / _PARTIAL, folder / FEATURES)
    return data.features(folder, verify=False)


def _check_out(folder):
    """Raises a RunFolderError unless there is nothing at the path, or an extraction that was interrupted."""
    if not folder.is_dir() or not all(_is_unfinished(name) for name in os.listdir(folder)):
        check_is_free(folder)


def _is_unfinished(name):
    return name in {*_UNFINISHED, LOCK} or name.startswith(PARTIAL_PREFIX)


@contextlib.contextmanager
def _whole_or_nothing(folder):
    """Makes the folder, and removes what is in it if the block fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with lock_folder(folder):
                _clear(folder)
                try:
                    yield
                except BaseException:
                    _clear(folder)
                    raise
        except BaseException:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
    except FolderInUseError as error:
        raise InputError(str(error)) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"The features cannot be written: {reason}. Received: out={folder}.") from error
    except tf.errors.OpError as error:
        raise InputError(f"Not every image goes through the network: {line_of(error)}") from error


def _clear(folder):
    for name in os.listdir(folder):
        if _is_unfinished(name) and name != LOCK:
            (folder / name).unlink()


def _write(path, batches, forward, pictures, dtype, bar):
    """Writes the features in the format of NumPy, one batch after the other; returns their size.

    Not through a memory map: writing to one on a full disk is no error but a signal that ends the program.
    """
    done = 0
    with open(path, "wb") as file:
        for images, _ in batches:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(forward(images)).astype(dtype)
            if done == 0:
                _begin(file, (len(pictures), values.shape[1]), values.dtype)
            _check_finite(values, pictures, done)
            file.write(values.tobytes())
            done += len(values)
            bar.update(len(values))
        file.flush()
        os.fsync(file.fileno())
    return values.shape[1]


def _begin(file, shape, dtype):
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    if hasattr(os, "posix_fallocate"):
        try:
            # A full disk shows now rather than after hours.
            os.posix_fallocate(file.fileno(), 0, file.tell() + shape[0] * shape[1] * dtype.itemsize)
        except OSError as error:
            # Not every file system can do it.
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _check_finite(values, pictures, start):
    bad = start + np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        shown = [f"{index} ({pictures.images[index]})" if pictures.holds_paths else str(index) for index in bad[:10]]
        raise InputError(
            f"The network's features are not finite, or too large for {values.dtype}. Received: picture "
            f"{', '.join(shown)} (from 0); is the scale what the network expects?"
        )


class _Network(NamedTuple):
    """A network that is ready: from images to features, and how batches of the images come.

    `images` tells of the preprocessing, for the record.
    """

    forward: Callable
    batches: Callable
    images: dict


def _open(model, pictures, image_options, backbone_options, output, trust):
    given = {name: value for name, value in image_options.items() if value is not None}
    if isinstance(model, keras.Model):
        _refuse(backbone_options, "backbone_options", "a Keras model")
        return _keras_network(model, pictures, given, output)
    path = pathlib.Path(model).expanduser()
    name = str(model).lower()
    if name in backbones.names():
        return _backbone(name, pictures, given, backbone_options, output)
    _refuse(backbone_options, "backbone_options", f"model={str(model)!r}")
    if path.suffix == ".keras" and path.is_file():
        return _keras_network(load_keras_file(path), pictures, given, output)
    if (path / "saved_model.pb").is_file() and not is_own_saved_model(path):
        check_saved_model(path, trust)
        return _saved_network(path, pictures, given, output)
    if path.is_dir():
        return _own_network(path, pictures, given, output, trust)
    raise InputError(
        f"There is no such model. Received: {str(model)!r}; expected a .keras file, the folder of a SavedModel or of a "
        f"run, or a backbone. Did you mean {nearest_key(name, backbones.names())!r}?"
    )


def _refuse(options, name, kind):
    if options:
        raise InputError(f"This does not go with {kind}. Received: {name}={options}.")


def _own_network(path, pictures, given, output, trust):
    """A run or a SavedModel of this package, which knows how images come."""
    _refuse(given, "image options", f"a network that has a preprocessing of its own, {path}")
    opened = open_network(path, trust)
    if opened.preprocessing is None:
        raise InputError(f"This network is a head, which takes features rather than pictures. Received: {path}.")
    embedder = opened.embedder
    if opened.keras_embedder is None:
        _refuse(output, "output", f"a SavedModel of tfdml, {path}")
    else:
        embedder = _with_output(embedder, output)
    return _Network(
        lambda images: embedder(images, training=False),
        lambda batch_size: opened.batches(pictures, batch_size),
        {"preprocessing": opened.preprocessing.config(), "scale": "0-1"},
    )


def _backbone(name, pictures, given, options, output):
    if not options.get("weights"):
        raise InputError(
            f"The first weights of a backbone are random. Received: {name!r} without backbone_options.weights; "
            "expected weights, or the folder of a run."
        )
    if given.get("scale", "0-1") != "0-1":
        raise InputError(
            f"The backbone brings images to what its weights expect. Received: scale={given['scale']!r} with {name!r}."
        )
    preprocessing = _preprocessing((None, None, None), pictures, given)
    backbone = backbones.get(name, preprocessing.image_shape, **options)
    return _keras_network(backbone, pictures, given, output)


def _keras_network(model, pictures, given, output):
    # What trains an embedder is no embedder.
    model = getattr(model, "embedder", model)
    inputs = _tensors(model, "inputs")
    if len(inputs) > 1:
        raise InputError(f"Received: a model with {len(inputs)} inputs, {model.name!r}; expected one, of images.")
    shape, input_dtype = (tuple(inputs[0].shape), tf.as_dtype(inputs[0].dtype)) if inputs else (None, tf.float32)
    model = _with_output(model, output)
    return _foreign_network(lambda images: model(images, training=False), shape, input_dtype, pictures, given)


def _with_output(model, output):
    """The model with one output: its only one, or the one of this name, which can be that of a layer."""
    outputs = _tensors(model, "outputs")
    if not outputs:
        # Its code alone tells what it gives.
        _refuse(output, "output", "a model without a graph of layers")
        return model
    # A Sequential of Keras 3 has one output without a name.
    output_names = list(getattr(model, "output_names", None) or [model.layers[-1].name])
    if output is None:
        _check_single(output_names)
        return model
    if output in output_names:
        return keras.Model(model.inputs[0], outputs[output_names.index(output)])
    names = [layer.name for layer in model.layers]
    if output not in names:
        raise InputError(
            f"There is no such output. Received: output={output!r}; expected an output, {output_names}, or a layer. "
            f"Did you mean {nearest_key(output, [*output_names, *names])!r}?"
        )
    value = model.get_layer(output).output
    return keras.Model(model.inputs[0], value[0] if isinstance(value, (list, tuple)) else value)


def _tensors(model, attribute):
    """The symbolic inputs or outputs of a model, none for one that has only code."""
    try:
        return list(getattr(model, attribute) or [])
    except (AttributeError, ValueError):
        return []


def _check_single(names):
    if len(names) != 1:
        raise InputError(f"The model has several outputs. Received: output=None; expected one of {sorted(names)}.")


def _saved_network(path, pictures, given, output):
    with path_for_tensorflow(path) as plain:
        loaded = tf.saved_model.load(plain)
    if _SIGNATURE not in loaded.signatures:
        raise InputError(
            f"The SavedModel has no signature {_SIGNATURE!r}. Received: {path} with {sorted(loaded.signatures)}."
        )
    signature = loaded.signatures[_SIGNATURE]
    inputs = signature.structured_input_signature[1]
    if len(inputs) != 1:
        raise InputError(f"Received: {path} with the inputs {sorted(inputs)}; expected one, of images.")
    ((name, spec),) = inputs.items()
    if output is None:
        _check_single(list(signature.structured_outputs))
        (output,) = signature.structured_outputs
    elif output not in signature.structured_outputs:
        raise InputError(
            f"There is no such output. Received: output={output!r}; expected one of "
            f"{sorted(signature.structured_outputs)}."
        )

    def forward(images, loaded=loaded):
        # The signature holds its variables only as long as the model lives.
        return loaded.signatures[_SIGNATURE](**{name: images})[output]

    shape = None if spec.shape.rank is None else tuple(spec.shape)
    return _foreign_network(forward, shape, spec.dtype, pictures, given)


def _foreign_network(forward, shape, input_dtype, pictures, given):
    """A network that takes images of a shape (None: any) and a type, on the scale that is given."""
    if shape is not None and (len(shape) != 4 or shape[0] is not None):
        raise InputError(f"Received: a model with an input of shape {shape}; expected images (None, h, w, channels).")
    if not (input_dtype.is_floating or input_dtype.is_integer):
        raise InputError(f"Received: a model that takes {input_dtype.name}; expected images as numbers.")
    scale = given.get("scale", "0-1")
    if input_dtype.is_integer and scale != "0-255":
        raise InputError(f"Received: scale={scale!r} with a model that takes {input_dtype.name}; expected '0-255'.")
    preprocessing = _preprocessing((None, None, None) if shape is None else shape[1:], pictures, given)

    def scaled(images):
        if scale == "0-255":
            images = images * 255.0
        elif scale == "-1-1":
            images = images * 2.0 - 1.0
        return tf.cast(tf.round(images) if input_dtype.is_integer else images, input_dtype)

    return _Network(
        lambda images: forward(scaled(images)),
        lambda batch_size: data.evaluation_batches(pictures, batch_size, preprocessing),
        {"preprocessing": preprocessing.config(), "scale": scale},
    )


def _preprocessing(shape, pictures, given):
    """From what is given, what the model takes and what the pictures are, in this order."""
    size = given.get("size")
    wanted = (*((size, size) if isinstance(size, int) else size or (None, None)), given.get("channels"))
    for name, ours, of_model in zip(("height", "width", "channels"), wanted, shape):
        if None not in (ours, of_model) and ours != of_model:
            raise InputError(f"Received: {name} {ours}; expected {of_model}, which is what the model takes.")
    own = pictures.image_shape or (None, None, None)
    height, width, channels = (next((n for n in side if n is not None), None) for side in zip(wanted, shape, own))
    if None in (height, width, channels):
        raise InputError(
            "The model takes images of any shape, and pictures in files can have any. "
            f"Received: size={size}, channels={given.get('channels')}; expected both to be given."
        )
    return data.Preprocessing((height, width), channels, given.get("short_side"))


def _pooling(name):
    """A function from the network's output to vectors, float32."""
    layer = poolings.get("gap" if name is None else name)

    def pool(values):
        values = tf.cast(values, tf.float32)
        if values.shape.rank == 2:
            _refuse(name, "pooling", "a network that gives vectors")
            return values
        if values.shape.rank != 4:
            raise InputError(f"Received: a network that gives {values.shape}; expected (b, d) or a map (b, h, w, c).")
        vectors = layer(values)
        if any(len(weight.shape) for weight in layer.weights):
            raise InputError(f"This pooling has weights that must be trained. Received: pooling={name!r}.")
        return vectors

    return pool


if __name__ == "__main__":
    sys.exit(extract_main())
