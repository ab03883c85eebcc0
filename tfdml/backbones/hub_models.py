"""Backbones of KerasHub."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, Callable

import keras
import tensorflow as tf

from tfdml._utils import keras_compat
from tfdml._utils.naming import suggestion
from tfdml._utils.types import Config, FrozenBatchNorm, InputRange, PathLike, Shape
from tfdml.backbones.batch_normalization import (
    can_freeze_statistics,
    frozen_or_default,
    with_frozen_batch_norm,
)
from tfdml.backbones.expected_range import expected_range, is_of_keras_hub
from tfdml.backbones.input_range import with_convention, with_input_range
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.weights import load_weights

PREFIX = "keras_hub:"
PRETRAINED = "pretrained"


@keras.saving.register_keras_serializable(package="tfdml")
class PooledTokenFirst(keras.layers.Layer):
    """Puts a vector that a network pools by attention in front of its patch tokens, where others have a class token.

    Args:
        patches: int. Number of patch tokens. (The embedding of SigLIP in KerasHub states one more than it outputs.)
        **kwargs: `name`, `dtype` and the like.
    """

    def __init__(self, patches: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.patches = int(patches)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        pooled, tokens = inputs
        return tf.concat([pooled[:, None], tokens], axis=1)

    def compute_output_shape(self, input_shape: Sequence[Shape]) -> Shape:
        return (input_shape[0][0], 1 + self.patches, input_shape[0][-1])

    def compute_output_spec(self, inputs: Any) -> Any:
        shape = self.compute_output_shape([tuple(one.shape) for one in inputs])
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> Config:
        return {**super().get_config(), "patches": self.patches}


def image_tower(model: keras.Model) -> keras.Model:
    """Returns the part of a KerasHub model that outputs tokens of images, and any other model as it is.

    The position embeddings of DINOv2 are frozen: KerasHub interpolates them again when it loads a file, so that what
    training changed of them would be lost.

    Args:
        model: A Keras model. Of CLIP and SigLIP this returns the vision encoder. SigLIP's outputs one vector, pooled by
            attention; here that vector comes first, as a class token does, and the patch tokens follow.
    """
    if not is_of_keras_hub(model):
        return model
    model = getattr(model, "vision_encoder", model)
    for layer in model.layers:
        if hasattr(layer, "interpolated_position_embeddings"):
            layer.interpolated_position_embeddings.trainable = False
    if type(model).__name__ != "SigLIPVisionEncoder":
        return model
    height, width = (side // model.patch_size for side in model.image_shape[:2])
    tokens = PooledTokenFirst(height * width, name="tokens")([model.outputs[0], model.post_layer_norm.output])
    return keras.Model(model.inputs[0], tokens, name=model.name)


def preset(name: str) -> Callable[..., keras.Model]:
    """Returns the builder of a backbone, `"keras_hub:PRESET"`. Nothing is imported or checked yet."""
    return functools.partial(keras_hub_backbone, name[len(PREFIX) :])


def keras_hub_backbone(
    preset: str,
    input_shape: Shape,
    weights: PathLike | None = PRETRAINED,
    input_range: InputRange | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    name: str | None = None,
) -> keras.Model:
    """Builds the image network of a KerasHub preset. Needs Keras 3 and the extra `keras-hub`.

    Args:
        preset: A preset of KerasHub, such as `"dinov2_small"`; a handle, such as `"hf://facebook/dinov2-small"`; or the
            folder of a preset, which needs no network.
        input_shape: `(height, width, channels)` of the images; height and width can be `None` for those of the preset.
            Other sizes than the preset's own are accepted by the networks that can interpolate their position
            embeddings.
        weights: `"pretrained"`, those of the preset; `None` for random weights; or a `.weights.h5` of the network.
        input_range: What the weights expect of images, `(low, high)` or a mode. `None` reads it from the preset's
            preprocessing, if it has one, or recognizes the network.
        frozen_batch_norm: For convolutional networks: `"none"`; `"statistics"` normalizes by the moving statistics in
            training, too, and trains γ and β; `"all"` freezes γ and β as well. `None` is `"none"` without weights; else
            `"statistics"`, or `"all"` for networks that have batch normalization inside other layers, such as
            EfficientNet.
        name: The model's name. Default: that of KerasHub.

    Returns:
        A functional `keras.Model` from images, float32 in 0–1, to tokens `(b, n, c)` or a feature map. The network is
        one layer of it, behind the layer `"input_range"`.

    Raises:
        ValueError: If Keras is older than 3, KerasHub is not installed, the preset is unknown, or it takes no such
            images.
        FileNotFoundError: If the preset cannot be downloaded, or the file of weights is not there.
    """
    hub = _import_keras_hub(preset)
    input_shape = check_input_shape(input_shape, 1)
    _check_is_preset(hub, preset)
    is_own = isinstance(weights, str) and weights == PRETRAINED
    model = image_tower(_from_preset(hub, preset, is_own, input_shape))
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) != 3 or any(None not in (given, own) and given != own for given, own in zip(input_shape, shape)):
        raise ValueError(
            f"The preset {preset!r} takes no such images. Received: input_shape={input_shape}. Expected: {shape}."
        )
    if not is_own and weights is not None:
        load_weights(model, weights)
    if frozen_batch_norm is None and weights is not None and not can_freeze_statistics(model):
        frozen_batch_norm = "all"
    # A copy in each case: weights of a run must fit a network that is built without pretrained weights.
    frozen = with_frozen_batch_norm(model, frozen_or_default(frozen_batch_norm, weights), always_copy=True)
    images, features = _with_range_of_preset(hub, preset, model, frozen, input_range)
    return keras.Model(images, features, name=name or model.name)


def _import_keras_hub(preset):
    if keras_compat.IS_KERAS_2:
        raise ValueError(
            f"KerasHub needs Keras 3. Received: 'keras_hub:{preset}' with Keras {keras.__version__}. Expected: "
            "TensorFlow 2.16 or newer without the extra addons."
        )
    try:
        import keras_hub
    except ImportError as error:
        raise ValueError(
            f"KerasHub cannot be imported ({error}). Received: 'keras_hub:{preset}'. Expected: the package keras-hub. "
            "Run: pip install 'tfdml[keras-hub]'."
        ) from error
    return keras_hub


def _check_is_preset(hub, preset):
    known = hub.models.Backbone.presets
    if preset in known or "://" in preset or pathlib.Path(preset).expanduser().is_dir():
        return
    raise ValueError(
        f"Unknown preset of KerasHub. Received: {preset!r}. Expected: one of keras_hub.models.Backbone.presets, a "
        f"handle (kaggle://, hf://) or the folder of a preset.{suggestion(preset.lower(), known)}"
    )


def _from_preset(hub, preset, load_weights, input_shape):
    place = preset if "://" in preset else _folder_or_name(preset)
    attempts = [{}] if None in input_shape else [{"image_shape": input_shape}, {}]
    for options in attempts:
        try:
            return hub.models.Backbone.from_preset(place, load_weights=load_weights, **options)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:500]
            # Networks of images and texts take no such option.
            if options and "image_shape" in reason and ("nrecognized" in reason or "unexpected keyword" in reason):
                continue
            raise ValueError(
                f"The preset cannot be loaded: {reason} Received: 'keras_hub:{preset}' with input_shape={input_shape}. "
                "Expected: a preset of images, and a size that its network takes."
            ) from error
        except Exception as error:  # Of the network, by any of several libraries.
            raise FileNotFoundError(
                f"The preset is not here and cannot be downloaded ({' '.join(str(error).split())[:300]}). Received: "
                f"'keras_hub:{preset}'. Expected: a network, or 'keras_hub:FOLDER' with the folder that, on a machine "
                f"with a network, keras_hub.models.Backbone.from_preset({preset!r}).save_to_preset(FOLDER) writes."
            ) from error
    raise AssertionError("The last attempt returns or raises.")


def _folder_or_name(preset):
    folder = pathlib.Path(preset).expanduser()
    return str(folder) if folder.is_dir() else preset


def _with_range_of_preset(hub, preset, model, frozen, input_range):
    """The input and output of `frozen`, a network with the weights of `model`, behind the preprocessing of a preset."""
    if input_range is None:
        try:
            converter = hub.layers.ImageConverter.from_preset(_folder_or_name(preset))
        except Exception:  # A preset of the backbone alone has none.
            converter = None
        if converter is not None:
            scale = 1.0 if converter.scale is None else converter.scale
            offset = 0.0 if converter.offset is None else converter.offset
            scale = [255.0 * value for value in scale] if isinstance(scale, (list, tuple)) else 255.0 * scale
            offset = offset if isinstance(offset, (list, tuple)) else [offset]
            mean = [-value for value in offset]
            return with_convention(frozen, scale, mean, False, f"preprocessing of {preset!r}")
        input_range = expected_range(model)[0]
    return with_input_range(frozen, input_range)
