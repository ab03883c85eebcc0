"""Value ranges of images: what a network expects."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.types import InputRange, TensorLike

# Scale, mean and whether RGB becomes BGR, for images in 0–1, as in keras.applications and CLIP.
_STD = np.array([0.229, 0.224, 0.225])
_CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])
_MODES = {
    "caffe": (255.0, (103.939, 116.779, 123.68), True),
    "tf": (2.0, (1.0,), False),
    "torch": (tuple(1.0 / _STD), tuple(np.array([0.485, 0.456, 0.406]) / _STD), False),
    "clip": (tuple(1.0 / _CLIP_STD), tuple(np.array([0.48145466, 0.4578275, 0.40821073]) / _CLIP_STD), False),
}
UNIT_RANGE = (0.0, 1.0)


def check_input_range(input_range: InputRange) -> InputRange:
    """Validate an input range.

    Args:
        input_range: `(low, high)`, the values of black and white, or a mode of `preprocess_input` in
            `keras.applications`: `"caffe"` (BGR in 0–255 minus the mean), `"tf"` (−1 to 1) or `"torch"` (standardized
            by the mean and deviation of ImageNet); or `"clip"` (standardized by those of CLIP).

    Returns:
        `(low, high)` as floats, or `"caffe"`, `"torch"` or `"clip"`.

    Raises:
        ValueError: If the value is something else.

    Example:
        >>> from tfdml import ops
        >>> ops.check_input_range((0, 255)), ops.check_input_range("tf")
        ((0.0, 255.0), (-1.0, 1.0))
    """
    if isinstance(input_range, str):
        if input_range in _MODES:
            return (-1.0, 1.0) if input_range == "tf" else input_range
    elif isinstance(input_range, (tuple, list)) and len(input_range) == 2:
        is_number = [isinstance(value, numbers.Real) and math.isfinite(value) for value in input_range]
        if all(is_number) and input_range[0] < input_range[1]:
            return float(input_range[0]), float(input_range[1])
    raise ValueError(
        f"Invalid input range. Received: input_range={input_range!r}. Expected: (low, high) with low < high, or one of "
        f"{sorted(_MODES)}."
    )


def input_convention(input_range: InputRange) -> tuple[Any, Any, bool]:
    """Convert an input range to the arguments of `tfdml.backbones.input_convention.InputConvention`.

    Args:
        input_range: As for `check_input_range`.

    Returns:
        `(scale, mean, reverse_channels)`. An image in 0–1 is multiplied by `scale`, then `mean` is subtracted.

    Raises:
        ValueError: If the range is invalid.

    Example:
        >>> from tfdml import ops
        >>> ops.input_convention((-1, 1))
        (2.0, (1.0,), False)
    """
    input_range = check_input_range(input_range)
    if isinstance(input_range, str):
        return _MODES[input_range]
    low, high = input_range
    return high - low, (-low,), False


def to_input_range(images: TensorLike, input_range: InputRange) -> tf.Tensor:
    """Convert images from 0–1 to an input range.

    Args:
        images: float tensor `(…, channels)` in 0–1; RGB for `"caffe"`, `"torch"` and `"clip"`.
        input_range: As for `check_input_range`.

    Returns:
        Tensor of the same shape and type.

    Raises:
        ValueError: If the range is invalid.

    Example:
        >>> from tfdml import ops
        >>> ops.to_input_range([[0.0, 0.5, 1.0]], (-1, 1)).numpy().tolist()
        [[-1.0, 0.0, 1.0]]
    """
    images = tf.convert_to_tensor(images)
    scale, mean, reverse_channels = input_convention(input_range)
    if reverse_channels:
        images = tf.reverse(images, axis=[-1])
    return images * tf.constant(scale, images.dtype) - tf.constant(mean, images.dtype)
