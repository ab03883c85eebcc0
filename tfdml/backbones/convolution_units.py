"""Parts of networks with weights trained in other libraries: padding matches theirs exactly."""

import dataclasses

import keras

from tfdml.backbones.batch_normalization import Normalizer


@dataclasses.dataclass(frozen=True)
class ConvolutionUnit:
    """Convolution, batch normalization and ReLU.

    Attributes:
        normalizer: `Normalizer` that creates the batch normalization.
        use_bias: bool. Whether convolutions have a bias, which batch normalization makes redundant.
        suffix: str. Appended to a unit's name in the name of its convolution. Default `"_conv"`.
    """

    normalizer: Normalizer
    use_bias: bool
    suffix: str = "_conv"

    def __call__(self, features, width, name, size=1, stride=1, activate=True):
        """Add one unit.

        Args:
            features: Tensor `(batch, h, w, channels)`.
            width: int. Number of output channels.
            name: str. The layers are `name + suffix`, `name_bn` and `name_relu`.
            size: int. Side of the kernel, odd; features are padded with `size // 2` zeros. Default 1.
            stride: int. Stride of the convolution. Default 1.
            activate: bool. Add a ReLU. Default `True`.

        Returns:
            Tensor `(batch, ⌈h / stride⌉, ⌈w / stride⌉, width)`.
        """
        padding = "same"
        if stride > 1 and size > 1:
            # With a stride, TensorFlow's "same" would pad less before than after the features.
            border = keras.layers.ZeroPadding2D(size // 2, data_format="channels_last", name=f"{name}_pad")
            features = border(features)
            padding = "valid"
        features = keras.layers.Conv2D(
            width,
            size,
            strides=stride,
            padding=padding,
            use_bias=self.use_bias,
            kernel_initializer="he_normal",
            data_format="channels_last",
            name=f"{name}{self.suffix}",
        )(features)
        features = self.normalizer(features, f"{name}_bn")
        return keras.layers.ReLU(name=f"{name}_relu")(features) if activate else features


def inception_stem(features, unit, names):
    """Add the start of the Inception networks: 7×7 convolution, pooling, 1×1 and 3×3 convolution, pooling.

    Args:
        features: Tensor `(batch, h, w, channels)`.
        unit: `ConvolutionUnit`.
        names: Five names, in this order.

    Returns:
        Tensor `(batch, h', w', 192)` with an eighth of the height and width.
    """
    convolution, first_pool, reduction, expansion, second_pool = names
    features = unit(features, 64, convolution, size=7, stride=2)
    features = max_pool_to_the_end(features, first_pool)
    features = unit(features, 64, reduction)
    features = unit(features, 192, expansion, size=3)
    return max_pool_to_the_end(features, second_pool)


def max_pool_to_the_end(features, name):
    """Apply 3×3 max pooling with stride 2 and no border; the last window may extend beyond the end (⌊n / 2⌋ windows).

    This is PyTorch's "ceil mode" and Caffe's behavior.

    Args:
        features: Nonnegative tensor `(batch, h, w, channels)`.
        name: str. Name of the pooling layer.
    """
    # An even side is one short of the last window; zeros do not exceed nonnegative features.
    border = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), data_format="channels_last", name=f"{name}_pad")
    return keras.layers.MaxPooling2D(3, strides=2, data_format="channels_last", name=name)(border(features))


def average_pool_with_border(features, name):
    """Apply 3×3 average pooling with stride 1 that includes a border of zeros: every sum is divided by 9."""
    border = keras.layers.ZeroPadding2D(1, data_format="channels_last", name=f"{name}_pad")
    return keras.layers.AveragePooling2D(3, strides=1, data_format="channels_last", name=name)(border(features))


def max_pool(features, size, stride, name):
    """Apply max pooling with `padding="same"`.

    Args:
        features: Tensor `(batch, h, w, channels)`.
        size: int. Side of the window.
        stride: int. Stride of the windows.
        name: str. Name of the pooling layer.
    """
    pool = keras.layers.MaxPooling2D(size, strides=stride, padding="same", data_format="channels_last", name=name)
    return pool(features)
