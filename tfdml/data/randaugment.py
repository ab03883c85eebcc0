"""RandAugment: a few random operations of fixed strength on each image."""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

# Operations at magnitude 1; smaller magnitudes scale them down.
_ROTATION = math.radians(30.0)
_SHEAR = 0.3
_TRANSLATION = 0.45
_ENHANCEMENT = 0.9
_LOST_BITS = 4
_LUMA = (0.299, 0.587, 0.114)


def randaugment(images, choices, signs, magnitude):
    """Apply operations to each image of a batch.

    Args:
        images: float tensor `(batch, height, width, channels)` in 0–1.
        choices: int tensor `(batch, operations)`. Indices into `OPERATIONS`, applied from left to right.
        signs: float tensor `(batch, operations)`, -1 or 1. Direction of each operation that has one.
        magnitude: float in 0–1.

    Returns:
        Tensor of the same shape and dtype.
    """
    spec = tf.TensorSpec(images.shape[1:], images.dtype)

    def step(image, operation):
        choice, sign = operation
        operands = [functools.partial(branch, image, magnitude, sign) for branch in OPERATIONS.values()]
        return tf.ensure_shape(tf.switch_case(choice, operands), spec.shape)

    # A loop within the loop, so that each operation is traced once.
    def change(inputs):
        image, chosen, directions = inputs
        return tf.foldl(step, (chosen, directions), initializer=image)

    return tf.map_fn(change, (images, choices, tf.cast(signs, images.dtype)), fn_output_signature=spec)


def _identity(image, magnitude, sign):
    return tf.identity(image)


def _rotate(image, magnitude, sign):
    angle = sign * magnitude * _ROTATION
    return _affine(image, [[tf.cos(angle), tf.sin(angle), 0.0], [-tf.sin(angle), tf.cos(angle), 0.0]])


def _shear_x(image, magnitude, sign):
    return _affine(image, [[1.0, -sign * magnitude * _SHEAR, 0.0], [0.0, 1.0, 0.0]])


def _shear_y(image, magnitude, sign):
    return _affine(image, [[1.0, 0.0, 0.0], [-sign * magnitude * _SHEAR, 1.0, 0.0]])


def _translate_x(image, magnitude, sign):
    return _affine(image, [[1.0, 0.0, -sign * magnitude * _TRANSLATION * image.shape[1]], [0.0, 1.0, 0.0]])


def _translate_y(image, magnitude, sign):
    return _affine(image, [[1.0, 0.0, 0.0], [0.0, 1.0, -sign * magnitude * _TRANSLATION * image.shape[0]]])


def _affine(image, backward):
    """Map pixels of the result to those of the image, (x, y) relative to the center; uncovered pixels are black."""
    x, y = (image.shape[1] - 1) / 2.0, (image.shape[0] - 1) / 2.0
    entries = []
    for (across_x, across_y, shift), center in zip(backward, (x, y)):
        entries += [across_x, across_y, shift + center - across_x * x - across_y * y]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=tf.stack([tf.cast(entry, tf.float32) for entry in (*entries, 0.0, 0.0)])[tf.newaxis],
        output_shape=image.shape[:2],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )[0]


def _brightness(image, magnitude, sign):
    return _enhanced(image, tf.zeros_like(image), magnitude, sign)


def _contrast(image, magnitude, sign):
    return _enhanced(image, tf.reduce_mean(_gray(image)), magnitude, sign)


def _color(image, magnitude, sign):
    return _enhanced(image, _gray(image), magnitude, sign)


def _sharpness(image, magnitude, sign):
    return _enhanced(image, _smoothed(image), magnitude, sign)


def _enhanced(image, plain, magnitude, sign):
    """Move an image away from a plain version of itself or toward it."""
    return tf.clip_by_value(plain + (image - plain) * (1.0 + sign * magnitude * _ENHANCEMENT), 0.0, 1.0)


def _gray(image):
    if image.shape[-1] != 3:
        return tf.reduce_mean(image, axis=-1, keepdims=True)
    return tf.tensordot(image, tf.constant(_LUMA, image.dtype)[:, tf.newaxis], axes=1)


def _smoothed(image):
    """Average each pixel with its eight neighbors, the pixel five times as much; pixels at the border stay."""
    height, width, channels = image.shape
    if min(height, width) < 3:
        return image
    kernel = np.ones((3, 3, channels, 1))
    kernel[1, 1] = 5.0
    kernel = tf.constant(kernel / 13.0, image.dtype)
    inner = tf.nn.depthwise_conv2d(image[tf.newaxis], kernel, strides=(1, 1, 1, 1), padding="VALID")[0]
    is_inner = np.pad(np.ones((height - 2, width - 2, 1), bool), ((1, 1), (1, 1), (0, 0)))
    return tf.where(is_inner, tf.pad(inner, ((1, 1), (1, 1), (0, 0))), image)


def _posterize(image, magnitude, sign):
    lost = 2 ** round(magnitude * _LOST_BITS)
    return _from_levels(_levels(image) // lost * lost, image.dtype)


def _solarize(image, magnitude, sign):
    threshold = (1.0 - magnitude) * 256.0
    return tf.where(_levels(image) >= math.ceil(threshold), 1.0 - image, image)


def _autocontrast(image, magnitude, sign):
    low = tf.reduce_min(image, axis=(0, 1), keepdims=True)
    high = tf.reduce_max(image, axis=(0, 1), keepdims=True)
    spread = high - low
    is_flat = spread < 0.5 / 255.0
    return tf.where(is_flat, image, (image - low) / tf.where(is_flat, tf.ones_like(spread), spread))


def _equalize(image, magnitude, sign):
    levels = tf.reshape(_levels(image), (-1, image.shape[-1]))
    counts = tf.math.bincount(tf.transpose(levels), minlength=256, maxlength=256, axis=-1)
    last = tf.gather(counts, tf.reduce_max(levels, axis=0), axis=1, batch_dims=1)
    step = ((tf.reduce_sum(counts, axis=1) - last) // 255)[:, tf.newaxis]
    mapped = (tf.cumsum(counts, axis=1, exclusive=True) + step // 2) // tf.maximum(step, 1)
    equalized = tf.gather(tf.minimum(mapped, 255), tf.transpose(levels), axis=1, batch_dims=1)
    equalized = tf.reshape(tf.transpose(equalized), tf.shape(image))
    # A channel of few pixels or of one level stays.
    return tf.where(step[:, 0] > 0, _from_levels(equalized, image.dtype), image)


def _levels(image):
    """Values as integers 0–255."""
    return tf.cast(tf.round(tf.clip_by_value(image, 0.0, 1.0) * 255.0), tf.int32)


def _from_levels(levels, dtype):
    return tf.cast(levels, dtype) / 255.0


# The order is part of what a seed determines.
OPERATIONS = {
    "identity": _identity,
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "brightness": _brightness,
    "contrast": _contrast,
    "color": _color,
    "sharpness": _sharpness,
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": _autocontrast,
    "equalize": _equalize,
}
