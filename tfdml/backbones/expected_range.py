"""Which numbers a network expects of its images, as far as its first layers tell."""

from __future__ import annotations

import keras
import numpy as np

from tfdml._utils.types import InputRange
from tfdml.backbones.input_convention import InputConvention
from tfdml.ops import UNIT_RANGE

_BYTES = (0.0, 255.0)
# What the networks of keras.applications expect: names of layers at their entry, names of layers further on.
_FAMILIES = {
    "VGG": ({"block1_conv1"}, {"block1_conv2", "block2_conv2"}, "caffe"),
    "Xception": ({"block1_conv1"}, {"block1_conv1_bn", "block1_conv2_bn"}, (-1.0, 1.0)),
    "ResNetV2": ({"conv1_pad"}, {"conv1_conv", "conv2_block1_preact_bn"}, (-1.0, 1.0)),
    "ResNet": ({"conv1_pad"}, {"conv1_conv", "conv1_bn", "pool1_pad"}, "caffe"),
    "DenseNet": ({"conv1_conv", "conv1/conv"}, {"conv2_block1_concat"}, "torch"),
    "MobileNet": ({"conv1"}, {"conv1_bn", "conv_dw_1"}, (-1.0, 1.0)),
    "MobileNetV2": ({"Conv1"}, {"bn_Conv1", "expanded_conv_depthwise"}, (-1.0, 1.0)),
    "MobileNetV3": ({"conv"}, {"expanded_conv_depthwise"}, (-1.0, 1.0)),
    "MobileNetV3 of Keras 2": ({"Conv"}, {"expanded_conv/depthwise"}, (-1.0, 1.0)),
    "NASNet": ({"stem_conv1"}, {"stem_bn1"}, (-1.0, 1.0)),
}
# Layers of these two have names with numbers that count up in a process; their blocks do not.
_FAMILIES_BY_BLOCK = {"InceptionV3": ({"mixed0"}, (-1.0, 1.0)), "InceptionResNetV2": ({"mixed_5b"}, (-1.0, 1.0))}
# Networks with their preprocessing inside, unless include_preprocessing=False: ends of the names of two layers.
_WITHOUT_PREPROCESSING = (
    ("stem_conv", "block1a_project_conv"),
    ("_stem_conv", "Block_0_conv_1x1_1"),
    ("_stem_conv_1", "_stem_batch_norm_1"),
    ("_stem", "stage_0_block_0_depthwise_conv"),
)
# Patch embeddings of KerasHub, by class: what the published weights of their networks were trained with.
_PATCH_EMBEDDINGS: dict[str, tuple[InputRange, str]] = {
    "CLIPVisionEmbedding": ("clip", "CLIP"),
    "DINOV2Embedding": ("torch", "DINOv2"),
    "DINOV3Embedding": ("torch", "DINOv3"),
    "DeiTEmbeddings": ("torch", "DeiT"),
    "SigLIPVisionEmbedding": ((-1.0, 1.0), "SigLIP"),
    "ViTPatchingAndEmbedding": ((-1.0, 1.0), "ViT"),
}
# Layers that leave the range of numbers as it is. Names rather than classes: not every version of Keras has all.
_TRANSPARENT = {
    "InputLayer", "CenterCrop", "Dropout", "GaussianNoise", "Identity", "RandomBrightness", "RandomContrast",
    "RandomCrop", "RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom",
    "Resizing", "SpatialDropout2D", "ZeroPadding2D",
}  # fmt: skip


def expected_range(model: keras.Model) -> tuple[InputRange | None, str | None]:
    """What a network expects of images, if its first layers tell.

    They tell by a rescaling, a normalization or the input convention of this package; by the names of a network of
    `keras.applications`, or by the patch embedding of a vision transformer of KerasHub. The network can be cut off,
    part of another network or called as a layer.

    Args:
        model: A Keras model from images.

    Returns:
        `(input_range, name)`: an input range as `tfdml.ops.check_input_range` gives it and what it was recognized by;
        or `(None, None)` if nothing tells.

    Raises:
        ValueError: If there is a network of `keras.applications` behind layers that may change the range, or one of
            KerasHub that is not a known vision transformer.
    """
    steps = _steps(model)
    for number, step in enumerate(steps):
        if isinstance(step, InputConvention):
            return UNIT_RANGE, step.name
        kind = type(step).__name__
        if kind == "Rescaling":
            return (_BYTES if np.max(np.abs(step.scale)) < 1 / 16 else UNIT_RANGE), step.name
        if kind == "Normalization":
            return _range_of_normalization(step), step.name
        if kind in _PATCH_EMBEDDINGS and is_of_keras_hub(step):
            input_range, name = _PATCH_EMBEDDINGS[kind]
            return input_range, f"{name} of KerasHub"
        family = _family(step.name, [other.name for other in steps[number:]])
        if family is None and isinstance(step, keras.Model):
            input_range, name = expected_range(step)
            if name is None and _only_transparent(step):
                continue
            return input_range, name
        if family is None and kind in _TRANSPARENT:
            continue
        if is_of_keras_hub(model):
            # Its layers can be called as those of keras.applications, whose weights expect other numbers.
            raise ValueError(
                f"A network of KerasHub does not tell what it expects. Received: {type(model).__name__} with "
                "input_range=None. Expected: input_range=(low, high), 'caffe', 'tf', 'torch' or 'clip'; or the preset "
                "by name, 'keras_hub:PRESET'."
            )
        if family is not None:
            return family
        _check_no_family_behind(steps[number + 1 :], step)
        return None, None
    return None, None


def is_of_keras_hub(layer):
    """Whether a layer or model is of a class of KerasHub, which is not imported for the answer."""
    return any(kind.__module__.partition(".")[0] == "keras_hub" for kind in type(layer).__mro__)


def _steps(model):
    """Layers and operations from the input on. Keras 3 has operations that are not layers, Keras 2 has layers only."""
    steps = getattr(model, "operations", None) if not isinstance(model, keras.Sequential) else None
    return list(steps or model.layers)


def _only_transparent(model):
    return all(type(step).__name__ in _TRANSPARENT for step in _steps(model))


def _family(entry, names):
    """The convention of a network whose first layer that computes has this name, and what it is called."""
    known = set(names)
    for family, (entries, others, convention) in _FAMILIES.items():
        if entry in entries and others <= known:
            return convention, f"{family} of keras.applications"
    for family, (blocks, convention) in _FAMILIES_BY_BLOCK.items():
        if entry.startswith("conv2d") and blocks <= known:
            return convention, f"{family} of keras.applications"
    for first, other in _WITHOUT_PREPROCESSING:
        if entry.endswith(first) and any(name.endswith(other) for name in names):
            raise ValueError(
                "A network of keras.applications without its preprocessing does not tell what it expects. Received: "
                f"one that begins with {entry!r}. Expected: input_range=(low, high), 'caffe', 'tf' or 'torch'."
            )
    return None


def _range_of_normalization(layer):
    mean = np.asarray(layer.mean if layer.mean is not None else 0.0)
    return _BYTES if np.max(np.abs(mean)) > 2 else UNIT_RANGE


def _check_no_family_behind(steps, entry):
    for number, step in enumerate(steps):
        if isinstance(step, keras.Model):
            _, name = expected_range(step)
        else:
            found = _family(step.name, [other.name for other in steps[number:]])
            name = found[1] if found else None
        if name is not None and name.endswith("keras.applications"):
            raise ValueError(
                f"What {name} expects is unknown here, because {entry.name!r} comes before it. Received: "
                "input_range=None. Expected: input_range=(low, high), the values of black and white that the whole "
                "network takes; (0, 255) if preprocess_input of keras.applications is part of it."
            )
