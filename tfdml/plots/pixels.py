"""Prepare images for matplotlib."""

from __future__ import annotations

import numpy as np


def as_pixels(image, name="image"):
    """Return one image as float32 `(h, w)` or `(h, w, 3)` in 0–1.

    Args:
        image: Array `(h, w)`, `(h, w, 1)`, `(h, w, 3)` or `(h, w, 4)`; uint8 in 0–255 or float in 0–1. Floats slightly
            outside of 0–1 due to rounding are clipped. A fourth channel (alpha) is dropped.
        name: str. Name of the image in errors.

    Returns:
        Array for `imshow(..., cmap="gray", vmin=0, vmax=1)`.

    Raises:
        ValueError: If the image has another shape, type or range.
    """
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{name} is not an image. Received: shape {np.shape(image)}; "
            "expected (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)."
        )
    if image.dtype == np.uint8:
        pixels = image.astype(np.float32) / 255.0
    elif np.issubdtype(image.dtype, np.floating) or image.dtype.name == "bfloat16":
        pixels = image.astype(np.float32)
        if not np.isfinite(pixels).all() or pixels.min() < -0.01 or pixels.max() > 1.01:
            raise ValueError(
                f"{name} is a float image out of range. Received: values in "
                f"[{image.min():g}, {image.max():g}]; expected 0..1 (or uint8 in 0..255)."
            )
        pixels = np.clip(pixels, 0.0, 1.0)
    else:
        raise ValueError(f"{name} has a wrong type. Received: {image.dtype}; expected uint8 or float.")
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]


def as_gray(pixels):
    """Return the luminance `(h, w)` of an image returned by `as_pixels`."""
    return pixels if pixels.ndim == 2 else pixels @ np.array([0.299, 0.587, 0.114], np.float32)


def show(axes, pixels, **options):
    """Draw an image returned by `as_pixels` without stretching its gray values."""
    return axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, **options)
