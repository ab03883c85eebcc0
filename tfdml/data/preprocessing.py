"""From a decoded or encoded image to what an embedder takes."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, InputRange, TensorLike
from tfdml.data.image_files import decode_whole
from tfdml.ops import MAX_PIXELS, UNIT_RANGE, check_input_range, to_input_range

# The weights of ITU-R BT.601 for luma, as in tf.image.rgb_to_grayscale.
_LUMA = (0.2989, 0.5870, 0.1140)


class Preprocessing:
    """Brings any image to float32 in 0–1 of one size and number of channels.

    uint8 is divided by 255, floats are taken as they are; transparency is laid over black; colour becomes
    luma or grey is repeated where the number of channels asks for it; the size is changed with bilinear,
    anti-aliased interpolation. Everything is a TensorFlow op, so it can be part of an exported model.

    Args:
        size: `(height, width)` of the result in pixels.
        channels: 1 (grey) or 3 (colour).
        short_side: `None` stretches the image to `size`. A number of pixels scales the image's shorter
            side to it, keeping the aspect, and cuts out the centre of `size` (the protocol of CUB, Cars and
            SOP: 256, then 227).
        input_range: `(low, high)`, the values of black and white in the result, for a network that does not take 0–1;
            or a mode of `keras.applications`, `"caffe"`, `"tf"` or `"torch"`. Embedders of `build_embedder` take 0–1,
            the default, whatever their backbone expects.

    Raises:
        ValueError: If the size, the number of channels or the range is impossible.

    Example:
        >>> image = tf.fill((20, 10, 3), tf.constant(255, tf.uint8))
        >>> Preprocessing(size=(4, 6), channels=1)(image).shape
        TensorShape([4, 6, 1])
    """

    def __init__(
        self, size: tuple[int, int], channels: int, short_side: int | None = None, input_range: InputRange = (0, 1)
    ) -> None:
        if isinstance(size, int) or len(size) != 2:
            raise ValueError(f"size must be (height, width). Received: size={size!r}.")
        height, width = (check_whole_number("size", side, minimum=1) for side in size)
        self.size = (height, width)
        if channels not in (1, 3):
            raise ValueError(f"Received: channels={channels!r}; expected 1 (grey) or 3 (colour).")
        self.channels = int(channels)
        self.short_side = (
            None if short_side is None else check_whole_number("short_side", short_side, minimum=1)
        )
        if self.short_side is not None and self.short_side < max(self.size):
            raise ValueError(
                f"Received: short_side={short_side}; expected at least the larger side of size={self.size}."
            )
        self.input_range = check_input_range(input_range)
        if isinstance(self.input_range, str) and self.channels != 3:
            raise ValueError(
                f"The input range {input_range!r} is for color images. Received: channels={self.channels}. Expected: 3."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)` of the result."""
        return (*self.size, self.channels)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, images: TensorLike) -> tf.Tensor:
        """Preprocesses decoded images.

        Args:
            images: `(h, w, c)` or a batch `(b, h, w, c)` of equal size; uint8 in 0–255, uint16 in 0–65535 or floats in
                0–1; c is 1 (grey), 2 (grey and alpha), 3 (colour) or 4 (colour and alpha), and may be unknown until
                run time.

        Returns:
            float32 `(height, width, channels)`, or `(b, height, width, channels)`, in `input_range`.

        Raises:
            ValueError: If the images have other channels, no pixels, or integers of another type, whose range is
                unknown; `tf.errors.InvalidArgumentError` where the shape is known only when a graph runs.
        """
        images = tf.convert_to_tensor(images)
        rank = images.shape.rank
        if rank not in (3, 4):
            raise ValueError(f"Images must be (h, w, c) or (b, h, w, c). Received: shape {images.shape}.")
        images = self._from_channels(_checked(images))
        images.set_shape([*images.shape[: rank - 3], *self.image_shape])
        return self.to_input_range(images)

    def to_input_range(self, images: TensorLike) -> tf.Tensor:
        """Brings images from 0–1 to `input_range`."""
        return images if self.input_range == UNIT_RANGE else to_input_range(images, self.input_range)

    def with_input_range(self, input_range: InputRange | None) -> Preprocessing:
        """The same preprocessing with another input range; `None` keeps it."""
        if input_range is None:
            return self
        return type(self)(self.size, self.channels, self.short_side, input_range)

    def from_encoded(self, contents: TensorLike, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
        """Decodes and preprocesses one image file, given as a scalar string of its bytes."""
        return self(self.decode(contents, max_pixels))

    def decode(self, contents: TensorLike, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
        """Decodes one PNG, JPEG, GIF or BMP file to uint8 `(h, w, c)` with the channels of the file, and upright.

        See `tfdml.ops.decode_image`, which says what is refused.
        """
        return decode_whole(contents, max_pixels)

    def config(self) -> Config:
        """The arguments from which `from_config` makes the same preprocessing."""
        input_range = self.input_range if isinstance(self.input_range, str) else list(self.input_range)
        return {
            "size": list(self.size),
            "channels": self.channels,
            "short_side": self.short_side,
            "input_range": input_range,
        }

    @classmethod
    def from_config(cls, config: Config) -> Preprocessing:
        """Makes a preprocessing from what `config` gave."""
        return cls(**config)

    def __eq__(self, other):
        return isinstance(other, Preprocessing) and self.config() == other.config()

    def __hash__(self):
        return hash((self.size, self.channels, self.short_side, self.input_range))

    def __repr__(self):
        input_range = "" if self.input_range == UNIT_RANGE else f", input_range={self.input_range!r}"
        return f"Preprocessing(size={self.size}, channels={self.channels}, short_side={self.short_side}{input_range})"

    def _from_channels(self, images):
        if images.shape[-1] is not None:
            return self._from_known_channels(images, images.shape[-1])

        def known(count):
            return lambda: self._from_known_channels(images[..., :count], count)

        # Files of one set may differ in their channels, which only decoding tells.
        return tf.switch_case(tf.shape(images)[-1] - 1, [known(1), known(2), known(3), known(4)])

    def _from_known_channels(self, images, count):
        if count not in (1, 2, 3, 4):
            raise ValueError(f"Images must have 1 to 4 channels. Received: shape {images.shape}.")
        # Bytes stay bytes until they are fewer, and are divided once.
        largest = float(images.dtype.max) if images.dtype.is_integer else 1.0
        images = images if images.dtype == tf.uint8 else tf.cast(images, tf.float32)
        if count in (2, 4):
            images = tf.cast(images, tf.float32)
            images, count = images[..., :-1] * (images[..., -1:] / largest), count - 1
        if count > self.channels:
            images = tf.tensordot(tf.cast(images, tf.float32), tf.constant(_LUMA), 1)[..., tf.newaxis]
        images = self._to_size(images, largest)
        return tf.repeat(images, 3, axis=-1) if count < self.channels else images

    def _to_size(self, images, largest):
        if self.short_side is None and tuple(images.shape[-3:-1]) == self.size:
            return tf.cast(images, tf.float32) / largest
        scaled = tf.shape(images)[-3:-1]
        if self.short_side is None:
            scaled = self.size
        else:
            # Rational arithmetic in integers: the short side comes out exactly.
            shortest = tf.reduce_min(scaled)
            scaled = (scaled * self.short_side + shortest // 2) // shortest
        resized = _resize(images, scaled, self.size) / largest
        # Anti-aliasing can overshoot the range by a rounding error; no weight is negative.
        return tf.minimum(resized, 1.0) if largest > 1.0 else tf.clip_by_value(resized, 0.0, 1.0)


def _checked(images):
    """The images, if they have a known range of numbers, pixels, and 1 to 4 channels."""
    if images.dtype.is_integer and images.dtype not in (tf.uint8, tf.uint16):
        raise ValueError(
            f"The range of these integers is unknown. Received: images of type {images.dtype.name}. Expected: uint8, "
            "uint16, or float in 0–1. Pass images.astype('uint8') if they are in 0–255."
        )
    expected = "Expected: (…, height, width, channels) with at least one pixel and 1 to 4 channels."
    static = images.shape[-3:]
    if static.is_fully_defined():
        height, width, channels = static
        if not (height and width and 1 <= channels <= 4):
            raise ValueError(f"These are not images. Received: shape {images.shape}. {expected}")
        return images
    shape = tf.shape(images)
    is_image = (shape[-3] > 0) & (shape[-2] > 0) & (shape[-1] >= 1) & (shape[-1] <= 4)
    check = tf.debugging.Assert(is_image, ["These are not images. Received: shape", shape, expected])
    with tf.control_dependencies([check]):
        return tf.identity(images)


def _resize(images, scaled, size):
    """The centre, `size`, of images `(…, h, w, c)` resized to `scaled`: bilinear and anti-aliased.

    The pixels are those of `tf.image.resize(images, scaled, antialias=True)`, whose kernel goes through the channels of
    each pixel by themselves when it works along a row. Here a row, and then a column, is one pixel of many channels,
    which it weighs as a vector: with the two transpositions that takes a third of the time.
    """
    shape = tf.shape(images)
    leading, (height, width, channels) = shape[:-3], tf.unstack(shape[-3:])
    count = tf.reduce_prod(leading)
    images = _along_first(tf.reshape(images, [count, height, 1, width * channels]), scaled[0], size[0])
    images = tf.transpose(tf.reshape(images, [count, size[0], width, channels]), [0, 2, 1, 3])
    images = _along_first(tf.reshape(images, [count, width, 1, size[0] * channels]), scaled[1], size[1])
    images = tf.transpose(tf.reshape(images, [count, size[1], size[0], channels]), [0, 2, 1, 3])
    return tf.reshape(images, tf.concat([leading, [*size, channels]], axis=0))


def _along_first(images, scaled, size):
    """From `(b, n, 1, c)` to the central `size` of `scaled` along its first axis."""
    scale = tf.cast(scaled, tf.float32) / tf.cast(tf.shape(images)[1], tf.float32)
    start = tf.cast((scaled - size) // 2, tf.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=images, size=[size, 1], scale=[scale, 1.0], translation=[-start, 0.0], kernel_type="triangle"
    )
