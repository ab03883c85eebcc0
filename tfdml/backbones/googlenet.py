"""GoogLeNet: the first Inception network."""

from __future__ import annotations

import keras

from tfdml._utils.types import FrozenBatchNorm, PathLike, Shape
from tfdml.backbones.batch_normalization import Normalizer
from tfdml.backbones.convolution_units import ConvolutionUnit, max_pool, max_pool_to_the_end
from tfdml.backbones.input_convention import InputConvention
from tfdml.backbones.input_shapes import check_input_shape
from tfdml.backbones.registry import register
from tfdml.backbones.weights import PublishedFile, start_from

SMALLEST_SIDE = 32
PUBLISHED = PublishedFile("googlenet", "https://download.pytorch.org/models/googlenet-1378be20.pth")

# Widths of the branches: 1×1; 3×3 and before it 1×1; the same again; 1×1 after pooling.
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
    frozen_batch_norm: FrozenBatchNorm = "none",
    batch_norm_momentum: float = 0.9,
    name: str = "googlenet",
) -> keras.Model:
    """GoogLeNet as torchvision has it: Inception blocks of 2014 with batch normalisation.

    Three convolutions and nine Inception blocks (3a to 5b), four max poolings between them. As in the weights that
    torchvision publishes, convolutions have no bias but batch normalisation (ε = 0.001), and the third branch has a
    3×3 kernel where the paper has 5×5. Layers are named after torchvision's, `inception3a_branch2_1_conv` for
    `inception3a.branch2.1.conv`. 5,599,904 parameters train; 14,560 moving statistics come to them.

    Args:
        input_shape: `(height, width, 3)` of the images: at least 32 pixels a side or `None` (unknown).
        weights: `None` (random), `"imagenet"`, or a file: `.pth` of PyTorch, `.npz`, `.h5` or `.weights.h5`
            (`tfdml.backbones.load_weights`).
        frozen_batch_norm: `"none"`; `"statistics"`: training normalises by the moving statistics and leaves them as
            they are, γ and β train; `"all"`: γ and β are frozen, too.
        batch_norm_momentum: How much of the moving statistics stays at each step, if they are not frozen.
        name: The model's name.

    Returns:
        A functional `keras.Model` from images, RGB float32 in 0–1 (brought to [-1, 1] inside, which is what
        torchvision's normalisation and its `transform_input` amount to), to a feature map `(b, h', w', 1024)`, 7×7 at
        224 pixels; not negative.

    Raises:
        ValueError: If an argument is out of range, or the file is not of these weights.
        FileNotFoundError: If there are no such weights.

    Reference:
        Szegedy, Liu, Jia, Sermanet, Reed, Anguelov, Erhan, Vanhoucke and Rabinovich, Going deeper with convolutions,
        CVPR 2015, table 1.
    """
    input_shape = check_input_shape(input_shape, SMALLEST_SIDE, channels=(3,))
    unit = ConvolutionUnit(Normalizer(batch_norm_momentum, frozen_batch_norm, epsilon=1e-3), use_bias=False)
    images = keras.Input(input_shape, name="images")
    features = InputConvention(2.0, (1.0, 1.0, 1.0), name="convention")(images)
    features = unit(features, 64, "conv1", size=7, stride=2)
    features = max_pool_to_the_end(features, "maxpool1")
    features = unit(features, 64, "conv2")
    features = unit(features, 192, "conv3", size=3)
    features = max_pool_to_the_end(features, "maxpool2")
    for block_name, widths in BLOCKS.items():
        if block_name == "4a":
            features = max_pool_to_the_end(features, "maxpool3")
        elif block_name == "5a":
            # Of 2×2 windows with stride 2, "same" lets the last reach over the end.
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
