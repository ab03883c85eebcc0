"""The networks of keras.applications as backbones."""

from __future__ import annotations

import functools
import inspect
import pathlib
import re
import sys
from typing import Any, Callable

import keras
import numpy as np

from tfdml._utils.naming import check_options, unknown_name
from tfdml._utils.types import FrozenBatchNorm, InputRange, PathLike, Shape
from tfdml.backbones.batch_normalization import frozen_or_default, with_frozen_batch_norm
from tfdml.backbones.input_range import with_input_range
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.weights import cache_folder, load_in_order
from tfdml.ops import to_input_range

PREFIX = "keras.applications."
# Options of a network without its classifier; the others are set here.
_OPTIONS = ("alpha", "depth_multiplier", "minimalistic")
_RANGES = ((0.0, 255.0), "caffe", "tf", "torch")
_IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def application_names() -> list[str]:
    """Returns the names of the networks that this version of Keras has in `keras.applications`, with this prefix."""
    return [PREFIX + name for name in _applications().values()]


def application(name: str) -> Callable[..., keras.Model]:
    """Returns the builder of a backbone.

    Args:
        name: `"keras.applications.NAME"`, in any case.

    Raises:
        ValueError: If Keras has no such network. The nearest name is suggested.
    """
    found = _applications().get(name[len(PREFIX) :].lower())
    if found is None:
        raise unknown_name("network of keras.applications", name[len(PREFIX) :], _applications().values())
    return functools.partial(keras_application, found)


def keras_application(
    application: str,
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    name: str | None = None,
    **options: Any,
) -> keras.Model:
    """Builds a network of `keras.applications` without its classifier.

    Args:
        application: The name of the network, as Keras spells it.
        input_shape: `(height, width, 3)` of the images; height and width can be `None` where the network allows it.
        weights: `None` for random weights; `"imagenet"`, which Keras downloads once; or the path of a file, `.h5`
            without the classifier (Keras' own download is one), `.weights.h5` or `.npz`.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes by the moving statistics in training, too, and trains γ
            and β; `"all"` freezes γ and β as well. `None` is `"statistics"` with weights, else `"none"`.
        name: The model's name. Default: that of the network in lower case.
        **options: `alpha`, `depth_multiplier` and `minimalistic`, where the network has them.

    Returns:
        A functional `keras.Model` from RGB images, float32 in 0–1, to a feature map. The network is one layer of it,
        behind the layer `"input_range"`, which scales images as `preprocess_input` of the network does.

    Raises:
        ValueError: If an argument is out of range, or the file has weights of another network.
        FileNotFoundError: If there is no such file, or the weights cannot be downloaded.
    """
    input_shape = check_input_shape(input_shape, 1, channels=(3,))
    frozen_batch_norm = frozen_or_default(frozen_batch_norm, weights)
    if keras.backend.image_data_format() != "channels_last":
        raise ValueError(
            "Networks of keras.applications are built in Keras' global image data format. Received: 'channels_first'. "
            "Expected: 'channels_last'; call keras.config.set_image_data_format('channels_last') (keras.backend.… in "
            "Keras 2) before."
        )
    builder = getattr(keras.applications, application)
    accepted = [option for option in _OPTIONS if option in inspect.signature(builder).parameters]
    check_options("backbone", PREFIX + application, ["weights", "frozen_batch_norm", "name", *accepted], options)
    is_published = isinstance(weights, str) and weights == "imagenet"
    options = {**options, "include_top": False, "input_shape": input_shape}
    model = _build(builder, application, "imagenet" if is_published else None, options)
    if weights is not None and not is_published:
        load_in_order(model, pathlib.Path(weights).expanduser())
        _finalize(model, is_file_of_efficientnet=application.startswith("EfficientNetB"))
    frozen = with_frozen_batch_norm(model, frozen_batch_norm)
    if frozen is not model:
        _finalize(frozen)
    images, features = with_input_range(frozen, _input_range_of(builder))
    return keras.Model(images, features, name=name or application.lower())


@functools.lru_cache
def _applications():
    """Names by themselves in lower case."""
    known = [name for name in dir(keras.applications) if name[0].isupper()]
    known = [name for name in known if "include_top" in inspect.signature(getattr(keras.applications, name)).parameters]
    return {name.lower(): name for name in known}


def _build(builder, name, weights, options):
    try:
        return builder(weights=weights, **options)
    except ValueError as error:
        raise ValueError(
            f"keras.applications.{name} cannot be built. Received: input_shape={options['input_shape']} with "
            f"weights={weights!r}. Expected: what Keras says: {' '.join(str(error).split())}"
        ) from error
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        if weights is None:
            raise
        address = re.search(r"https?://[^\s:]+(?::\d+)?[^\s:]*", str(error))
        file = address[0].rsplit("/", 1)[-1] if address else "the file"
        raise FileNotFoundError(
            f"The ImageNet weights of keras.applications.{name} are not here and cannot be downloaded ({error}). "
            f"Expected: {cache_folder() / file}, from {address[0] if address else 'a machine with a network'}; or "
            "weights=FILE."
        ) from error


def _input_range_of(builder: Callable[..., keras.Model]) -> InputRange:
    """What a network expects of images: the range whose numbers are those of its `preprocess_input`."""
    preprocess = sys.modules[builder.__module__].preprocess_input
    images = np.random.default_rng(0).random((1, 2, 2, 3)).astype("float32")
    wanted = np.asarray(preprocess(255.0 * images, data_format="channels_last"))
    for input_range in _RANGES:
        if np.allclose(to_input_range(images, input_range), wanted, rtol=1e-4, atol=1e-4):
            return input_range
    raise ValueError(
        f"The preprocessing of this network is unknown. Received: {builder.__name__}. Expected: one of {_RANGES}. "
        "Build the model yourself, and pass input_range to build_embedder."
    )


def _finalize(model, is_file_of_efficientnet=False):
    """Makes layers that normalize images use the weights that were assigned to them."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            if is_file_of_efficientnet:
                _correct_deviation(layer)
            layer.finalize_state()


def _correct_deviation(layer):
    """Replaces ImageNet's deviation by its square where the variance belongs.

    The published files of EfficientNet-B0 to B7 have it so; with weights="imagenet" Keras corrects it by a layer.
    """
    for weight in layer.weights:
        if tuple(weight.shape) == (3,) and np.allclose(np.asarray(weight), _IMAGENET_DEVIATION, atol=1e-4):
            weight.assign(np.square(np.asarray(weight)))
