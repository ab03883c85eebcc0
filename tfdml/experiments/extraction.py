"""Features of a frozen network, computed once and stored on disk."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import keras
import tensorflow as tf
import tqdm

from tfdml import backbones, data
from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.files import FolderInUseError
from tfdml._utils.foreign_graphs import check_saved_model, load_keras_file
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.naming import nearest_name
from tfdml._utils.types import PathLike
from tfdml.data.feature_files import holds_unfinished_features, write_features
from tfdml.experiments.errors import line_of
from tfdml.experiments.evaluation import load_dataset, open_network
from tfdml.experiments.extract_command import DTYPES, SCALES, extract_main
from tfdml.experiments.run_folder import check_is_free
from tfdml.export.saved_model import is_own_saved_model, path_for_tensorflow
from tfdml.models.embedder import compiled_for_batches
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
    model: Any,
    dataset: data.LabeledImages | PathLike,
    out: PathLike,
    *,
    data_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    output: str | None = None,
    pooling: str | None = None,
    skip_tokens: int | None = None,
    token_grid: tuple[int, int] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    short_side: int | None = None,
    scale: Literal["0-1", "0-255", "-1-1"] | None = None,
    batch_size: int = 64,
    dtype: Literal["float16", "float32"] = "float32",
    trust: bool = False,
    verbose: bool = True,
) -> data.LabeledFeatures:
    """Compute features of images with a frozen network and store them for `tfdml.data.features`.

    The folder gets `labels.npy`, `classes.txt`, `roles.npy` (if the dataset has queries and a gallery) and
    `source.json` (where the features come from). `features.npy` is written last, so a folder that has it is complete.

    Args:
        model: Network. A Keras model from images to vectors (b, d), feature maps (b, h, w, c) or tokens (b, n, c); the
            path of a `.keras` file, of a SavedModel with the signature `serving_default`, or of a run's folder; or the
            name of a backbone, with its weights in `backbone_options`.
        dataset: `LabeledImages`, name of a dataset, or folder of images.
        out: path. Folder to create. It may contain an interrupted extraction, which is replaced, but nothing else.
        data_options: mapping. Options of the dataset.
        backbone_options: mapping. Options of the backbone, for example `{"weights": "imagenet"}`.
        output: str. Output of a model with several outputs, or a layer of a Keras model.
        pooling: str. Pooling of feature maps or patch tokens, without trainable weights; of tokens also `"cls"`, the
            class token, or `"cls+gap"`. Default: `"gap"`.
        skip_tokens: int. Leading class and register tokens of a vision transformer. Default: inferred, if possible.
        token_grid: (height, width). Grid of the patch tokens. Default: inferred, if possible.
        size: int or (height, width). Size of the images. Default: that of the model or, if it accepts any size, of the
            dataset.
        channels: 1 or 3. Default: as for `size`.
        short_side: int. As in `tfdml.data.Preprocessing`. Default: None.
        scale: `"0-1"`, `"0-255"` or `"-1-1"`. Values for black and white that the model expects. Networks of this
            package (runs, SavedModels, backbones) include their preprocessing. Default: `"0-1"`.
        batch_size: int. Images per batch. Default: 64.
        dtype: `"float32"` or `"float16"`. Data type of the stored features. Default: `"float32"`.
        trust: bool. As in `evaluate`. Default: False.
        verbose: bool. Show a progress bar. Default: True.

    Returns:
        The `LabeledFeatures` in the folder.

    Raises:
        ValueError: If the model or the data cannot be used, an option is not accepted for them, features are not
            finite (the message names the images), the folder has other content, or the disk is full.

    Example:
        >>> extract_features("MODEL.keras", "digits", "features/digits", scale="0-255")  # doctest: +SKIP
    """
    folder = pathlib.Path(out).expanduser()
    if not holds_unfinished_features(folder):
        check_is_free(folder)
    with input_errors():
        batch_size = check_whole_number("batch_size", batch_size, minimum=1)
        check_choice("dtype", dtype, DTYPES)
        if not isinstance(dataset, data.LabeledSamples):
            dataset = load_dataset(str(dataset), data_options or {})
        elif data_options:
            raise InputError(f"Options need the name of a dataset. Received: data_options={data_options}.")
        if not isinstance(dataset, data.LabeledImages) or not len(dataset):
            raise InputError(f"Features are extracted from images. Received: {dataset!r}.")
        network = FrozenNetwork(
            model,
            dataset,
            backbone_options=backbone_options,
            output=output,
            pooling=pooling,
            skip_tokens=skip_tokens,
            token_grid=token_grid,
            size=size,
            channels=channels,
            short_side=short_side,
            scale=scale,
            trust=trust,
        )
    source = network.source(dataset)

    def values(bar):
        for features in network.features(dataset, batch_size):
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


class FrozenNetwork:
    """Network with its pooling and preprocessing, which computes features of any images.

    Args:
        model, backbone_options, output, pooling, skip_tokens, token_grid, trust: As for `extract_features`.
        dataset: `LabeledImages`, of which only the shape of images is used.
        **image_options: `size`, `channels`, `short_side` and `scale` as for `extract_features`.
    """

    def __init__(
        self,
        model: Any,
        dataset: data.LabeledImages,
        *,
        backbone_options: Mapping[str, Any] | None = None,
        output: str | None = None,
        pooling: str | None = None,
        skip_tokens: int | None = None,
        token_grid: tuple[int, int] | None = None,
        trust: bool = False,
        **image_options: Any,
    ):
        if image_options.get("scale") is not None:
            check_choice("scale", image_options["scale"], SCALES)
        self._network = network = _open(model, dataset, image_options, backbone_options or {}, output, trust)
        pool = feature_pooling(pooling, network.tokens, skip_tokens, token_grid)
        self._name = model.name if isinstance(model, keras.Model) else os.fspath(model)
        self._output, self._pooling = output, pooling
        # AutoGraph would change the class of errors.
        self._forward = compiled_for_batches(lambda images: pool(network.forward(images)), autograph=False)

    def features(self, images: data.LabeledImages, batch_size: int) -> Iterator[tf.Tensor]:
        """Yield batches of features of images, in order."""
        for batch, _ in self._network.batches(images, batch_size):
            with input_errors():
                features = self._forward(batch)
            yield features

    def source(self, dataset: data.LabeledImages) -> dict[str, Any]:
        """Return the content of `source.json`: where the features come from."""
        return {
            "model": self._name,
            "output": self._output,
            "pooling": self._pooling,
            **self._network.images,
            "data": dataset.name,
            "images": len(dataset),
            "classes": dataset.num_classes,
            "num_train_classes": dataset.num_train_classes,
            "versions": {"tfdml": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        }


def _open(model, dataset, image_options, backbone_options, output, trust):
    given = {name: value for name, value in image_options.items() if value is not None}
    if isinstance(model, keras.Model):
        refuse(backbone_options, "backbone_options", "a Keras model")
        return keras_extractor(model, dataset, given, output)
    path = pathlib.Path(model).expanduser()
    name = str(model)
    if backbones.is_known(name):
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
        f"There is no such model. Received: {str(model)!r}. Expected: a .keras file, the folder of a SavedModel or of "
        f"a run, or a backbone. Did you mean {nearest_name(name, backbones.names_like(name))!r}?"
    )


def _own_network(path, dataset, given, output, trust):
    """The extractor of a run or a SavedModel of this package, which include their preprocessing."""
    refuse(given, "image options", f"a network with a preprocessing of its own, {path}")
    opened = open_network(path, trust)
    if opened.preprocessing is None:
        raise InputError(f"This network is a head for features. Received: {path}. Expected: a network for images.")
    embedder = opened.embedder
    if opened.is_saved_model:
        refuse(output, "output", f"a SavedModel of tfdml, {path}")
    else:
        embedder = with_output(embedder, output)
    return FeatureExtractor(
        lambda images: embedder(images, training=False),
        opened.batches,
        {"preprocessing": opened.preprocessing.config(), "scale": "0-1"},
    )


if __name__ == "__main__":
    sys.exit(extract_main())
