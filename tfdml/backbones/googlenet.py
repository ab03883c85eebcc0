"""GoogLeNet: the first Inception network."""

from __future__ import annotations

import keras

from tfdml._utils.types import FrozenBatchNorm, PathLike, Shape
from tfdml.backbones.batch_normalization import Normalizer, frozen_or_default
from tfdml.backbones.convolution_units import ConvolutionUnit, inception_stem, max_pool, max_pool_to_the_end
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.registry import register
from tfdml.backbones.weights import PublishedFile, start_from

SMALLEST_SIDE = 32
PUBLISHED = PublishedFile("googlenet", "https://download.pytorch.org/models/googlenet-1378be20.pth")

# Widths of the branches: 1×1; 1×1 then 3×3; the same again; 1×1 after pooling.
BLOCKS = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}


@register("googlenet")
def googlenet(
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    batch_norm_momentum: float = 0.9,
    name: str = "googlenet",
) -> keras.Model:
    """Build GoogLeNet as in torchvision: Inception blocks of 2014 with batch normalization.

    Use it to compare with papers that use GoogLeNet, or as a backbone of half the size of BN-Inception.

    It consists of three convolutions and nine Inception blocks (3a to 5b) with four max poolings between them. As in
    torchvision's weights, convolutions have batch normalization (ε = 0.001) and no bias, and the third branch has a 3×3
    kernel instead of the paper's 5×5. Layers are named after torchvision's: `inception3a_branch2_1_conv` for
    `inception3a.branch2.1.conv`. It has 5,599,904 trainable parameters and 14,560 moving statistics.

    Args:
        input_shape: tuple (height, width, 3) of the images: at least 32 pixels per side, or `None` for any size.
        weights: `None` for random weights, `"imagenet"`, or a file that `tfdml.backbones.load_weights` reads: `.pth` of
            PyTorch, `.npz`, `.h5` or `.weights.h5`. Default `None`.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes with the moving statistics in training, too, and trains γ
            and β; `"all"` also freezes γ and β. `None` means `"statistics"` with weights, else `"none"`. Default
            `None`.
        batch_norm_momentum: float in [0, 1). Momentum of the moving statistics, if not frozen. Default 0.9.
        name: str. Name of the model. Default `"googlenet"`.

    Returns:
        Functional `keras.Model` from RGB images, float32 in 0–1, to a nonnegative feature map `(batch, h, w, 1024)`,
        7×7 at 224 pixels. The model itself scales images to [-1, 1], which equals torchvision's normalization followed
        by its `transform_input`.

    Raises:
        ValueError: If an argument is out of range, or the file has weights of another network.
        FileNotFoundError: If the weights are missing.

    Example:
        `backbone = googlenet((224, 224, 3), weights="imagenet")`

    Reference:
        Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich, Going deeper with convolutions,
        CVPR 2015, table 1.
    """
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, channels=(3,))
    normalizer = Normalizer(batch_norm_momentum, frozen_or_default(frozen_batch_norm, weights), epsilon=1e-3)
    unit = ConvolutionUnit(normalizer, use_bias=False)
    images = keras.Input(input_shape, name="images")
    convention = InputConvention(2.0, (1.0, 1.0, 1.0), name="convention")
    features = inception_stem(convention(images), unit, ("conv1", "maxpool1", "conv2", "conv3", "maxpool2"))
    for block_name, widths in BLOCKS.items():
        if block_name == "4a":
            features = max_pool_to_the_end(features, "maxpool3")
        elif block_name == "5a":
            # With "same", the last 2×2 window of stride 2 may extend beyond the end.
            features = max_pool(features, 2, 2, "maxpool4")
        features = _inception(features, widths, f"inception{block_name}", unit)
    model = keras.Model(images, features, name=name)
    start_from(model, weights, PUBLISHED)
    return model


def _inception(features, widths, name, unit):
    single, triple, second_triple, projection = widths
    branches = [unit(features, single, f"{name}_branch1")]
    for branch, (reduced, width) in (("branch2", triple), ("branch3", second_triple)):
        reduced_features = unit(features, reduced, f"{name}_{branch}_0")
        branches.append(unit(reduced_features, width, f"{name}_{branch}_1", size=3))
    pooled = max_pool(features, 3, 1, f"{name}_branch4_0")
    branches.append(unit(pooled, projection, f"{name}_branch4_1"))
    return keras.layers.Concatenate(name=f"{name}_output")(branches)
