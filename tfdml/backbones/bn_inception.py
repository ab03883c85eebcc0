"""BN-Inception: GoogLeNet with batch normalization."""

from __future__ import annotations

import dataclasses

import keras

from tfdml._utils.types import FrozenBatchNorm, PathLike, Shape
from tfdml.backbones.batch_normalization import Normalizer, frozen_or_default
from tfdml.backbones.convolution_units import (
    ConvolutionUnit,
    average_pool_with_border,
    inception_stem,
    max_pool,
)
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.registry import register
from tfdml.backbones.weights import PublishedFile, start_from

SMALLEST_SIDE = 64
PUBLISHED = PublishedFile(
    "bn_inception",
    "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth",
)


@dataclasses.dataclass(frozen=True)
class _Block:
    """Widths of the convolutions in the branches of an Inception block.

    If `single` is `None`, the block has stride 2 and its pooling branch has no convolution.
    """

    single: int | None
    triple: tuple
    double: tuple
    pool: str = "average"
    projection: int | None = None


BLOCKS = {
    "3a": _Block(64, (64, 64), (64, 96, 96), "average", 32),
    "3b": _Block(64, (64, 96), (64, 96, 96), "average", 64),
    "3c": _Block(None, (128, 160), (64, 96, 96)),
    "4a": _Block(224, (64, 96), (96, 128, 128), "average", 128),
    "4b": _Block(192, (96, 128), (96, 128, 128), "average", 128),
    "4c": _Block(160, (128, 160), (128, 160, 160), "average", 128),
    "4d": _Block(96, (128, 192), (160, 192, 192), "average", 128),
    "4e": _Block(None, (128, 192), (192, 256, 256)),
    "5a": _Block(352, (192, 320), (160, 224, 224), "average", 128),
    "5b": _Block(352, (192, 320), (192, 224, 224), "max", 128),
}


@register("bn_inception")
def bn_inception(
    input_shape: Shape,
    weights: PathLike | None = None,
    frozen_batch_norm: FrozenBatchNorm | None = None,
    batch_norm_momentum: float = 0.9,
    name: str = "bn_inception",
) -> keras.Model:
    """Build BN-Inception, the batch-normalized GoogLeNet used by many papers on metric learning.

    Use it to compare with published results; pass `weights="imagenet"` and, as is common, `frozen_batch_norm="all"`.

    It consists of a 7×7 and a 3×3 convolution, each with max pooling, and ten Inception blocks (3a to 5b). A block
    concatenates a 1×1 convolution, a 3×3 convolution, two 3×3 convolutions and a pooling; 3c and 4e halve height and
    width. Layers and names are those of the published Caffe and PyTorch weights (`inception_3a_double_3x3_1`, its batch
    normalization `…_bn`): convolutions have a bias, pooling windows may extend beyond the end, averages include the
    border, and 4c, 4d and 4e have 608, 608 and 1,056 channels. It has 10,270,240 trainable parameters and 20,032 moving
    statistics.

    If a side is odd at 3c or 4e (for example, at 240 pixels), the published network cannot concatenate its branches;
    this one then centers the pooling windows like those of the convolutions. At all sizes that the published network
    accepts, such as 64, 224, 227 and 256, both agree.

    Args:
        input_shape: tuple (height, width, 3) of the images: at least 64 pixels per side, or `None` for any size.
        weights: `None` for random weights, `"imagenet"`, or a file that `tfdml.backbones.load_weights` reads: `.pth` of
            PyTorch, `.npz`, `.h5` or `.weights.h5`. Default `None`.
        frozen_batch_norm: `"none"`; `"statistics"` normalizes with the moving statistics in training, too, and trains γ
            and β; `"all"` also freezes γ and β. `None` means `"statistics"` with weights, else `"none"`. Default
            `None`.
        batch_norm_momentum: float in [0, 1). Momentum of the moving statistics, if not frozen. Default 0.9.
        name: str. Name of the model. Default `"bn_inception"`.

    Returns:
        Functional `keras.Model` from RGB images, float32 in 0–1, to a nonnegative feature map `(batch, h, w, 1024)`:
        7×7 at 224 and 227 pixels, 8×8 at 256. The model itself converts images to BGR in 0–255 minus the mean (104,
        117, 128).

    Raises:
        ValueError: If an argument is out of range, or the file has weights of another network.
        FileNotFoundError: If the weights are missing.

    Example:
        `backbone = bn_inception((224, 224, 3), weights="imagenet", frozen_batch_norm="all")`

    Reference:
        Ioffe and Szegedy, Batch normalization: accelerating deep network training by reducing internal covariate
        shift, ICML 2015, section 4.2 and appendix.
    """
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, channels=(3,))
    normalizer = Normalizer(batch_norm_momentum, frozen_or_default(frozen_batch_norm, weights))
    unit = ConvolutionUnit(normalizer, use_bias=True, suffix="")
    images = keras.Input(input_shape, name="images")
    convention = InputConvention(255.0, (104.0, 117.0, 128.0), reverse_channels=True, name="convention")
    names = ("conv1_7x7_s2", "pool1_3x3_s2", "conv2_3x3_reduce", "conv2_3x3", "pool2_3x3_s2")
    features = inception_stem(convention(images), unit, names)
    for block_name, block in BLOCKS.items():
        features = _inception(features, block, f"inception_{block_name}", unit)
    model = keras.Model(images, features, name=name)
    start_from(model, weights, PUBLISHED)
    return model


def _inception(features, block, name, unit):
    stride = 1 if block.single else 2
    branches = [unit(features, block.single, f"{name}_1x1")] if block.single else []
    branch = unit(features, block.triple[0], f"{name}_3x3_reduce")
    branches.append(unit(branch, block.triple[1], f"{name}_3x3", size=3, stride=stride))
    branch = unit(features, block.double[0], f"{name}_double_3x3_reduce")
    branch = unit(branch, block.double[1], f"{name}_double_3x3_1", size=3)
    branches.append(unit(branch, block.double[2], f"{name}_double_3x3_2", size=3, stride=stride))
    if stride == 2:
        # With "same", windows extend beyond the end for even sides, and match those of the convolutions for odd ones.
        branches.append(max_pool(features, 3, 2, f"{name}_pool"))
    else:
        branches.append(unit(_pool(features, block.pool, f"{name}_pool"), block.projection, f"{name}_pool_proj"))
    return keras.layers.Concatenate(name=f"{name}_output")(branches)


def _pool(features, kind, name):
    if kind == "average":
        return average_pool_with_border(features, name)
    return max_pool(features, 3, 1, name)
