"""ResNet-50 with Keras' weights."""

from __future__ import annotations

import keras

from tfdml._utils.types import FrozenBatchNorm, PathLike, Shape
from tfdml.backbones.batch_normalization import Normalizer, frozen_or_default
from tfdml.backbones.convolution_units import ConvolutionUnit
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.registry import register
from tfdml.backbones.weights import KerasApplication, start_from

SMALLEST_SIDE = 32
PUBLISHED = KerasApplication("ResNet50", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5")

# Width of the 3×3 convolutions and number of blocks of the stages conv2 to conv5.
STAGES = {"conv2": (64, 3), "conv3": (128, 4), "conv4": (256, 6), "conv5": (512, 3)}
_EXPANSION = 4


@register("resnet50")
def resnet50(
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    batch_norm_momentum: float = 0.9,
    name: str = "resnet50",
) -> keras.Model:
    """Build ResNet-50 with the layers and names of `keras.applications`.

    Use it as a strong general-purpose backbone with `weights="imagenet"`.

    A 7×7 convolution and max pooling are followed by four stages of 3, 4, 6 and 3 bottlenecks (1×1, 3×3, 1×1). From
    the second stage on, the first 1×1 convolution of a stage halves height and width. (In PyTorch it is the 3×3
    convolution, so PyTorch's weights do not fit.) Convolutions have a bias. It has 23,534,592 trainable parameters and
    53,120 moving statistics.

    Args:
        input_shape: tuple (height, width, 3) of the images: at least 32 pixels per side, or `None` for any size.
        weights: `None` for random weights, `"imagenet"` (downloaded by Keras), or a file that
            `tfdml.backbones.load_weights` reads: `.h5`, `.weights.h5` or `.npz`. Default `None`.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes with the moving statistics in training, too, and trains γ
            and β; `"all"` also freezes γ and β. `None` means `"statistics"` with weights, else `"none"`. Default
            `None`.
        batch_norm_momentum: float in [0, 1). Momentum of the moving statistics, if not frozen. Default 0.9.
        name: str. Name of the model. Default `"resnet50"`.

    Returns:
        Functional `keras.Model` from RGB images, float32 in 0–1, to a nonnegative feature map
        `(batch, ⌈height/32⌉, ⌈width/32⌉, 2048)`. The model itself converts images to BGR in 0–255 minus the mean
        (103.939, 116.779, 123.68).

    Raises:
        ValueError: If an argument is out of range, or the file has weights of another network.
        FileNotFoundError: If the weights are missing.

    Example:
        `backbone = resnet50((224, 224, 3), weights="imagenet")`

    Reference:
        He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016, table 1.
    """
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, channels=(3,))
    normalizer = Normalizer(batch_norm_momentum, frozen_or_default(frozen_batch_norm, weights), epsilon=1.001e-5)
    unit = ConvolutionUnit(normalizer, use_bias=True)
    images = keras.Input(input_shape, name="images")
    convention = InputConvention(255.0, (103.939, 116.779, 123.68), reverse_channels=True, name="convention")
    features = unit(convention(images), 64, "conv1", size=7, stride=2)
    features = keras.layers.ZeroPadding2D(1, data_format="channels_last", name="pool1_pad")(features)
    features = keras.layers.MaxPooling2D(3, strides=2, data_format="channels_last", name="pool1_pool")(features)
    for stage, (width, blocks) in STAGES.items():
        for block in range(1, blocks + 1):
            stride = 2 if block == 1 and stage != "conv2" else 1
            features = _bottleneck(features, width, stride, f"{stage}_block{block}", unit, project=block == 1)
    model = keras.Model(images, features, name=name)
    start_from(model, weights, PUBLISHED)
    return model


def _bottleneck(features, width, stride, name, unit, project):
    shortcut = features
    if project:
        shortcut = unit(features, _EXPANSION * width, f"{name}_0", stride=stride, activate=False)
    residual = unit(features, width, f"{name}_1", stride=stride)
    residual = unit(residual, width, f"{name}_2", size=3)
    residual = unit(residual, _EXPANSION * width, f"{name}_3", activate=False)
    total = keras.layers.Add(name=f"{name}_add")([shortcut, residual])
    return keras.layers.ReLU(name=f"{name}_out")(total)
