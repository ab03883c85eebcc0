"""Preprocess decoded or encoded images for an embedder."""

from __future__ import annotations

import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import Config, InputRange, TensorLike
from tfdml.data.image_files import decode_whole
from tfdml.ops import MAX_PIXELS, UNIT_RANGE, check_input_range, to_input_range

# The weights of ITU-R BT.601 for luma, as in tf.image.rgb_to_grayscale.
_LUMA = (0.2989, 0.5870, 0.1140)


class Preprocessing:
    """Converts any image to float32 of a fixed size, number of channels and range.

    Pass it to `balanced_batches` and `evaluation_batches`, and to `export_saved_model`: it consists of TensorFlow ops,
    so an exported model preprocesses exactly as in training. uint8 is divided by 255; floats are used unchanged;
    transparent pixels are blended with black; color is converted to luma, or gray repeated, to match `channels`;
    resizing is bilinear with anti-aliasing.

    Args:
        size: tuple (height, width) of the result, pixels.
        channels: 1 (gray) or 3 (color).
        short_side: int, pixels. Scale the image so that its shorter side has this length, keep the aspect ratio, and
            crop the center of `size` (256, then 227 in the protocol of CUB, Cars and SOP). `None` stretches the image
            to `size`. Default `None`.
        input_range: tuple (low, high), the values of black and white in the result, or a mode of `keras.applications`
            (`"caffe"`, `"tf"`, `"torch"`). Use it for networks that do not expect 0–1; embedders made by
            `build_embedder` expect 0–1 regardless of their backbone. Default (0, 1).

    Raises:
        ValueError: If the size, the number of channels or the range is invalid.

    Example:
        >>> image = tf.fill((20, 10, 3), tf.constant(255, tf.uint8))
        >>> Preprocessing(size=(4, 6), channels=1)(image).shape
        TensorShape([4, 6, 1])
    """

    def __init__(
        self, size: tuple[int, int], channels: int, short_side: int | None = None, input_range: InputRange = (0, 1)
    ) -> None:
        if isinstance(size, int) or len(size) != 2:
            raise ValueError(f"Invalid size. Received: size={size!r}. Expected: (height, width).")
        height, width = (check_whole_number("size", side, minimum=1) for side in size)
        self.size = (height, width)
        if channels not in (1, 3):
            raise ValueError(f"Invalid channels. Received: channels={channels!r}. Expected: 1 (gray) or 3 (color).")
        self.channels = int(channels)
        self.short_side = (
            None if short_side is None else check_whole_number("short_side", short_side, minimum=1)
        )
        if self.short_side is not None and self.short_side < max(self.size):
            raise ValueError(
                f"short_side is too small. Received: short_side={short_side}. Expected: at least the larger side of "
                f"size={self.size}."
            )
        self.input_range = check_input_range(input_range)
        if isinstance(self.input_range, str) and self.channels != 3:
            raise ValueError(
                f"The input range {input_range!r} is for color images. Received: channels={self.channels}. Expected: 3."
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (height, width, channels) of the result."""
        return (*self.size, self.channels)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, images: TensorLike) -> tf.Tensor:
        """Preprocess decoded images.

        Args:
            images: Image `(h, w, c)` or batch `(batch, h, w, c)`; uint8 in 0–255, uint16 in 0–65535 or floats in 0–1. c
                is 1 (gray), 2 (gray and alpha), 3 (color) or 4 (color and alpha), and may be unknown until run time.

        Returns:
            float32 tensor `(height, width, channels)` or `(batch, height, width, channels)` in `input_range`.

        Raises:
            ValueError: If images have no pixels, another number of channels, or another integer type, whose range is
                unknown. `tf.errors.InvalidArgumentError` if the shape is known only at run time.
        """
        images = tf.convert_to_tensor(images)
        rank = images.shape.rank
        if rank not in (3, 4):
            raise ValueError(
                f"Images have the wrong rank. Received: shape {images.shape}. Expected: (h, w, c) or (batch, h, w, c)."
            )
        images = self._from_channels(_checked(images))
        images.set_shape([*images.shape[: rank - 3], *self.image_shape])
        return self.to_input_range(images)

    def to_input_range(self, images: TensorLike) -> tf.Tensor:
        """Scale images from 0–1 to `input_range`.

        Args:
            images: float tensor in 0–1, `(…, channels)`.
        """
        return images if self.input_range == UNIT_RANGE else to_input_range(images, self.input_range)

    def with_input_range(self, input_range: InputRange | None) -> Preprocessing:
        """Return the same preprocessing with another input range.

        Args:
            input_range: As for `Preprocessing`. `None` returns this object.
        """
        if input_range is None:
            return self
        return type(self)(self.size, self.channels, self.short_side, input_range)

    def from_encoded(self, contents: TensorLike, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
        """Decode and preprocess one image file.

        Args:
            contents: Scalar string tensor with the bytes of the file.
            max_pixels: int. Largest height · width.

        Returns:
            float32 tensor `(height, width, channels)` in `input_range`.
        """
        return self(self.decode(contents, max_pixels))

    def decode(self, contents: TensorLike, max_pixels: int = MAX_PIXELS) -> tf.Tensor:
        """Decode one PNG, JPEG, GIF or BMP file, turned upright, as `tfdml.ops.decode_image` does.

        Args:
            contents: Scalar string tensor with the bytes of the file.
            max_pixels: int. Largest height · width.

        Returns:
            uint8 tensor `(h, w, c)` with the channels of the file.
        """
        return decode_whole(contents, max_pixels)

    def config(self) -> Config:
        """Return the arguments as a dict, for `from_config`."""
        input_range = self.input_range if isinstance(self.input_range, str) else list(self.input_range)
        return {
            "size": list(self.size),
            "channels": self.channels,
            "short_side": self.short_side,
            "input_range": input_range,
        }

    @classmethod
    def from_config(cls, config: Config) -> Preprocessing:
        """Create a preprocessing from the dict returned by `config`."""
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

        # Files of one dataset may have different channels, known only after decoding.
        return tf.switch_case(tf.shape(images)[-1] - 1, [known(1), known(2), known(3), known(4)])

    def _from_known_channels(self, images, count):
        if count not in (1, 2, 3, 4):
            raise ValueError(f"Wrong number of channels. Received: shape {images.shape}. Expected: 1 to 4 channels.")
        # Keep bytes until the image is resized, so that fewer values are divided.
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
            # Integer arithmetic gives the short side exactly.
            shortest = tf.reduce_min(scaled)
            scaled = (scaled * self.short_side + shortest // 2) // shortest
        resized = _resize(images, scaled, self.size) / largest
        # Anti-aliasing can overshoot the range by a rounding error; no weight is negative.
        return tf.minimum(resized, 1.0) if largest > 1.0 else tf.clip_by_value(resized, 0.0, 1.0)


def _checked(images):
    """Return the images after checking that they have a known range, pixels, and 1 to 4 channels."""
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
    """Resize images `(…, h, w, c)` to `scaled`, bilinear and anti-aliased, and return the center of `size`.

    The result equals that of `tf.image.resize(images, scaled, antialias=True)`, but takes a third of the time: its
    kernel is slow along rows of few channels, so here rows, and after a transposition columns, are treated as single
    pixels of many channels, which the kernel processes as vectors.
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
    """Resize `(b, n, 1, c)` along n to `scaled`, and return the central `size`."""
    scale = tf.cast(scaled, tf.float32) / tf.cast(tf.shape(images)[1], tf.float32)
    start = tf.cast((scaled - size) // 2, tf.float32)
    return tf.raw_ops.ScaleAndTranslate(
        images=images, size=[size, 1], scale=[scale, 1.0], translation=[-start, 0.0], kernel_type="triangle"
    )
