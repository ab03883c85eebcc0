"""Residual networks of twenty layers for small images."""

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
    r"""ResNet-20, first version: each block adds, then activates.

    $$y = \mathrm{relu}\big(\mathrm{bn}(w_2 * \mathrm{relu}(\mathrm{bn}(w_1 * x))) + s(x)\big)$$

    A convolution, then three stages of three such blocks with 3×3 convolutions of 16, 32 and 64 channels; the
    first block of the second and of the third stage halves height and width. The shortcut $s$ is the
    identity, or, where the shape changes, a strided 1×1 convolution with batch normalisation (option B of the
    paper). No convolution has a bias; all start He-normal. With three channels there are 273,392 parameters,
    1,568 of them the moving statistics of batch normalisation; with one channel 288 fewer.

    Args:
        input_shape: `(height, width, channels)` of the images: 16 to 64 pixels a side or `None` (unknown), 1
            or 3 channels.
        batch_norm_momentum: How much of the moving statistics stays at each step, if they are not frozen.
        frozen_batch_norm: `"none"`; `"statistics"`: training normalises by the moving statistics and leaves them as
            they are, γ and β train; `"all"`: γ and β are frozen, too.
        name: The model's name.

    Returns:
        A functional `keras.Model` from images, float32 in 0–1 (brought to [-1, 1] inside), to a feature map
        `(b, ⌈height/4⌉, ⌈width/4⌉, 64)`, not negative.

    Raises:
        ValueError: If it takes no such images, the momentum is not in [0, 1), or `frozen_batch_norm` is another word.

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
    r"""ResNet-20, second version: each block activates first, and the sum stays as it is.

    $$y = w_2 * \mathrm{relu}(\mathrm{bn}(w_1 * a)) + s, \qquad a = \mathrm{relu}(\mathrm{bn}(x))$$

    The same stages and *basic* blocks (two 3×3 convolutions, depth 6·3 + 2) as `resnet20`, not the
    bottlenecks of depth 9·n + 2. The shortcut is $s = x$; in the first block of a stage it starts after the
    activation, as the paper has it: $s = a$, or a strided 1×1 convolution of $a$ where the shape changes.
    Batch normalisation and ReLU follow the last block. With three channels there are 273,008 parameters,
    1,376 of them the moving statistics of batch normalisation; with one channel 288 fewer.

    Args:
        input_shape: `(height, width, channels)` of the images: 16 to 64 pixels a side or `None` (unknown), 1
            or 3 channels.
        batch_norm_momentum: How much of the moving statistics stays at each step, if they are not frozen.
        frozen_batch_norm: `"none"`; `"statistics"`: training normalises by the moving statistics and leaves them as
            they are, γ and β train; `"all"`: γ and β are frozen, too.
        name: The model's name.

    Returns:
        A functional `keras.Model` from images, float32 in 0–1 (brought to [-1, 1] inside), to a feature map
        `(b, ⌈height/4⌉, ⌈width/4⌉, 64)`, not negative.

    Raises:
        ValueError: If it takes no such images, the momentum is not in [0, 1), or `frozen_batch_norm` is another word.

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
    """What the two versions share; they differ in where the activations stand."""

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
