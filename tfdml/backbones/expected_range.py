"""Infer the range of images that a network expects from its first layers."""

from __future__ import annotations

import keras
import numpy as np

from tfdml._utils.types import InputRange
from tfdml.backbones.input_convention import InputConvention
from tfdml.ops import UNIT_RANGE

_BYTES = (0.0, 255.0)
# Input ranges of keras.applications: names of entry layers, names of later layers, range.
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
# Layer names of these two contain process-wide counters; the names of their blocks do not.
_FAMILIES_BY_BLOCK = {"InceptionV3": ({"mixed0"}, (-1.0, 1.0)), "InceptionResNetV2": ({"mixed_5b"}, (-1.0, 1.0))}
# Networks that contain their preprocessing unless include_preprocessing=False: suffixes of two layer names.
_WITHOUT_PREPROCESSING = (
    ("stem_conv", "block1a_project_conv"),
    ("_stem_conv", "Block_0_conv_1x1_1"),
    ("_stem_conv_1", "_stem_batch_norm_1"),
    ("_stem", "stage_0_block_0_depthwise_conv"),
)
# Patch embeddings of KerasHub by class: input range of the published weights, name of the network.
_PATCH_EMBEDDINGS: dict[str, tuple[InputRange, str]] = {
    "CLIPVisionEmbedding": ("clip", "CLIP"),
    "DINOV2Embedding": ("torch", "DINOv2"),
    "DINOV3Embedding": ("torch", "DINOv3"),
    "DeiTEmbeddings": ("torch", "DeiT"),
    "SigLIPVisionEmbedding": ((-1.0, 1.0), "SigLIP"),
    "ViTPatchingAndEmbedding": ((-1.0, 1.0), "ViT"),
}
# Layers that do not change the range. Names instead of classes, because not all versions of Keras have all of them.
_TRANSPARENT = {
    "InputLayer", "CenterCrop", "Dropout", "GaussianNoise", "Identity", "RandomBrightness", "RandomContrast",
    "RandomCrop", "RandomFlip", "RandomHeight", "RandomRotation", "RandomTranslation", "RandomWidth", "RandomZoom",
    "Resizing", "SpatialDropout2D", "ZeroPadding2D",
}  # fmt: skip


def expected_range(model: keras.Model) -> tuple[InputRange | None, str | None]:
    """Infer the range of images that a network expects from its first layers.

    Use it to check how to scale images for a network; `build_embedder` and `export_saved_model` call it.

    The range is recognized by a `Rescaling`, `Normalization` or `InputConvention` layer, the layer names of a network
    of `keras.applications`, or the patch embedding of a vision transformer of KerasHub. The network may be truncated,
    part of another network, or called as a layer.

    Args:
        model: `keras.Model` of images.

    Returns:
        Pair (input_range, name): the range in the form of `tfdml.ops.check_input_range`, and what it was recognized by;
        (`None`, `None`) if it is not recognized.

    Raises:
        ValueError: If a network of `keras.applications` follows layers that may change the range, or a network of
            KerasHub is not a known vision transformer.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Rescaling(1 / 255, name="to_unit_range")])
        >>> expected_range(model)
        ((0.0, 255.0), 'to_unit_range')
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
            # Its layers may have the names of keras.applications, whose weights expect another range.
            raise ValueError(
                f"The input range of this KerasHub network is unknown. Received: {type(model).__name__} with "
                "input_range=None. Expected: input_range=(low, high), 'caffe', 'tf', 'torch' or 'clip'; or the preset "
                "by name, 'keras_hub:PRESET'."
            )
        if family is not None:
            return family
        _check_no_family_behind(steps[number + 1 :], step)
        return None, None
    return None, None


def is_of_keras_hub(layer):
    """Return whether a layer or model has a class of KerasHub, without importing KerasHub."""
    return any(kind.__module__.partition(".")[0] == "keras_hub" for kind in type(layer).__mro__)


def _steps(model):
    """Return layers and operations from the input on. Only Keras 3 has operations that are not layers."""
    steps = getattr(model, "operations", None) if not isinstance(model, keras.Sequential) else None
    return list(steps or model.layers)


def _only_transparent(model):
    return all(type(step).__name__ in _TRANSPARENT for step in _steps(model))


def _family(entry, names):
    """Return the input range and name of a network whose first computing layer has this name, or `None`."""
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
                "The input range of a network of keras.applications without its preprocessing is unknown. Received: "
                f"one that starts with {entry!r}. Expected: input_range=(low, high), 'caffe', 'tf' or 'torch'."
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
                f"The input range of {name} is unknown here, because {entry.name!r} precedes it. Received: "
                "input_range=None. Expected: input_range=(low, high), the values of black and white that the whole "
                "network expects; (0, 255) if it contains preprocess_input of keras.applications."
            )
