"""Random changes of training images that leave their class what it is."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_at_most
from tfdml._utils.types import Config, TensorLike


class Augmentation:
    """Random rotation, scale, shear, translation, crop and flip, drawn from a seed alone.

    All changes of a batch are one projective transform with bilinear interpolation. A random resized crop
    comes first, then a flip, then the affine change about the centre. Where the change uncovers something, it
    is black.

    Args:
        rotation: Largest rotation in degrees, either way.
        scale: Largest relative change of size, either way.
        shear: Largest horizontal shear (horizontal shift for each unit of height), either way.
        translation: Largest shift along each axis on the image's side as unit, either way.
        horizontal_flip: Whether every other image, at random, is mirrored.
        crop_area: `None`, or `(smallest, largest)` share of the image's area that a random crop keeps.
        crop_aspect: `(smallest, largest)` ratio of a crop's width to its height.
        brightness: Largest relative change of all values, 0 to 1.
        contrast: Largest relative change of the distance from the image's mean gray, 0 to 1.
        saturation: Largest relative change of the distance from gray, 0 to 1; for color images.
        hue: Largest rotation of the colors as a share of the circle, 0 to 0.5; for color images.
        erasing: Probability that a rectangle of the image is filled with one random color.
        erasing_area: `(smallest, largest)` share of the image's area that is erased.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> shaken = Augmentation(rotation=10.0, translation=0.1)(tf.ones((2, 8, 8, 1)), seed=(0, 1))
        >>> shaken.shape
        TensorShape([2, 8, 8, 1])
    """

    def __init__(
        self,
        rotation: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        translation: float = 0.0,
        horizontal_flip: bool = False,
        crop_area: tuple[float, float] | None = None,
        crop_aspect: tuple[float, float] = (3 / 4, 4 / 3),
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        erasing: float = 0.0,
        erasing_area: tuple[float, float] = (0.02, 0.25),
    ) -> None:
        limits = {"rotation": 180.0, "scale": 0.9, "shear": 2.0, "translation": 1.0}
        check_at_most(limits, rotation=rotation, scale=scale, shear=shear, translation=translation)
        limits = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5, "erasing": 1.0}
        check_at_most(
            limits, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, erasing=erasing
        )
        if not (len(erasing_area) == 2 and 0 < erasing_area[0] <= erasing_area[1] <= 1):
            raise ValueError(
                f"Received: erasing_area={erasing_area!r}; "
                "expected (smallest, largest) with 0 < smallest <= largest <= 1."
            )
        if crop_area is not None and not (len(crop_area) == 2 and 0 < crop_area[0] <= crop_area[1] <= 1):
            raise ValueError(
                f"Received: crop_area={crop_area!r}; "
                "expected (smallest, largest) with 0 < smallest <= largest <= 1."
            )
        if not (len(crop_aspect) == 2 and 0 < crop_aspect[0] <= crop_aspect[1]):
            raise ValueError(
                f"Received: crop_aspect={crop_aspect!r}; "
                "expected (smallest, largest) with 0 < smallest <= largest."
            )
        self.rotation, self.scale = float(rotation), float(scale)
        self.shear, self.translation = float(shear), float(translation)
        self.horizontal_flip = bool(horizontal_flip)
        self.crop_area = None if crop_area is None else tuple(map(float, crop_area))
        self.crop_aspect = tuple(map(float, crop_aspect))
        self.brightness, self.contrast = float(brightness), float(contrast)
        self.saturation, self.hue = float(saturation), float(hue)
        self.erasing, self.erasing_area = float(erasing), tuple(map(float, erasing_area))

    def __call__(self, images: tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Changes each image of a batch in its own way.

        Args:
            images: float `(b, height, width, channels)`.
            seed: Two integers; the same seed changes the same batch in the same way.

        Returns:
            Images of the same shape and type.
        """
        return self._recolor(self._transform(images, seed, with_crop=self.crop_area is not None), seed)

    def crop(self, image: tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Cuts a random part out of one decoded image `(h, w, c)` of any size, to be resized afterwards.

        Without `crop_area` the image is returned whole. Cropping before resizing keeps the detail of large
        images; `after_crop` then makes the other changes.
        """
        if self.crop_area is None:
            return image
        image = tf.convert_to_tensor(image)
        row, column, rows, columns = tf.unstack(self.crop_window(tf.shape(image)[:2], seed))
        return image[row : row + rows, column : column + columns]

    def crop_window(self, size: TensorLike, seed: TensorLike) -> tf.Tensor:
        """What `crop` cuts out of an image, for a decoder that decodes no more than that.

        Args:
            size: int32 `(2,)`, height and width of the image in pixels.
            seed: Two integers.

        Returns:
            int32 `(4,)`: first row, first column, number of rows and of columns.
        """
        height, width = tf.unstack(tf.cast(size, tf.float32))
        top, left, box_height, box_width = (edge[0] for edge in self._boxes(1, width / height, seed))
        sides = tf.maximum(1, tf.cast(tf.round([box_height * height, box_width * width]), tf.int32))
        start = tf.minimum(tf.cast(tf.round([top * height, left * width]), tf.int32), size - sides)
        return tf.concat([start, sides], axis=0)

    def after_crop(self, images: tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """All changes but the crop, for a batch whose images went through `crop`."""
        return self._recolor(self._transform(images, seed, with_crop=False), seed)

    @property
    def is_flip_at_most(self) -> bool:
        """Whether `after_crop` does nothing but mirror images, if anything."""
        return not (self._is_affine or self._changes_colors or self.erasing)

    @property
    def _is_affine(self):
        return any((self.rotation, self.scale, self.shear, self.translation))

    @property
    def _changes_colors(self):
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    def is_mirrored(self, count: int | tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Which images of a batch `horizontal_flip` mirrors.

        Args:
            count: Images in the batch.
            seed: Two integers, the seed of the batch.

        Returns:
            bool `(count,)`.
        """
        return tf.random.stateless_uniform((count,), _fold(seed, 6)) < 0.5

    def config(self) -> Config:
        """The arguments from which `from_config` makes the same augmentation."""
        return {
            "rotation": self.rotation,
            "scale": self.scale,
            "shear": self.shear,
            "translation": self.translation,
            "horizontal_flip": self.horizontal_flip,
            "crop_area": None if self.crop_area is None else list(self.crop_area),
            "crop_aspect": list(self.crop_aspect),
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "erasing": self.erasing,
            "erasing_area": list(self.erasing_area),
        }

    @classmethod
    def from_config(cls, config: Config) -> Augmentation:
        """Makes an augmentation from what `config` gave."""
        return cls(**config)

    def __eq__(self, other):
        return isinstance(other, Augmentation) and self.config() == other.config()

    def __hash__(self):
        return hash(str(self.config()))

    def __repr__(self):
        return f"Augmentation({', '.join(f'{name}={value!r}' for name, value in self.config().items())})"

    def _boxes(self, count, image_aspect, seed):
        """Crops as shares of the image's sides: top, left, height and width, each `(count,)`.

        Area and the logarithm of the aspect are uniform; a box that would stick out is cut to the image's
        side.
        """
        area = tf.random.stateless_uniform((count,), _fold(seed, 7), *(self.crop_area or (1.0, 1.0)))
        aspect = tf.exp(
            tf.random.stateless_uniform(
                (count,), _fold(seed, 8), *(math.log(edge) for edge in self.crop_aspect)
            )
        )
        relative_aspect = aspect / image_aspect
        width = tf.minimum(1.0, tf.sqrt(area * relative_aspect))
        height = tf.minimum(1.0, tf.sqrt(area / relative_aspect))
        place = tf.random.stateless_uniform((2, count), _fold(seed, 9))
        return place[0] * (1.0 - height), place[1] * (1.0 - width), height, width

    def _transform(self, images, seed, with_crop):
        images = tf.convert_to_tensor(images)
        is_affine = self._is_affine
        if not (is_affine or with_crop or self.horizontal_flip):
            return images
        count = tf.shape(images)[0]
        height, width = images.shape[1], images.shape[2]
        if not (is_affine or with_crop):
            # Without interpolation, which costs several times as much.
            is_mirrored = self.is_mirrored(count, seed)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            return tf.where(is_mirrored, tf.reverse(images, [2]), images)

        def uniform(number, largest):
            return tf.random.stateless_uniform((count,), _fold(seed, number), -largest, largest)

        # Backwards from the result's pixels, measured from the centre, to those of the image.
        one, zero = tf.ones((count,)), tf.zeros((count,))
        backward = [[one, zero, zero], [zero, one, zero]]
        if is_affine:
            angle = uniform(1, self.rotation * math.pi / 180.0)
            size = 1.0 + uniform(2, self.scale)
            slant = uniform(3, self.shear)
            right, down = uniform(4, self.translation) * width, uniform(5, self.translation) * height
            cosine, sine = tf.cos(angle) / size, tf.sin(angle) / size
            # The inverse of  size · rotation(angle) · [[1, slant], [0, 1]], then of the translation.
            rows = [[cosine + slant * sine, sine - slant * cosine], [-sine, cosine]]
            backward = [[*row, -(row[0] * right + row[1] * down)] for row in rows]
        if self.horizontal_flip:
            sign = tf.where(self.is_mirrored(count, seed), -1.0, 1.0)
            backward = [[sign * entry for entry in backward[0]], backward[1]]
        if with_crop:
            top, left, box_height, box_width = self._boxes(count, width / height, seed)
            # From the centre of the image to the centre of the box.
            across, along = (left + box_width / 2.0 - 0.5) * width, (top + box_height / 2.0 - 0.5) * height
            backward = [
                [box_width * backward[0][0], box_width * backward[0][1], box_width * backward[0][2] + across],
                [
                    box_height * backward[1][0],
                    box_height * backward[1][1],
                    box_height * backward[1][2] + along,
                ],
            ]
        # Pixel centres are at whole numbers, so the image's centre is at (side - 1) / 2.
        x, y = (width - 1) / 2.0, (height - 1) / 2.0
        columns = []
        for (across_x, across_y, shift), center in zip(backward, (x, y)):
            columns += [across_x, across_y, shift + center - across_x * x - across_y * y]
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack([*columns, zero, zero], axis=1),
            output_shape=(height, width),
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
            fill_value=0.0,
        )


    def _recolor(self, images, seed):
        """Changes the colors of images in 0–1, then erases rectangles."""
        if not (self._changes_colors or self.erasing):
            return images
        images = tf.convert_to_tensor(images)
        count, channels = tf.shape(images)[0], images.shape[-1]

        def uniform(number, low, high, shape=(1, 1, 1)):
            values = tf.random.stateless_uniform((count, *shape), _fold(seed, number), low, high)
            return tf.cast(values, images.dtype)

        if self.brightness:
            images *= uniform(10, 1.0 - self.brightness, 1.0 + self.brightness)
        if self.contrast:
            mean = tf.reduce_mean(_gray(images), axis=(1, 2), keepdims=True)
            images = mean + (images - mean) * uniform(11, 1.0 - self.contrast, 1.0 + self.contrast)
        if self.saturation and channels == 3:
            gray = _gray(images)
            images = gray + (images - gray) * uniform(12, 1.0 - self.saturation, 1.0 + self.saturation)
        if self.hue and channels == 3:
            angle = 2.0 * math.pi * uniform(13, -self.hue, self.hue, ())
            images = tf.einsum("bhwc,bdc->bhwd", images, _hue_rotation(angle))
        if self._changes_colors:
            images = tf.clip_by_value(images, 0.0, 1.0)
        if not self.erasing:
            return images
        smallest, largest = self.erasing_area
        area = uniform(14, smallest, largest, ())
        aspect = tf.exp(uniform(15, -_LOG_ASPECT, _LOG_ASPECT, ()))
        width, height = tf.minimum(tf.sqrt(area * aspect), 1.0), tf.minimum(tf.sqrt(area / aspect), 1.0)
        place = uniform(16, 0.0, 1.0, (2,))
        rows = _is_inside(images.shape[1], place[:, 0], height)[:, :, tf.newaxis, tf.newaxis]
        columns = _is_inside(images.shape[2], place[:, 1], width)[:, tf.newaxis, :, tf.newaxis]
        is_erased = uniform(17, 0.0, 1.0) < tf.cast(self.erasing, images.dtype)
        return tf.where(rows & columns & is_erased, uniform(18, 0.0, 1.0, (1, 1, channels)), images)


# An erased rectangle is at most this many times as wide as high, or as high as wide, in logarithms.
_LOG_ASPECT = math.log(3.0)
# Luma and two axes of color: a rotation of hue turns the latter.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def _gray(images):
    """Luma of color images, the mean of others, with one channel."""
    if images.shape[-1] != 3:
        return tf.reduce_mean(images, axis=-1, keepdims=True)
    return tf.tensordot(images, tf.constant(_YIQ[0][:, np.newaxis], images.dtype), axes=1)


def _hue_rotation(angle):
    """Matrices of RGB, `(b, 3, 3)`, that rotate the hue by angles `(b,)` and keep luma."""
    one, zero, cosine, sine = tf.ones_like(angle), tf.zeros_like(angle), tf.cos(angle), tf.sin(angle)
    turn = tf.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], axis=-1)
    to_yiq, to_rgb = (tf.constant(matrix, angle.dtype) for matrix in (_YIQ, np.linalg.inv(_YIQ)))
    return to_rgb @ tf.reshape(turn, (-1, 3, 3)) @ to_yiq


def _is_inside(count, place, share):
    """Which of `count` places lie in a range that covers a share of them, `(b, count)`."""
    centers = (tf.range(count, dtype=place.dtype) + 0.5) / tf.cast(count, place.dtype)
    begin = (place * (1.0 - share))[:, tf.newaxis]
    return (centers >= begin) & (centers < begin + share[:, tf.newaxis])


def _fold(seed, number):
    """A seed of its own for each thing that is drawn."""
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int64)
    return tf.stack([seed[0] + 1_000_003 * number, seed[1]])
