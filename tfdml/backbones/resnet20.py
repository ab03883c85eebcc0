"""Residual networks with 20 layers for small images."""

from __future__ import annotations

import keras

from tfdml._utils.types import FrozenBatchNorm, Shape
from tfdml.backbones.batch_normalization import Normalizer
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.registry import register

SMALLEST_SIDE, LARGEST_SIDE = 16, 64
WIDTHS = (16, 32, 64)
BLOCKS_PER_STAGE = 3


@register("resnet20")
def resnet20(
    input_shape: Shape,
    batch_norm_momentum: float = 0.9,
    frozen_batch_norm: FrozenBatchNorm = "none",
    name: str = "resnet20",
) -> keras.Model:
    r"""Build ResNet-20, version 1: each block adds, then activates.

    Use it for small images, such as digits, characters and CIFAR, which it trains on from scratch.

    $$y = \mathrm{relu}\big(\mathrm{bn}(w_2 * \mathrm{relu}(\mathrm{bn}(w_1 * x))) + s(x)\big)$$

    A convolution is followed by three stages of three such blocks with 3×3 convolutions of 16, 32 and 64 channels; the
    first block of stages 2 and 3 halves height and width. The shortcut $s$ is the identity or, if the shape changes, a
    strided 1×1 convolution with batch normalization (option B of the paper). Convolutions have no bias and are
    initialized He-normal. With three channels it has 273,392 parameters, including 1,568 moving statistics of batch
    normalization; with one channel, 288 fewer.

    Args:
        input_shape: tuple (height, width, channels) of the images: 16 to 64 pixels per side, or `None` for any size; 1
            or 3 channels.
        batch_norm_momentum: float in [0, 1). Momentum of the moving statistics, if not frozen. Default 0.9.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes with the moving statistics in training, too, and trains γ
            and β; `"all"` also freezes γ and β. Default `"none"`.
        name: str. Name of the model. Default `"resnet20"`.

    Returns:
        Functional `keras.Model` from images, float32 in 0–1, to a nonnegative feature map
        `(batch, ⌈height/4⌉, ⌈width/4⌉, 64)`. The model itself scales images to [-1, 1].

    Raises:
        ValueError: If the shape is not accepted, the momentum is not in [0, 1), or `frozen_batch_norm` has another
            value.

    Example:
        >>> resnet20((32, 32, 3)).output_shape
        (None, 8, 8, 64)

    Reference:
        He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016, sections 3.3 and 4.2.
    """
    return _build(input_shape, _PostActivation(Normalizer(batch_norm_momentum, frozen_batch_norm)), name)


@register("resnet20v2")
def resnet20v2(
    input_shape: Shape,
    batch_norm_momentum: float = 0.9,
    frozen_batch_norm: FrozenBatchNorm = "none",
    name: str = "resnet20v2",
) -> keras.Model:
    r"""Build ResNet-20, version 2: each block activates first, and its sum is not activated.

    Use it like `resnet20`; pre-activation makes deep residual networks easier to train.

    $$y = w_2 * \mathrm{relu}(\mathrm{bn}(w_1 * a)) + s, \qquad a = \mathrm{relu}(\mathrm{bn}(x))$$

    It has the stages and *basic* blocks of `resnet20` (two 3×3 convolutions, depth 6·3 + 2), not bottlenecks of depth
    9·n + 2. The shortcut is $s = x$. In the first block of a stage it starts after the activation, as in the paper:
    $s = a$, or a strided 1×1 convolution of $a$ if the shape changes. Batch normalization and ReLU follow the last
    block. With three channels it has 273,008 parameters, including 1,376 moving statistics of batch normalization; with
    one channel, 288 fewer.

    Args:
        input_shape: tuple (height, width, channels) of the images: 16 to 64 pixels per side, or `None` for any size; 1
            or 3 channels.
        batch_norm_momentum: float in [0, 1). Momentum of the moving statistics, if not frozen. Default 0.9.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes with the moving statistics in training, too, and trains γ
            and β; `"all"` also freezes γ and β. Default `"none"`.
        name: str. Name of the model. Default `"resnet20v2"`.

    Returns:
        Functional `keras.Model` from images, float32 in 0–1, to a nonnegative feature map
        `(batch, ⌈height/4⌉, ⌈width/4⌉, 64)`. The model itself scales images to [-1, 1].

    Raises:
        ValueError: If the shape is not accepted, the momentum is not in [0, 1), or `frozen_batch_norm` has another
            value.

    Example:
        >>> resnet20v2((32, 32, 1)).output_shape
        (None, 8, 8, 64)

    Reference:
        He, Zhang, Ren and Sun, Identity mappings in deep residual networks, ECCV 2016, figure 4(e) and
        appendix.
    """
    return _build(input_shape, _PreActivation(Normalizer(batch_norm_momentum, frozen_batch_norm)), name)


def _build(input_shape, version, name):
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, LARGEST_SIDE)
    images = keras.Input(input_shape, name="images")
    features = keras.layers.Rescaling(2.0, offset=-1.0, name="rescaling")(images)
    features = version.stem(_convolve(features, WIDTHS[0], "stem"))
    for stage, width in enumerate(WIDTHS, start=1):
        for block in range(1, BLOCKS_PER_STAGE + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            features = version.block(features, width, stride, f"stage{stage}_block{block}", first=block == 1)
    return keras.Model(images, version.end(features), name=name)


class _Version:
    """Base class of both versions, which differ in the position of the activations."""

    def __init__(self, normalizer):
        self.normalizer = normalizer

    def normalize(self, features, name):
        return self.normalizer(features, f"{name}_normalization")

    def activate(self, features, name):
        return keras.layers.ReLU(name=f"{name}_relu")(self.normalize(features, name))


class _PostActivation(_Version):
    def stem(self, features):
        return self.activate(features, "stem")

    def block(self, features, width, stride, name, first):
        shortcut = features
        if stride != 1:
            shortcut = _convolve(features, width, f"{name}_shortcut", size=1, stride=stride)
            shortcut = self.normalize(shortcut, f"{name}_shortcut")
        residual = self.activate(_convolve(features, width, f"{name}_1", stride=stride), f"{name}_1")
        residual = self.normalize(_convolve(residual, width, f"{name}_2"), f"{name}_2")
        total = keras.layers.Add(name=f"{name}_add")([shortcut, residual])
        return keras.layers.ReLU(name=f"{name}_relu")(total)

    def end(self, features):
        return features


class _PreActivation(_Version):
    def stem(self, features):
        return features

    def block(self, features, width, stride, name, first):
        activated = self.activate(features, f"{name}_1")
        shortcut = activated if first else features
        if stride != 1:
            shortcut = _convolve(shortcut, width, f"{name}_shortcut", size=1, stride=stride)
        residual = self.activate(_convolve(activated, width, f"{name}_1", stride=stride), f"{name}_2")
        residual = _convolve(residual, width, f"{name}_2")
        return keras.layers.Add(name=f"{name}_add")([shortcut, residual])

    def end(self, features):
        return self.activate(features, "end")


def _convolve(features, width, name, size=3, stride=1):
    return keras.layers.Conv2D(
        width,
        size,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        data_format="channels_last",
        name=f"{name}_convolution",
    )(features)
