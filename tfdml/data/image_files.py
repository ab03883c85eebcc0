"""Read image files for training, evaluation, extraction and the check of a folder.

TensorFlow decodes JPEG and PNG in parallel, inside the pipeline. Pillow decodes the other formats. If an image cannot
be decoded, the error names its file and the reason.
"""

from __future__ import annotations

import concurrent.futures
import io
import logging
import os
import re

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_choice
from tfdml._utils.progress import progress_bar
from tfdml.ops import MAX_PIXELS, decode_image, encoded_size, exif_orientation

_LOGGER = logging.getLogger(__name__)

# Extensions of image files, and Pillow's names of the formats that TensorFlow does not read.
ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".gif", ".bmp", ".webp", ".tif", ".tiff")
_FORMATS = ("GIF", "BMP", "WEBP", "TIFF")
EXPECTED = "Expected: complete files in one of the formats JPEG, PNG, GIF, BMP, WebP and TIFF"
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"

_STRING, _NUMBER = tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int64)


# Traced once and called by every pipeline.
@tf.function(input_signature=[_STRING, _NUMBER], autograph=False)
def _decode(contents, max_pixels):
    return decode_image(contents, max_pixels)


@tf.function(input_signature=[_STRING, _NUMBER], autograph=False)
def _size_and_orientation(contents, max_pixels):
    return _within(encoded_size(contents), max_pixels), exif_orientation(contents)


def _within(size, max_pixels):
    is_right = (tf.reduce_min(size) > 0) & (size[0] <= max_pixels // tf.maximum(size[1], 1))
    with tf.control_dependencies([tf.debugging.Assert(is_right, ["No pixels, or too many:", size])]):
        return tf.cast(size, tf.int32)


def size_and_orientation(contents, max_pixels=MAX_PIXELS):
    """Return height and width in the header of a JPEG or PNG, int32 `(2,)`, and its EXIF orientation, as tensors."""
    return _size_and_orientation(contents, tf.constant(max_pixels, tf.int64))


def jpeg_size(contents, max_pixels=MAX_PIXELS):
    """Return height and width in the header of a JPEG, an int32 tensor `(2,)`."""
    return _within(tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64), tf.constant(max_pixels, tf.int64))


def decode_whole(contents, max_pixels=MAX_PIXELS):
    """Decode the bytes of an image, a scalar string tensor, as `tfdml.ops.decode_image` does."""
    return _decode(contents, tf.constant(max_pixels, tf.int64))


def has_exif(contents):
    """Return whether the bytes of a JPEG, a scalar string tensor, may contain EXIF data; if not, it is upright."""
    # Searching for a literal is fast.
    without = tf.strings.regex_replace(contents, r"Exif\x00\x00", "", replace_global=False)
    return tf.strings.length(without) != tf.strings.length(contents)


def is_jpeg(contents):
    """Return whether a scalar string tensor contains a JPEG."""
    return tf.strings.substr(contents, 0, len(_JPEG)) == _JPEG


@tf.autograph.experimental.do_not_convert
def read_in_graph(path, decode=None, finish=None, max_pixels=MAX_PIXELS):
    """Read and decode an image file as part of a tf.data pipeline.

    Args:
        path: Scalar string tensor.
        decode: Function of TensorFlow ops from the bytes of a JPEG or PNG to uint8 `(h, w, c)`. `None` decodes the
            whole, upright image. Default `None`.
        finish: Function that derives the same result from a whole, upright image, for the other formats. `None` returns
            the image. Default `None`.
        max_pixels: int. Largest height · width.

    Returns:
        uint8 tensor `(h, w, c)` with the channels of the file.

    Raises:
        InvalidArgumentError: When run, if the image cannot be decoded; see `with_named_errors`.
    """
    contents = tf.io.read_file(path)
    decode = decode or (lambda contents: decode_whole(contents, max_pixels))

    def other():
        image = _unknown(tf.numpy_function(lambda path: read_image(path, max_pixels), [path], tf.uint8))
        return _unknown(image if finish is None else finish(image))

    is_native = is_jpeg(contents) | (tf.strings.substr(contents, 0, len(_PNG)) == _PNG)
    return _unknown(tf.cond(is_native, lambda: _unknown(decode(contents)), other))


def with_named_errors(images, paths, read, spec, max_pixels=MAX_PIXELS):
    """Map indices of files to what `read` returns, with errors that name the file.

    TensorFlow's decoders do not say which file they failed on. Elements that fail are dropped; the next element, which
    contains the index of its predecessor, detects the gap and raises the error.

    Args:
        images: `tf.data.Dataset` of (number, index, previous): a number for `read`, the index of a file, and the index
            of the preceding element. An index of -1 stands for no file; it must appear at the end, and occasionally
            before.
        paths: String tensor of the files' paths.
        read: Function from (number, index) to tensors of fixed shapes.
        spec: `tf.TensorSpec`s of the result of `read`.
        max_pixels: int. Largest height · width.

    Returns:
        `tf.data.Dataset` of the results of `read`, in order.
    """

    @tf.autograph.experimental.do_not_convert
    def read_or_not(position, element):
        number, index, previous = element

        def nothing():
            return tf.nest.map_structure(lambda one: tf.zeros(one.shape, one.dtype), spec)

        return position, index, previous, tf.cond(index < 0, nothing, lambda: read(number, index))

    @tf.autograph.experimental.do_not_convert
    def check(expected, element):
        position, index, previous, value = element
        failed = tf.gather(paths, tf.maximum(previous, 0))
        check = tf.cond(position == expected, lambda: False, lambda: _fail(failed, max_pixels))
        with tf.control_dependencies([check]):
            return position + 1, (index, tf.nest.map_structure(tf.identity, value))

    results = images.enumerate().map(read_or_not, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    results = results.ignore_errors().scan(np.int64(0), check)
    return results.filter(lambda index, _: index >= 0).map(lambda _, value: value)


def _fail(path, max_pixels):
    def explain(path, _):
        read_image(path, max_pixels)
        raise ValueError(f"Unreadable image. Received: {_shown(path)}, which changed while it was read. {EXPECTED}.")

    # If the file does not exist, TensorFlow's own error names it.
    return tf.numpy_function(explain, [path, tf.io.read_file(path)], tf.bool)


def read_image(path, max_pixels=MAX_PIXELS):
    """Read one image file.

    Args:
        path: str or bytes. Path of the file.
        max_pixels: int. Largest height · width.

    Returns:
        uint8 array `(h, w, c)`, upright, with 1 (gray), 2 (gray and alpha), 3 (color) or 4 (color and alpha) channels.

    Raises:
        ValueError: If the image cannot be decoded; the message names the file and the reason.
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        contents = file.read()
    try:
        return _pixels(contents, max_pixels)
    except Exception as error:  # TensorFlow and Pillow's plugins raise many kinds of error.
        raise _unreadable(path, error) from error


class TooManyPixelsError(ValueError):
    """Raised before pixels are decoded if the header of an image names more of them than allowed."""


def read_contents(contents, max_pixels=MAX_PIXELS):
    """Decode the bytes of an image file.

    Args:
        contents: bytes.
        max_pixels: int. Largest height · width.

    Returns:
        uint8 array `(h, w, c)`, as for `read_image`.

    Raises:
        TooManyPixelsError: If the image is larger.
        ValueError: If it cannot be decoded; the message is the reason.
    """
    try:
        return _pixels(contents, max_pixels)
    except TooManyPixelsError:
        raise
    except Exception as error:  # TensorFlow and Pillow's plugins raise many kinds of error.
        raise ValueError(_reason(error)) from error


def read_encoded(path, max_pixels=MAX_PIXELS):
    """Read one image file for a SavedModel, whose decoder supports fewer formats.

    Args:
        path: str or bytes. Path of the file.
        max_pixels: int. Largest height · width.

    Returns:
        bytes. The content of a JPEG or PNG file; for other formats, a PNG with the same pixels, upright.

    Raises:
        ValueError: If the file cannot be read as an image; the message names the file and the reason.
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        contents = file.read()
    if not contents.startswith((_JPEG, _PNG)):
        return tf.io.encode_png(read_image(path, max_pixels)).numpy()
    try:
        _check_size(encoded_size(contents).numpy().tolist(), max_pixels)
    except Exception as error:  # TensorFlow raises many kinds of error.
        raise _unreadable(path, error) from error
    return contents


def verify_images(paths, progress=False, max_pixels=MAX_PIXELS):
    """Read files and raise a ValueError that names those that cannot be decoded.

    Args:
        paths: List of paths.
        progress: bool. Show a progress bar in a terminal. Default `False`.
        max_pixels: int. Largest height · width.
    """
    problems = find_unreadable(paths, progress, max_pixels)
    if problems:
        raise ValueError(f"Unreadable images. Received: {listed(problems)}. {EXPECTED}.")


def find_unreadable(paths, progress=False, max_pixels=MAX_PIXELS):
    """Decode files, JPEGs at an eighth of their size, and return those that fail.

    Returns:
        dict from the path of each file that cannot be decoded to the reason.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = pool.map(lambda path: _problem(path, max_pixels), paths)
        bar = progress_bar(
            results, desc="reading", total=len(paths), unit=" images", disable=None if progress else True
        )
        return {path: problem for problem, path in zip(bar, paths) if problem is not None}


def check_reading_options(verify, on_unreadable):
    """Raise a ValueError unless the options of a loader of image files are valid and consistent."""
    check_choice("on_unreadable", on_unreadable, ("error", "skip"))
    if on_unreadable == "skip" and not verify:
        raise ValueError(
            "Unreadable files are found by reading them. Received: on_unreadable='skip' with verify=False. "
            "Expected: verify=True."
        )


def unreadable(paths, on_unreadable, max_pixels=MAX_PIXELS):
    """Return the files that cannot be read, with the reasons, and warn about them.

    Args:
        paths: List of paths.
        on_unreadable: `"skip"` warns, `"error"` raises.
        max_pixels: int. Largest height · width.

    Raises:
        ValueError: If files cannot be read and `on_unreadable` is `"error"`; the message names them.
    """
    problems = find_unreadable(paths, max_pixels=max_pixels)
    if problems and on_unreadable == "error":
        raise ValueError(
            f"Unreadable images. Received: {listed(problems)}. {EXPECTED}. Pass on_unreadable='skip' to omit them."
        )
    if problems:
        _LOGGER.warning("Skipped %d unreadable images: %s.", len(problems), listed(problems))
    return problems


def listed(problems, limit=10):
    """Format the first paths with their reasons, and the number of further ones."""
    shown = [f"{_shown(path)} ({problem})" if problem else _shown(path) for path, problem in problems.items()]
    more = f", and {len(shown) - limit} more" if len(shown) > limit else ""
    return f"{', '.join(shown[:limit])}{more}"


def _problem(path, max_pixels):
    try:
        with open(path, "rb") as file:
            contents = file.read()
        _pixels(contents, max_pixels, ratio=8)
    except Exception as error:  # TensorFlow and Pillow's plugins raise many kinds of error.
        return _reason(error)
    return None


def _pixels(contents, max_pixels, ratio=1):
    """Return the pixels of an encoded image; a JPEG is decoded at 1/ratio of its size."""
    if not contents:
        raise ValueError("the file is empty")
    if not contents.startswith((_JPEG, _PNG)):
        return _pixels_by_pillow(contents, max_pixels)
    _check_size(encoded_size(contents).numpy().tolist(), max_pixels)
    if ratio > 1:
        if contents.startswith(_JPEG):
            return tf.io.decode_jpeg(contents, ratio=ratio).numpy()
        _check_png(contents)
        return tf.io.decode_png(contents).numpy()
    if contents.startswith(_PNG):
        _check_png(contents)
    return _decode(contents, max_pixels).numpy()


def _pixels_by_pillow(contents, max_pixels):
    from PIL import Image, ImageOps, UnidentifiedImageError

    Image.init()
    try:
        opened = Image.open(io.BytesIO(contents), formats=[name for name in _FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise ValueError("in none of these formats, or with a damaged header") from error
    with opened as image:
        _check_size((image.height, image.width), max_pixels)
        image.load()
        image = _in_channels(image)
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # Damaged metadata do not make an image unreadable.
            pass
        pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        # 16 bits: keep the high byte, as TensorFlow does for PNG.
        pixels = (pixels.astype(np.uint16) >> 8).astype(np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


def _in_channels(image):
    """Convert the image to gray or color, with alpha if it has any."""
    if image.mode.startswith("I;16") or image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of Pillow's mode {image.mode!r}. Expected: 8 or 16 bits for each channel")
    is_gray = image.mode in ("1", "L", "La")
    has_alpha = image.has_transparency_data if hasattr(image, "has_transparency_data") else _has_alpha(image)
    return image.convert(("LA" if is_gray else "RGBA") if has_alpha else ("L" if is_gray else "RGB"))


def _has_alpha(image):
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _check_size(size, max_pixels):
    height, width = size
    if not height * width:
        raise ValueError(f"an image of {height} x {width} pixels")
    if height * width > max_pixels:
        raise TooManyPixelsError(
            f"an image of {height:,} x {width:,} pixels. Expected: at most {max_pixels:,} in all: resize it, or pass a "
            "larger max_pixels"
        )


def _check_png(contents):
    """Raise a ValueError if a PNG is truncated: TensorFlow's decoder would fill missing rows with black."""
    position = len(_PNG)
    while position + 12 <= len(contents):
        if contents[position + 4 : position + 8] == b"IEND":
            return
        position += 12 + int.from_bytes(contents[position : position + 4], "big")
    raise ValueError("the file is truncated")


def _unreadable(path, error):
    return ValueError(f"Unreadable image. Received: {_shown(path)} ({_reason(error)}). {EXPECTED}.")


def _reason(error):
    if isinstance(error, tf.errors.OpError):
        first, *_ = re.sub(r"\{\{.*?\}\}\s*|\s*\[Op:.*", "", error.message).splitlines() or [""]
        return f"TensorFlow cannot decode it: {first}"
    return str(error) or type(error).__name__


def _shown(path):
    return os.fsdecode(path).encode("utf-8", "backslashreplace").decode()


def _unknown(image):
    """Return the image with unknown static shape, because the branches of a condition must agree."""
    return tf.raw_ops.PlaceholderWithDefault(input=image, shape=[None, None, None])
