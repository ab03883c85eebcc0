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
            features = keras.layers.ZeroPadding2D(size // 2, name=f"{name}_pad")(features)
            padding = "valid"
        features = keras.layers.Conv2D(
            width,
            size,
            strides=stride,
            padding=padding,
            use_bias=self.use_bias,
            kernel_initializer="he_normal",
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
    padded = keras.layers.ZeroPadding2D(((0, 1), (0, 1)), name=f"{name}_pad")(features)
    return keras.layers.MaxPooling2D(3, strides=2, name=name)(padded)


def average_pool_with_border(features, name):
    """Average pooling 3×3 with stride 1 that counts a border of zeros: every sum is divided by 9."""
    padded = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(features)
    return keras.layers.AveragePooling2D(3, strides=1, name=name)(padded)
