"""Parts of networks whose weights were trained with other libraries: borders lie exactly as they do there."""

import dataclasses

import keras

from tfdml.backbones.batch_normalization import Normalizer


@dataclasses.dataclass(frozen=True)
class ConvolutionUnit:
    """Convolution, batch normalisation, ReLU.

    Attributes:
        normalizer: Makes the batch normalisation.
        use_bias: Whether the convolutions have a bias, which batch normalisation makes idle.
        suffix: What follows a unit's name in that of its convolution.
    """

    normalizer: Normalizer
    use_bias: bool
    suffix: str = "_conv"

    def __call__(self, features, width, name, size=1, stride=1, activate=True):
        """Adds one unit.

        Args:
            features: `(b, h, w, channels)`.
            width: Number of channels of the output.
            name: Its layers are `name + suffix`, `name_bn` and `name_relu`.
            size: Side of the kernel, odd; `size // 2` zeros stand around the features.
            stride: Of the convolution.
            activate: Whether a ReLU follows.

        Returns:
            Features `(b, ⌈h / stride⌉, ⌈w / stride⌉, width)`.
        """
        padding = "same"
        if stride > 1 and size > 1:
            # With a stride, "same" of TensorFlow would put less before than after.
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


def max_pool_to_the_end(features, name):
    """Max pooling 3×3 with stride 2 and no border, the last window reaching over the end: ⌊n / 2⌋ windows.

    That is "ceil mode" of PyTorch and what Caffe does.

    Args:
        features: `(b, h, w, channels)`, not negative.
        name: The pooling layer's name.
    """
    # An even side is one short of the last window; zeros are no larger than any feature.
    border = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), data_format="channels_last", name=f"{name}_pad")
    return keras.layers.MaxPooling2D(3, strides=2, data_format="channels_last", name=name)(border(features))


def average_pool_with_border(features, name):
    """Average pooling 3×3 with stride 1 that counts a border of zeros: every sum is divided by 9."""
    border = keras.layers.ZeroPadding2D(1, data_format="channels_last", name=f"{name}_pad")
    return keras.layers.AveragePooling2D(3, strides=1, data_format="channels_last", name=name)(border(features))


def max_pool(features, size, stride, name):
    """Max pooling with the borders of `padding="same"`.

    Args:
        features: `(b, h, w, channels)`.
        size: Side of the window.
        stride: Distance of the windows.
        name: The pooling layer's name.
    """
    pool = keras.layers.MaxPooling2D(size, strides=stride, padding="same", data_format="channels_last", name=name)
    return pool(features)
