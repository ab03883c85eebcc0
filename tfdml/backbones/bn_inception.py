"""BN-Inception: GoogLeNet with batch normalisation."""

from __future__ import annotations

import dataclasses

import keras

from tfdml._utils.types import FrozenBatchNorm, PathLike, Shape
from tfdml.backbones.batch_normalization import Normalizer
from tfdml.backbones.convolution_units import (
    ConvolutionUnit,
    average_pool_with_border,
    max_pool,
    max_pool_to_the_end,
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
    """Widths of an Inception block: each branch ends in its last number.

    Without `single` the block has stride 2 and its pooling has no convolution.
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
    frozen_batch_norm: FrozenBatchNorm = "none",
    batch_norm_momentum: float = 0.9,
    name: str = "bn_inception",
) -> keras.Model:
    """BN-Inception, the batch-normalised GoogLeNet that metric learning is mostly judged with.

    A 7×7 and a 3×3 convolution, each with max pooling, then ten Inception blocks (3a to 5b) that put side by side what
    a 1×1 convolution, a 3×3, two 3×3 and a pooling see; 3c and 4e halve height and width. It is the network of the
    published Caffe and PyTorch weights, layer by layer under their names (`inception_3a_double_3x3_1`, its batch
    normalisation `…_bn`): convolutions have a bias, pooling windows reach over the end, averages count the border, and
    4c, 4d and 4e have 608, 608 and 1,056 channels. 10,270,240 parameters train; 20,032 moving statistics come to
    them.

    Where a side is odd at 3c or 4e (at 240 pixels, say) the published network cannot put its branches together. Here
    the pooling windows are then centred like those of the convolutions; at all sides that the published network takes,
    such as 64, 224, 227 and 256, the two agree.

    Args:
        input_shape: `(height, width, 3)` of the images: at least 64 pixels a side or `None` (unknown).
        weights: `None` (random), `"imagenet"`, or a file: `.pth` of PyTorch, `.npz`, `.h5` or `.weights.h5`
            (`tfdml.backbones.load_weights`).
        frozen_batch_norm: `"none"`; `"statistics"`: training normalises by the moving statistics and leaves them as
            they are, γ and β train; `"all"`: γ and β are frozen, too.
        batch_norm_momentum: How much of the moving statistics stays at each step, if they are not frozen.
        name: The model's name.

    Returns:
        A functional `keras.Model` from images, RGB float32 in 0–1 (BGR in 0–255 less the mean (104, 117, 128) inside),
        to a feature map `(b, h', w', 1024)`, 7×7 at 224 and 227 pixels, 8×8 at 256; not negative.

    Raises:
        ValueError: If an argument is out of range, or the file is not of these weights.
        FileNotFoundError: If there are no such weights.

    Reference:
        Ioffe and Szegedy, Batch normalization: accelerating deep network training by reducing internal covariate
        shift, ICML 2015, section 4.2 and appendix.
    """
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, channels=(3,))
    unit = ConvolutionUnit(Normalizer(batch_norm_momentum, frozen_batch_norm), use_bias=True, suffix="")
    images = keras.Input(input_shape, name="images")
    convention = InputConvention(255.0, (104.0, 117.0, 128.0), reverse_channels=True, name="convention")
    features = unit(convention(images), 64, "conv1_7x7_s2", size=7, stride=2)
    features = max_pool_to_the_end(features, "pool1_3x3_s2")
    features = unit(features, 64, "conv2_3x3_reduce")
    features = unit(features, 192, "conv2_3x3", size=3)
    features = max_pool_to_the_end(features, "pool2_3x3_s2")
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
        # Of an even side "same" makes windows that reach over the end; of an odd one, those of the convolutions.
        branches.append(max_pool(features, 3, 2, f"{name}_pool"))
    else:
        branches.append(unit(_pool(features, block.pool, f"{name}_pool"), block.projection, f"{name}_pool_proj"))
    return keras.layers.Concatenate(name=f"{name}_output")(branches)


def _pool(features, kind, name):
    if kind == "average":
        return average_pool_with_border(features, name)
    return max_pool(features, 3, 1, name)
