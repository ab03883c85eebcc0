"""Images as matplotlib wants them."""

from __future__ import annotations

import numpy as np


def as_picture(image, name="image"):
    """One image as float32 `(h, w)` or `(h, w, 3)` in 0..1.

    Args:
        image: `(h, w)`, `(h, w, 1)`, `(h, w, 3)` or `(h, w, 4)`; uint8 in 0..255 or float in 0..1. Floats
            that rounding pushed a little outside are clipped. A fourth channel (alpha) is left out.
        name: What the error calls it.

    Returns:
        The picture, ready for `imshow(..., cmap="gray", vmin=0, vmax=1)`.

    Raises:
        ValueError: If the shape, the type or the range is none of these.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{name} is no picture. Received: shape {np.shape(image)}; "
            "expected (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)."
        )
    if image.dtype == np.uint8:
        picture = image.astype(np.float32) / 255.0
    elif np.issubdtype(image.dtype, np.floating) or image.dtype.name == "bfloat16":
        picture = image.astype(np.float32)
        if not np.isfinite(picture).all() or picture.min() < -0.01 or picture.max() > 1.01:
            raise ValueError(
                f"{name} is a float image out of range. Received: values in "
                f"[{picture.min():g}, {picture.max():g}]; expected 0..1 (or uint8 in 0..255)."
            )
        picture = np.clip(picture, 0.0, 1.0)
    else:
        raise ValueError(f"{name} has a wrong type. Received: {image.dtype}; expected uint8 or float.")
    return picture[..., 0] if picture.shape[-1] == 1 else picture[..., :3]


def as_gray(picture):
    """The luminance of a picture of `as_picture`, `(h, w)`."""
    return picture if picture.ndim == 2 else picture @ np.float32([0.299, 0.587, 0.114])


def show(axes, picture, **options):
    """Draws a picture of `as_picture` without stretching its gray values."""
    return axes.imshow(picture, cmap="gray", vmin=0.0, vmax=1.0, **options)
