"""Features of a frozen network, computed once and kept on disk."""

from __future__ import annotations

import os
import pathlib
import sys

import keras
import tensorflow as tf
import tqdm

from tfdml import backbones, data
from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.files import FolderInUseError
from tfdml._utils.foreign_graphs import check_saved_model, load_keras_file
from tfdml._utils.input_errors import InputError, input_errors, nearest_key
from tfdml.data.feature_files import holds_unfinished_features, write_features
from tfdml.experiments.errors import line_of
from tfdml.experiments.evaluation import load_dataset, open_network
from tfdml.experiments.extract_command import DTYPES, SCALES, extract_main
from tfdml.experiments.run_folder import check_is_free
from tfdml.export.saved_model import is_own_saved_model, path_for_tensorflow
from tfdml.models.feature_extractor import (
    FeatureExtractor,
    backbone_extractor,
    feature_pooling,
    keras_extractor,
    refuse,
    saved_model_extractor,
    with_output,
)
from tfdml.version import __version__


def extract_features(
    model,
    dataset,
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
    """Puts images through a frozen network and keeps its features on disk, as `tfdml.data.features` reads them.

    The folder gets `labels.npy`, `classes.txt`, `roles.npy` (if the set has roles) and `source.json`, which tells where
    the features are from; `features.npy` comes last and at once, so a folder that has it is whole.

    Args:
        model: What gives the features: a Keras model from images to vectors `(b, d)` or a feature map `(b, h, w, c)`;
            the path of a `.keras` file, of any SavedModel with the signature `serving_default`, or of a run's folder;
            or the name of a backbone, with its weights in `backbone_options`.
        dataset: A `LabeledImages`, a data set of the registry or a folder of images.
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
        batch_size: Images at once.
        dtype: `"float32"` or `"float16"`, which takes half of the disk.
        trust: As for `evaluate`.
        verbose: Whether a bar shows the progress.

    Returns:
        The `LabeledFeatures` in the folder.

    Raises:
        ValueError: If the model or the data cannot be used, an option does not go with them, features are not finite
            (the images are named), the folder holds something else, or the disk is full.
    """
    folder = pathlib.Path(out).expanduser()
    if not holds_unfinished_features(folder):
        check_is_free(folder)
    with input_errors():
        batch_size = check_whole_number("batch_size", batch_size, minimum=1)
        check_choice("dtype", dtype, DTYPES)
        if scale is not None:
            check_choice("scale", scale, SCALES)
        if not isinstance(dataset, data.LabeledSamples):
            dataset = load_dataset(str(dataset), data_options or {})
        elif data_options:
            raise InputError(f"Options go with a data set's name. Received: data_options={data_options}.")
        if not isinstance(dataset, data.LabeledImages) or not len(dataset):
            raise InputError(f"Features are extracted from images. Received: {dataset!r}.")
        image_options = {"size": size, "channels": channels, "short_side": short_side, "scale": scale}
        network = _open(model, dataset, image_options, backbone_options or {}, output, trust)
        pool = feature_pooling(pooling)
    source = {
        "model": model.name if isinstance(model, keras.Model) else os.fspath(model),
        "output": output,
        "pooling": pooling,
        **network.images,
        "data": dataset.name,
        "images": len(dataset),
        "classes": dataset.num_classes,
        "num_train_classes": dataset.num_train_classes,
        "versions": {"tfdml": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    # AutoGraph would give errors another class.
    forward = tf.function(lambda images: pool(network.forward(images)), reduce_retracing=True, autograph=False)

    def values(bar):
        for images, _ in network.batches(batch_size):
            with input_errors():
                features = forward(images)
            yield features
            bar.update(len(features))

    try:
        with tqdm.tqdm(total=len(dataset), unit="image", disable=not verbose) as bar:
            write_features(folder, dataset, values(bar), source, dtype)
    except (FolderInUseError, ValueError) as error:
        raise InputError(str(error)) from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"The features cannot be written: {reason}. Received: out={folder}.") from error
    except tf.errors.OpError as error:
        raise InputError(f"Not every image goes through the network: {line_of(error)}") from error
    return data.features(folder, verify=False)


def _open(model, dataset, image_options, backbone_options, output, trust):
    given = {name: value for name, value in image_options.items() if value is not None}
    if isinstance(model, keras.Model):
        refuse(backbone_options, "backbone_options", "a Keras model")
        return keras_extractor(model, dataset, given, output)
    path = pathlib.Path(model).expanduser()
    name = str(model).lower()
    if name in backbones.names():
        return backbone_extractor(name, dataset, given, backbone_options, output)
    refuse(backbone_options, "backbone_options", f"model={str(model)!r}")
    if path.suffix == ".keras" and path.is_file():
        return keras_extractor(load_keras_file(path), dataset, given, output)
    if (path / "saved_model.pb").is_file() and not is_own_saved_model(path):
        check_saved_model(path, trust)
        with path_for_tensorflow(path) as plain:
            loaded = tf.saved_model.load(plain)
        return saved_model_extractor(loaded, path, dataset, given, output)
    if path.is_dir():
        return _own_network(path, dataset, given, output, trust)
    raise InputError(
        f"There is no such model. Received: {str(model)!r}; expected a .keras file, the folder of a SavedModel or of a "
        f"run, or a backbone. Did you mean {nearest_key(name, backbones.names())!r}?"
    )


def _own_network(path, dataset, given, output, trust):
    """A run or a SavedModel of this package, which knows how images come."""
    refuse(given, "image options", f"a network that has a preprocessing of its own, {path}")
    opened = open_network(path, trust)
    if opened.preprocessing is None:
        raise InputError(f"This network is a head, which takes features rather than images. Received: {path}.")
    embedder = opened.embedder
    if opened.is_saved_model:
        refuse(output, "output", f"a SavedModel of tfdml, {path}")
    else:
        embedder = with_output(embedder, output)
    return FeatureExtractor(
        lambda images: embedder(images, training=False),
        lambda batch_size: opened.batches(dataset, batch_size),
        {"preprocessing": opened.preprocessing.config(), "scale": "0-1"},
    )


if __name__ == "__main__":
    sys.exit(extract_main())
