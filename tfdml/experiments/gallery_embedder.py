"""Embedders of galleries: opened from what a gallery remembers, and applied to files and to pixels."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml import backbones, data
from tfdml._utils.foreign_graphs import check_saved_model, load_keras_file
from tfdml._utils.input_errors import InputError, input_errors
from tfdml._utils.naming import nearest_name
from tfdml.backbones.hub_models import PREFIX, PRETRAINED
from tfdml.experiments.evaluation import open_network
from tfdml.export.saved_model import SavedEmbedder, is_own_saved_model, path_for_tensorflow
from tfdml.models import inference_function
from tfdml.models.embedder import compiled_for_batches
from tfdml.models.feature_extractor import feature_pooling, keras_extractor, refuse, saved_model_extractor

# Sizes of the images with which the weights were trained; 224 for others.
_SIZES = {"efficientnet_lite1": 240, "efficientnet_lite2": 260}
_IMAGE_OPTIONS = ("size", "channels", "short_side", "scale")
# An image that nothing reads: it says that images are files.
_PROBE = data.LabeledImages(["probe"], [0], ("",))


class GalleryEmbedder:
    """Embedder of image files and of decoded images.

    Args:
        forward: Function from a batch, as `batches` returns it, to vectors `(b, d)`.
        weights: Sequence of variables, for the fingerprint.
        preprocessing: `tfdml.data.Preprocessing`. `None` for a SavedModel that includes it.
        saved: `SavedEmbedder` that includes its preprocessing, or `None`. Default `None`.
        is_trained: bool. Whether it was trained to embed; features of a backbone are not. Default `True`.
    """

    def __init__(
        self,
        forward: Callable[[Any], Any],
        weights: Sequence[Any],
        preprocessing: data.Preprocessing | None,
        saved: SavedEmbedder | None = None,
        is_trained: bool = True,
    ):
        self.weights, self.preprocessing, self.is_trained = list(weights), preprocessing, is_trained
        self._forward, self._saved = forward, saved

    def __call__(self, images: Any, training: bool = False) -> Any:
        """Return the vectors of a batch."""
        return self._forward(images)

    def embed_files(
        self, paths: Sequence[str], batch_size: int, advance: Callable[[int], Any] | None = None
    ) -> np.ndarray:
        """Return vectors of image files, float32 `(n, d)`; `advance` is called with the size of each batch."""
        images = data.LabeledImages(list(paths), np.zeros(len(paths), np.int64), ("",))
        if self._saved is not None:
            batches = self._saved.batches(images, batch_size)
        else:
            batches = data.evaluation_batches(images, batch_size, self.preprocessing)
        vectors = []
        for batch, _ in batches:
            vectors.append(np.asarray(self._forward(batch)))
            if advance is not None:
                advance(len(vectors[-1]))
        return np.concatenate(vectors)

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return the vector of a decoded image, uint8 `(h, w, c)`, as float32 `(1, d)`."""
        batch = tf.constant(pixels)[tf.newaxis]
        return np.asarray(self._forward(batch if self.preprocessing is None else self.preprocessing(batch)))


def open_embedder(
    name: str, options: Mapping[str, Any] | None = None, root: str = "", trust: bool = False
) -> GalleryEmbedder:
    """Open an embedder.

    Args:
        name: str. Folder of a run or of a SavedModel, `.keras` file, or name of a backbone, whose feature maps or
            tokens are pooled.
        options: mapping. `size`, `channels`, `short_side`, `scale`, `output`, `pooling` and `backbone_options`, as for
            `tfdml-extract`. The weights of a backbone are `"imagenet"` by default, and its size is 224.
        root: str. Folder from which a relative path starts. Default: the current folder.
        trust: bool. As in `evaluate`. Default: False.

    Raises:
        InputError: If the embedder cannot be opened, or an option does not apply to it.
    """
    given = {key: value for key, value in (options or {}).items() if value not in (None, {})}
    with input_errors():
        return _open(name, given, pathlib.Path(root, os.path.expanduser(name)), trust)


def _open(name, options, path, trust):
    images = {key: options[key] for key in _IMAGE_OPTIONS if key in options}
    output, pooling, backbone_options = (options.get(key) for key in ("output", "pooling", "backbone_options"))
    if backbones.is_known(name):
        return _of_backbone(name, images, backbone_options or {}, output, pooling)
    refuse(backbone_options, "backbone_options", f"{name!r}")
    if path.suffix == ".keras" and path.is_file():
        return _of_model(load_keras_file(path), images, output, pooling)
    if (path / "saved_model.pb").is_file() and not is_own_saved_model(path):
        check_saved_model(path, trust)
        with path_for_tensorflow(path) as plain:
            loaded = tf.saved_model.load(plain)
        extractor = saved_model_extractor(loaded, path, _PROBE, images, output)
        return _of_extractor(extractor, loaded.signatures["serving_default"].variables, pooling)
    if path.is_dir():
        for option, value in options.items():
            refuse(value, option, f"{name!r}, which includes its preprocessing")
        return _of_own(path, trust)
    raise InputError(
        f"There is no such embedder. Received: {name!r} ({path}). Expected: the folder of a run or of a SavedModel, a "
        f".keras file, or a backbone. Did you mean {nearest_name(name, backbones.names_like(name))!r}?"
    )


def _of_backbone(name, images, options, output, pooling):
    size = images.get("size", _SIZES.get(name, 224))
    height, width = (size, size) if isinstance(size, int) else size
    shape = (height, width, images.get("channels", 3))
    default = PRETRAINED if name.lower().startswith(PREFIX) else "imagenet"
    if options.get("weights", default) is None:
        raise InputError(
            f"The weights of a backbone are random. Received: {name!r} with backbone_options.weights null. Expected: "
            "weights, or a trained network."
        )
    if images.get("scale", "0-1") != "0-1":
        raise InputError(
            f"A backbone scales images itself. Received: scale={images['scale']!r} with {name!r}. Expected: no scale."
        )
    if not name.lower().startswith(PREFIX):
        options = {"weights": "imagenet", **options}
    model = backbones.get(name, shape, **options)
    return _of_model(model, {**images, "size": (height, width), "channels": shape[-1]}, output, pooling, False)


def _of_model(model, images, output, pooling, is_trained=True):
    extractor = keras_extractor(model, _PROBE, images, output)
    weights = getattr(model, "embedder", model).weights
    return _of_extractor(extractor, weights, pooling, is_trained)


def _of_extractor(extractor, weights, pooling, is_trained=True):
    pool = feature_pooling(pooling, extractor.tokens)
    forward = compiled_for_batches(
        lambda images: tf.cast(pool(extractor.forward(images)), tf.float32), autograph=False
    )
    preprocessing = data.Preprocessing.from_config(extractor.images["preprocessing"])
    return GalleryEmbedder(forward, weights, preprocessing, is_trained=is_trained)


def _of_own(path, trust):
    opened = open_network(path, trust)
    if opened.preprocessing is None:
        raise InputError(f"This network is a head for features. Received: {path}. Expected: a network for images.")
    forward = inference_function(opened.embedder)
    if not opened.is_saved_model:
        return GalleryEmbedder(forward, opened.embedder.weights, opened.preprocessing)
    return GalleryEmbedder(forward, opened.embedder.variables, None, opened.embedder)
