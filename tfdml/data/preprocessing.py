"""From a decoded or encoded picture to what an embedder takes."""

from __future__ import annotations

import tensorflow as tf

from tfdml.arguments import check_whole_number

# The weights of ITU-R BT.601 for luma, as in tf.image.rgb_to_grayscale.
_LUMA = (0.2989, 0.5870, 0.1140)


class Preprocessing:
    """Brings any picture to float32 in 0–1 of one size and number of channels.

    uint8 is divided by 255, floats are taken as they are; transparency is laid over black; colour becomes
    luma or grey is repeated where the number of channels asks for it; the size is changed with bilinear,
    anti-aliased interpolation. Everything is a TensorFlow op, so it can be part of an exported model.

    Args:
        size: `(height, width)` of the result in pixels.
        channels: 1 (grey) or 3 (colour).
        short_side: `None` stretches the picture to `size`. A number of pixels scales the picture's shorter
            side to it, keeping the aspect, and cuts out the centre of `size` (the protocol of CUB, Cars and
            SOP: 256, then 227).

    Raises:
        ValueError: If the size or the number of channels is impossible.

    Example:
        >>> picture = tf.fill((20, 10, 3), tf.constant(255, tf.uint8))
        >>> Preprocessing(size=(4, 6), channels=1)(picture).shape
        TensorShape([4, 6, 1])
    """

    def __init__(self, size, channels, short_side=None):
        if isinstance(size, int) or len(size) != 2:
            raise ValueError(f"size must be (height, width). Received: size={size!r}.")
        self.size = tuple(check_whole_number("size", side, minimum=1) for side in size)
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

    @property
    def image_shape(self):
        """`(height, width, channels)` of the result."""
        return (*self.size, self.channels)

    def __call__(self, images):
        """Preprocesses decoded pictures.

        Args:
            images: `(h, w, c)` or a batch `(b, h, w, c)` of equal size; uint8 in 0–255 or floats in 0–1; c is
                1 (grey), 2 (grey and alpha), 3 (colour) or 4 (colour and alpha), and may be unknown until run
                time.

        Returns:
            float32 `(height, width, channels)`, or `(b, height, width, channels)`.
        """
        images = tf.convert_to_tensor(images)
        rank = images.shape.rank
        if rank not in (3, 4):
            raise ValueError(f"Pictures must be (h, w, c) or (b, h, w, c). Received: shape {images.shape}.")
        if images.dtype.is_integer:
            images = tf.cast(images, tf.float32) / float(images.dtype.max)
        images = self._resize(self._to_channels(tf.cast(images, tf.float32)))
        images.set_shape([*images.shape[: rank - 3], *self.image_shape])
        return images

    def from_encoded(self, contents):
        """Decodes and preprocesses one PNG or JPEG file, given as a scalar string of its bytes."""
        return self(self.decode(contents))

    def decode(self, contents):
        """Decodes one PNG or JPEG file to uint8 `(h, w, c)` with the channels of the file."""
        image = tf.io.decode_image(contents, expand_animations=False)
        image.set_shape([None, None, None])
        return image

    def config(self):
        """The arguments from which `from_config` makes the same preprocessing."""
        return {"size": list(self.size), "channels": self.channels, "short_side": self.short_side}

    @classmethod
    def from_config(cls, config):
        """Makes a preprocessing from what `config` gave."""
        return cls(**config)

    def __eq__(self, other):
        return isinstance(other, Preprocessing) and self.config() == other.config()

    def __hash__(self):
        return hash((self.size, self.channels, self.short_side))

    def __repr__(self):
        return f"Preprocessing(size={self.size}, channels={self.channels}, short_side={self.short_side})"

    def _to_channels(self, images):
        if images.shape[-1] is not None:
            return self._from_known_channels(images, images.shape[-1])

        def known(count):
            return lambda: self._from_known_channels(images[..., :count], count)

        # Files of one set may differ in their channels, which only decoding tells.
        return tf.switch_case(tf.shape(images)[-1] - 1, [known(1), known(2), known(3), known(4)])

    def _from_known_channels(self, images, count):
        if count not in (1, 2, 3, 4):
            raise ValueError(f"Pictures must have 1 to 4 channels. Received: shape {images.shape}.")
        if count in (2, 4):
            images = images[..., :-1] * images[..., -1:]
            count -= 1
        if count == self.channels:
            return images
        if count == 1:
            return tf.repeat(images, 3, axis=-1)
        return tf.tensordot(images, tf.constant(_LUMA), 1)[..., tf.newaxis]

    def _resize(self, images):
        if self.short_side is None:
            if tuple(images.shape[-3:-1]) == self.size:
                return images
            # Anti-aliasing can overshoot the range by a rounding error.
            return tf.clip_by_value(tf.image.resize(images, self.size, antialias=True), 0.0, 1.0)
        spatial = tf.shape(images)[-3:-1]
        # Rational arithmetic in integers: the short side comes out exactly.
        shortest = tf.reduce_min(spatial)
        scaled = (spatial * self.short_side + shortest // 2) // shortest
        images = tf.clip_by_value(tf.image.resize(images, scaled, antialias=True), 0.0, 1.0)
        top, left = (scaled[0] - self.size[0]) // 2, (scaled[1] - self.size[1]) // 2
        return images[..., top : top + self.size[0], left : left + self.size[1], :]
