"""Prepare images for matplotlib."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image, ImageOps


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
            f"{name} is not an image. Received: shape {np.shape(image)}. "
            "Expected: (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)."
        )
    if image.dtype == np.uint8:
        pixels = image.astype(np.float32) / 255.0
    elif np.issubdtype(image.dtype, np.floating) or image.dtype.name == "bfloat16":
        pixels = image.astype(np.float32)
        if not np.isfinite(pixels).all() or pixels.min() < -0.01 or pixels.max() > 1.01:
            raise ValueError(
                f"{name} is a float image out of range. Received: values in "
                f"[{image.min():g}, {image.max():g}]. Expected: 0..1 (or uint8 in 0..255)."
            )
        pixels = np.clip(pixels, 0.0, 1.0)
    else:
        raise ValueError(f"{name} has a wrong type. Received: {image.dtype}. Expected: uint8 or float.")
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]


def as_gray(pixels):
    """Return the luminance `(h, w)` of an image returned by `as_pixels`."""
    return pixels if pixels.ndim == 2 else pixels @ np.array([0.299, 0.587, 0.114], np.float32)


def show(axes, pixels, **options):
    """Draw an image returned by `as_pixels` without stretching its gray values."""
    return axes.imshow(pixels, cmap="gray", vmin=0.0, vmax=1.0, **options)


def as_thumbnail(image, side, name="image", enlarge=False):
    """Return an image or an image file with its longer side reduced to `side` pixels.

    Args:
        image: As for `as_pixels`, or the path of a file that Pillow reads; transparent pixels of files become white.
        side: int. Pixels.
        name: str. Name of the image in errors.
        enlarge: bool. Enlarge smaller images, too. Default `False`.

    Returns:
        uint8 array `(h, w)` or `(h, w, 3)`.

    Raises:
        ValueError: If the image is invalid, or the file cannot be read as an image.
        OSError: If the file cannot be opened.
    """
    if isinstance(image, (str, os.PathLike)):
        thumbnail = _read(image, side, name)
    else:
        thumbnail = Image.fromarray(np.rint(as_pixels(image, name) * 255).astype(np.uint8))
    if enlarge or max(thumbnail.size) > side:
        scale = side / max(thumbnail.size)
        thumbnail = thumbnail.resize([max(1, round(scale * size)) for size in thumbnail.size], Image.Resampling.BOX)
    return np.asarray(thumbnail)


def _read(path, side, name):
    with open(os.path.expanduser(path), "rb") as file:
        try:
            with Image.open(file) as opened:
                # Decodes a JPEG at a fraction of its size.
                opened.draft(None, (2 * side, 2 * side))
                image = ImageOps.exif_transpose(opened)
                if "A" in image.getbands() or "transparency" in image.info:
                    image = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
                return image.convert("L" if image.mode in ("1", "L") else "RGB")
        except Exception as error:  # Pillow's plugins raise many kinds of error.
            raise ValueError(
                f"{name} cannot be read. Received: {os.fspath(path)!r} ({error}). Expected: an image file."
            ) from error
