"""Random augmentation of training images."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_at_most, check_whole_number
from tfdml._utils.types import Config, TensorLike
from tfdml.data.randaugment import OPERATIONS, randaugment


class Augmentation:
    """Random rotation, scale, shear, translation, crop and flip, determined by a seed.

    Pass it to `balanced_batches`. For natural images, `Augmentation(horizontal_flip=True, crop_area=(0.08, 1.0))` is
    a common choice; for characters and other images with a fixed orientation, use small rotations and no flip.

    A random resized crop is applied first, then a flip, then the affine transformation about the center, all in one
    projective transformation with bilinear interpolation. Uncovered pixels are black. The operations of RandAugment
    follow, then the changes of color, and erasing comes last.

    RandAugment applies `randaugment_operations` operations to each image, each drawn independently from: identity;
    rotation (30° at magnitude 1); shear along either axis (0.3); translation along either axis (0.45 of the side);
    brightness, contrast, color and sharpness (factors 1 ± 0.9); posterize (4 of 8 bits remain); solarize (inverts all
    values at magnitude 1, and only the brightest at small ones); autocontrast; and equalize. The last two have no
    magnitude. Signs are random. They are the operations and ranges of torchvision's `RandAugment`, with bilinear
    interpolation.

    Args:
        rotation: float, degrees in 0–180. Largest rotation in either direction. Default 0.
        scale: float in 0–0.9. Largest relative change of size in either direction. Default 0.
        shear: float in 0–2. Largest horizontal shear, as horizontal shift per unit of height, in either direction.
            Default 0.
        translation: float in 0–1. Largest shift along each axis, as a fraction of the image's side, in either
            direction. Default 0.
        horizontal_flip: bool. Flip each image horizontally with probability 0.5. Default `False`.
        crop_area: tuple (smallest, largest), fractions in 0–1. Range of the share of the image's area that a random
            crop keeps. `None` does not crop. Default `None`.
        crop_aspect: tuple (smallest, largest). Range of a crop's ratio of width to height. Default (3/4, 4/3).
        brightness: float in 0–1. Largest relative change of all values. Default 0.
        contrast: float in 0–1. Largest relative change of the distance from the image's mean gray. Default 0.
        saturation: float in 0–1. Largest relative change of the distance from gray; for color images. Default 0.
        hue: float in 0–0.5. Largest rotation of the colors, as a fraction of the color circle; for color images.
            Default 0.
        erasing: float in 0–1. Probability that a rectangle of the image is filled with one random color. Default 0.
        erasing_area: tuple (smallest, largest), fractions in 0–1. Range of the share of the image's area that is
            erased. Default (0.02, 0.25).
        randaugment_operations: int in 0–16. Number of operations of RandAugment per image. Default 0.
        randaugment_magnitude: float in 0–1. Strength of these operations. Default 0.3.

    Raises:
        ValueError: If an argument is out of range.

    Reference:
        Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", NeurIPS 2020.

    Example:
        >>> augmentation = Augmentation(rotation=10.0, translation=0.1)
        >>> augmentation(tf.ones((2, 8, 8, 1)), seed=(0, 1)).shape
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
        randaugment_operations: int = 0,
        randaugment_magnitude: float = 0.3,
    ) -> None:
        limits = {"rotation": 180.0, "scale": 0.9, "shear": 2.0, "translation": 1.0}
        check_at_most(limits, rotation=rotation, scale=scale, shear=shear, translation=translation)
        limits = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.5, "erasing": 1.0}
        check_at_most(
            limits, brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, erasing=erasing
        )
        check_whole_number("randaugment_operations", randaugment_operations, minimum=0)
        limits = {"randaugment_operations": 16, "randaugment_magnitude": 1.0}
        check_at_most(
            limits, randaugment_operations=randaugment_operations, randaugment_magnitude=randaugment_magnitude
        )
        if not (len(erasing_area) == 2 and 0 < erasing_area[0] <= erasing_area[1] <= 1):
            raise ValueError(
                f"Invalid erasing_area. Received: erasing_area={erasing_area!r}. "
                "Expected: (smallest, largest) with 0 < smallest <= largest <= 1."
            )
        if crop_area is not None and not (len(crop_area) == 2 and 0 < crop_area[0] <= crop_area[1] <= 1):
            raise ValueError(
                f"Invalid crop_area. Received: crop_area={crop_area!r}. "
                "Expected: (smallest, largest) with 0 < smallest <= largest <= 1."
            )
        if not (len(crop_aspect) == 2 and 0 < crop_aspect[0] <= crop_aspect[1]):
            raise ValueError(
                f"Invalid crop_aspect. Received: crop_aspect={crop_aspect!r}. "
                "Expected: (smallest, largest) with 0 < smallest <= largest."
            )
        self.rotation, self.scale = float(rotation), float(scale)
        self.shear, self.translation = float(shear), float(translation)
        self.horizontal_flip = bool(horizontal_flip)
        self.crop_area = None if crop_area is None else tuple(map(float, crop_area))
        self.crop_aspect = tuple(map(float, crop_aspect))
        self.brightness, self.contrast = float(brightness), float(contrast)
        self.saturation, self.hue = float(saturation), float(hue)
        self.erasing, self.erasing_area = float(erasing), tuple(map(float, erasing_area))
        self.randaugment_operations = int(randaugment_operations)
        self.randaugment_magnitude = float(randaugment_magnitude)

    def __call__(self, images: tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Augment each image of a batch independently.

        Args:
            images: float tensor `(batch, height, width, channels)`.
            seed: Two integers. The same seed gives the same result for the same batch.

        Returns:
            Tensor of the same shape and dtype.
        """
        return self._after_transform(self._transform(images, seed, with_crop=self.crop_area is not None), seed)

    def crop(self, image: tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Crop a random part of one decoded image, to be resized afterwards.

        Cropping before resizing preserves the detail of large images. Apply `after_crop` to the resized batch.

        Args:
            image: Tensor `(height, width, channels)` of any size.
            seed: Two integers.

        Returns:
            The crop; without `crop_area`, the whole image.
        """
        if self.crop_area is None:
            return image
        image = tf.convert_to_tensor(image)
        row, column, rows, columns = tf.unstack(self.crop_window(tf.shape(image)[:2], seed))
        return image[row : row + rows, column : column + columns]

    def crop_window(self, size: TensorLike, seed: TensorLike) -> tf.Tensor:
        """Return the window that `crop` cuts out, for decoders that can decode only a part of an image.

        Args:
            size: int32 tensor `(2,)`. Height and width of the image in pixels.
            seed: Two integers.

        Returns:
            int32 tensor `(4,)`: first row, first column, number of rows and number of columns.
        """
        height, width = tf.unstack(tf.cast(size, tf.float32))
        top, left, box_height, box_width = (edge[0] for edge in self._boxes(1, width / height, seed))
        sides = tf.maximum(1, tf.cast(tf.round([box_height * height, box_width * width]), tf.int32))
        start = tf.minimum(tf.cast(tf.round([top * height, left * width]), tf.int32), size - sides)
        return tf.concat([start, sides], axis=0)

    def after_crop(self, images: tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Apply all transformations except the crop, for a batch of images that were cropped with `crop`.

        Args:
            images: float tensor `(batch, height, width, channels)`.
            seed: Two integers.
        """
        return self._after_transform(self._transform(images, seed, with_crop=False), seed)

    @property
    def is_flip_at_most(self) -> bool:
        """Whether `after_crop` at most flips images."""
        return not (self._is_affine or self._changes_colors or self.erasing or self.randaugment_operations)

    @property
    def _is_affine(self):
        return any((self.rotation, self.scale, self.shear, self.translation))

    @property
    def _changes_colors(self):
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    def is_mirrored(self, count: int | tf.Tensor, seed: TensorLike) -> tf.Tensor:
        """Return which images of a batch `horizontal_flip` flips.

        Args:
            count: int. Number of images in the batch.
            seed: Two integers. Seed of the batch.

        Returns:
            bool tensor `(count,)`.
        """
        return tf.random.stateless_uniform((count,), _fold(seed, 6)) < 0.5

    def config(self) -> Config:
        """Return the arguments as a dict, for `from_config`."""
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
            "randaugment_operations": self.randaugment_operations,
            "randaugment_magnitude": self.randaugment_magnitude,
        }

    @classmethod
    def from_config(cls, config: Config) -> Augmentation:
        """Create an augmentation from the dict returned by `config`."""
        return cls(**config)

    def __eq__(self, other):
        return isinstance(other, Augmentation) and self.config() == other.config()

    def __hash__(self):
        return hash(str(self.config()))

    def __repr__(self):
        return f"Augmentation({', '.join(f'{name}={value!r}' for name, value in self.config().items())})"

    def _boxes(self, count, image_aspect, seed):
        """Draw crops: top, left, height and width, each `(count,)`, as fractions of the image's sides.

        Area and the logarithm of the aspect ratio are uniform; boxes are clipped to the image.
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
            # Interpolation would cost several times as much.
            is_mirrored = self.is_mirrored(count, seed)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            return tf.where(is_mirrored, tf.reverse(images, [2]), images)

        def uniform(number, largest):
            return tf.random.stateless_uniform((count,), _fold(seed, number), -largest, largest)

        # The transformation maps pixels of the result to those of the image, relative to the center.
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
            # From the center of the image to the center of the box.
            across, along = (left + box_width / 2.0 - 0.5) * width, (top + box_height / 2.0 - 0.5) * height
            backward = [
                [box_width * backward[0][0], box_width * backward[0][1], box_width * backward[0][2] + across],
                [
                    box_height * backward[1][0],
                    box_height * backward[1][1],
                    box_height * backward[1][2] + along,
                ],
            ]
        # Pixel centers are at whole numbers, so the image's center is at (side - 1) / 2.
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

    def _after_transform(self, images, seed):
        return self._recolor(self._randaugment(images, seed), seed)

    def _randaugment(self, images, seed):
        if not self.randaugment_operations:
            return images
        images = tf.convert_to_tensor(images)
        shape = (tf.shape(images)[0], self.randaugment_operations)
        choices = tf.random.stateless_uniform(shape, _fold(seed, 19), 0, len(OPERATIONS), tf.int32)
        signs = tf.where(tf.random.stateless_uniform(shape, _fold(seed, 20)) < 0.5, -1.0, 1.0)
        return randaugment(images, choices, signs, self.randaugment_magnitude)

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
    """Derive an independent seed for each random quantity."""
    seed = tf.cast(tf.convert_to_tensor(seed), tf.int64)
    return tf.stack([seed[0] + 1_000_003 * number, seed[1]])
