"""Image decoding in graphs, with a size limit before decoding and support for the EXIF orientation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.types import TensorLike

# The limit at which Pillow warns: 256 MiB at three bytes per pixel.
MAX_PIXELS = 89_478_485

_OTHER, _PNG, _JPEG, _GIF, _BMP = range(5)
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM")
# Positions of height and width in the headers: first byte, number of bytes, byte order. JPEG has no fixed position.
_SIZES = ((0, 0, "big"), (0, 0, "big"), (20, 4, "big"), (16, 4, "big"), (0, 0, "big"), (0, 0, "big"),
          (8, 2, "little"), (6, 2, "little"), (22, 4, "little"), (18, 4, "little"))  # fmt: skip
# BMP: size of the header, bits per pixel, compression.
_BMP_KIND = ((14, 4, "little"), (28, 2, "little"), (30, 4, "little"))
_HEADER = 34
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# Makes reads past the end of a file return zeros.
_PADDING = b"\0" * 64
# Limit on the segments or chunks before the EXIF data, higher than any camera or editor writes.
_MAX_SEGMENTS = 1000
_ORIENTATION_TAG = 0x0112
_PROBLEMS = (
    "",
    "is not an image. Expected: the contents of a PNG, JPEG, GIF or BMP file.",
    "is a BMP of an unsupported kind. Expected: 24 bits per pixel, uncompressed.",
    "is an image without pixels, or damaged.",
    "is too large to decode. Expected: at most",
    "is truncated. Expected: the whole file.",
)


def decode_image(
    contents: TensorLike, max_pixels: int = MAX_PIXELS, source: Sequence[Any] = ("The file",)
) -> tf.Tensor:
    """Decode one PNG, JPEG, GIF or BMP file and rotate it upright.

    The header is checked first, so a small file that claims a huge image is rejected before memory is allocated for it.
    The EXIF orientation of JPEG and PNG files is applied. For a GIF, the first frame is decoded.

    Args:
        contents: Scalar string tensor. The bytes of the file.
        max_pixels: int. The largest height × width to decode. Default: 89,478,485, the limit at which Pillow warns.
        source: Sequence of strings and tensors that name the file at the start of an error message. Default:
            `("The file",)`.

    Returns:
        uint8 tensor `(height, width, channels)` with the channels of the file.

    Raises:
        tf.errors.InvalidArgumentError: If the file is damaged or has another format, no pixels, or more than
            `max_pixels`.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> ops.decode_image(tf.io.encode_png(tf.zeros((4, 6, 1), tf.uint8))).shape
        TensorShape([4, 6, 1])
    """
    contents = tf.ensure_shape(tf.convert_to_tensor(contents), [])
    kind, size, is_supported = _read_header(contents)
    height, width = tf.unstack(size)
    # The first problem is reported. Dividing avoids the product of two 32-bit numbers, which may overflow 64 bits.
    problems = [kind == _OTHER, ~is_supported, (height < 1) | (width < 1), height > max_pixels // tf.maximum(width, 1)]
    # TensorFlow's decoder fills the missing rows of a truncated PNG with black.
    problems.append(tf.cond(kind == _PNG, lambda: ~_has_png_end(contents), lambda: tf.constant(False)))
    is_problem = tf.stack([*problems, True])
    number = (tf.argmax(is_problem) + 1) % len(_PROBLEMS)
    check = tf.debugging.Assert(
        number == 0,
        [
            *source,
            tf.gather(tf.constant(_PROBLEMS), number),
            tf.where(number == 4, tf.strings.as_string(max_pixels) + " pixels.", ""),
            "Received:",
            height,
            width,
            "pixels (height, width),",
            tf.strings.length(contents),
            "bytes.",
        ],
    )
    with tf.control_dependencies([check]):
        image = tf.io.decode_image(tf.identity(contents), expand_animations=False)
    image.set_shape([None, None, None])
    return orient(image, _orientation(contents, kind))


def exif_orientation(contents: TensorLike) -> tf.Tensor:
    """Read the EXIF orientation of a JPEG or PNG file.

    Args:
        contents: Scalar string tensor. The bytes of the file.

    Returns:
        int32 scalar tensor, 1 to 8; 1 (upright) for a file without orientation.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> int(ops.exif_orientation(tf.io.encode_png(tf.zeros((4, 6, 1), tf.uint8))))
        1
    """
    contents = tf.convert_to_tensor(contents)
    return _orientation(contents, _read_kind(_first_bytes(contents)))


def encoded_size(contents: TensorLike) -> tf.Tensor:
    """Read the size of an image from the header of its file, before the EXIF orientation is applied.

    Args:
        contents: Scalar string tensor. The bytes of a PNG, JPEG, GIF or BMP file.

    Returns:
        int64 tensor `(2,)`, height and width; zeros for a file in another format.

    Raises:
        tf.errors.InvalidArgumentError: If the header of a JPEG file is damaged.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> ops.encoded_size(tf.io.encode_png(tf.zeros((4, 6, 1), tf.uint8))).numpy().tolist()
        [4, 6]
    """
    return _read_header(tf.convert_to_tensor(contents))[1]


def orient(image: TensorLike, orientation: TensorLike) -> tf.Tensor:
    """Rotate and flip an image upright.

    Args:
        image: Tensor `(h, w, c)` as stored.
        orientation: int32 scalar tensor. EXIF orientation, 1 to 8.

    Returns:
        The upright image, `(h, w, c)`, or `(w, h, c)` for orientations 5 to 8.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> ops.orient(tf.zeros((4, 6, 3)), 6).shape
        TensorShape([6, 4, 3])
    """
    image = tf.convert_to_tensor(image)
    channels = image.shape[-1]
    orientation = tf.convert_to_tensor(orientation)

    def flip_if(numbers, axis):
        return tf.cond(tf.reduce_any(orientation == numbers), lambda: tf.reverse(image, [axis]), lambda: image)

    def turned():
        nonlocal image
        image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        image = flip_if([2, 3, 6, 7], 1)
        return flip_if([3, 4, 7, 8], 0)

    stored = image
    result = tf.cond(orientation == 1, lambda: stored, turned)
    result.set_shape([None, None, channels])
    return result


def upright_size(size: TensorLike, orientation: TensorLike) -> tf.Tensor:
    """Compute height and width of an image after `orient`.

    Args:
        size: int tensor `(2,)`. Height and width as stored.
        orientation: int32 scalar tensor. EXIF orientation, 1 to 8.

    Returns:
        int tensor `(2,)`.

    Example:
        >>> from tfdml import ops
        >>> ops.upright_size([4, 6], 6).numpy().tolist()
        [6, 4]
    """
    return tf.where(orientation >= 5, tf.reverse(size, [0]), size)


def stored_window(window: TensorLike, size: TensorLike, orientation: TensorLike) -> tf.Tensor:
    """Find the part of a stored image that `orient` maps to a given part of the upright one.

    Use it to decode only a crop of a file.

    Args:
        window: int tensor `(4,)`. First row, first column, number of rows and number of columns in the upright image.
        size: int tensor `(2,)`. Height and width as stored.
        orientation: int32 scalar tensor. EXIF orientation, 1 to 8.

    Returns:
        int tensor `(4,)` in the same order.

    Example:
        >>> import tensorflow as tf
        >>> from tfdml import ops
        >>> window, size, rotated_by_180 = tf.constant([0, 0, 1, 2]), tf.constant([4, 6]), tf.constant(3)
        >>> ops.stored_window(window, size, rotated_by_180).numpy().tolist()
        [3, 4, 1, 2]
    """
    start, sides = window[:2], window[2:]
    is_reversed = tf.stack([tf.reduce_any(orientation == [3, 4, 7, 8]), tf.reduce_any(orientation == [2, 3, 6, 7])])
    start = tf.where(is_reversed, upright_size(size, orientation) - start - sides, start)
    return tf.concat([upright_size(start, orientation), upright_size(sides, orientation)], axis=0)


def _has_png_end(contents):
    """Whether the chunks of a PNG continue up to its end."""
    size = tf.cast(tf.strings.length(contents), tf.int64)

    def advance(position, _):
        length = _number(tf.io.decode_raw(tf.strings.substr(contents, position, 4), tf.uint8, fixed_length=4), 4)
        return position + length + 12, tf.strings.substr(contents, position + 4, 4) == b"IEND"

    def walk():
        # Other data may follow the end of the image.
        start = (tf.constant(len(_SIGNATURES[0]), tf.int64), tf.constant(False))
        return tf.while_loop(lambda position, ended: ~ended & (position + 12 <= size), advance, start)[1]

    end = tf.strings.substr(contents, tf.maximum(size - len(_PNG_END), 0), len(_PNG_END))
    return tf.cond(end == _PNG_END, lambda: tf.constant(True), walk)


def _first_bytes(contents):
    return tf.io.decode_raw(tf.strings.join([tf.strings.substr(contents, 0, _HEADER), _PADDING]), tf.uint8)[:_HEADER]


def _read_kind(data):
    length = max(map(len, _SIGNATURES))
    bytes_of = np.array([list(signature.ljust(length)) for signature in _SIGNATURES], np.uint8)
    is_free = np.array([[place >= len(signature) for place in range(length)] for signature in _SIGNATURES])
    matches = tf.reduce_all((data[:length] == bytes_of) | is_free, axis=1)
    # No two signatures match.
    return tf.reduce_sum(tf.cast(matches, tf.int32) * tf.range(1, len(_SIGNATURES) + 1))


def _read_header(contents):
    """The kind of a file, its size as int64 `(height, width)`, and whether it is supported if it is a BMP."""
    data = _first_bytes(contents)
    kind = _read_kind(data)
    weights = np.zeros((len(_SIZES + _BMP_KIND), _HEADER), np.int64)
    for row, (start, count, order) in zip(weights, _SIZES + _BMP_KIND):
        powers = 256 ** np.arange(count)
        row[start : start + count] = powers[::-1] if order == "big" else powers
    numbers = tf.reduce_sum(tf.cast(data, tf.int64) * weights, axis=1)
    size = tf.reshape(numbers[: len(_SIZES)], [-1, 2])[kind]
    # The height of a BMP stored top-down is negative, in two's complement.
    size = tf.where((kind == _BMP) & (size >= 2**31), 2**32 - size, size)
    size = tf.cond(
        kind == _JPEG, lambda: tf.cast(tf.io.extract_jpeg_shape(contents)[:2], tf.int64), lambda: tf.identity(size)
    )
    header_size, bits, compression = tf.unstack(numbers[len(_SIZES) :])
    return kind, size, (kind != _BMP) | ((header_size >= 40) & (bits == 24) & (compression == 0))


def _orientation(contents, kind):
    """The EXIF orientation of a file of a known kind."""

    def read(name, find):
        def orientation():
            data = tf.io.decode_raw(tf.strings.join([contents, _PADDING]), tf.uint8)
            start, size = find(data, tf.strings.length(contents))
            return _read_orientation(contents, start, size)

        # Searching for one literal is fast and skips the loop over segments for files without EXIF data.
        without = tf.strings.regex_replace(contents, name, "", replace_global=False)
        return tf.cond(tf.strings.length(without) != tf.strings.length(contents), orientation, lambda: 1)

    return tf.switch_case(
        tf.where(kind <= _JPEG, kind, 0),
        [lambda: 1, lambda: read("eXIf", _find_in_png), lambda: read(r"Exif\x00\x00", _find_in_jpeg)],
    )


def _find_in_png(data, size):
    """Walk the chunks up to the pixels; return the start and the size of the EXIF data, 0 if there is none."""
    exif_type, pixels_type = (int.from_bytes(name, "big") for name in (b"eXIf", b"IDAT"))

    def advance(position, _, exif):
        length = _number(data[position : position + 4], 4)
        kind = _number(data[position + 4 : position + 8], 4)
        found = tf.stack([position + 8, tf.cast(tf.minimum(length, 2**30), tf.int32)])
        exif = tf.where(kind == exif_type, found, exif)
        # Length, type and checksum have four bytes each. Stop at the end of the file.
        position = tf.cast(tf.minimum(tf.cast(position, tf.int64) + length + 12, tf.cast(size, tf.int64)), tf.int32)
        return position, (kind == pixels_type) | (kind == exif_type) | (position >= size), exif

    return _walk(advance, 8)


def _find_in_jpeg(data, size):
    """Walk the segments up to the pixels; return the start and the size of the EXIF data, 0 if there is none."""
    exif_name = tf.constant(list(b"Exif\0\0"), tf.uint8)

    def advance(position, _, exif):
        marker, code = data[position], data[position + 1]
        length = tf.cast(_number(data[position + 2 : position + 4], 2), tf.int32)
        is_exif = (code == 0xE1) & tf.reduce_all(data[position + 4 : position + 10] == exif_name)
        exif = tf.where(is_exif, tf.stack([position + 10, tf.maximum(length - 8, 0)]), exif)
        # 0xFF may be repeated before a code; TEM and RST have no length.
        is_single = (code == 0x01) | ((code >= 0xD0) & (code <= 0xD8))
        step = tf.where(code == 0xFF, 1, tf.where(is_single, 2, 2 + length))
        position = tf.minimum(position + step, size)
        # Start of scan, end of image.
        is_last = (marker != 0xFF) | is_exif | (code == 0xDA) | (code == 0xD9) | (position >= size)
        return position, is_last, exif

    return _walk(advance, 2)


def _walk(advance, start):
    state = (tf.constant(start), tf.constant(False), tf.zeros(2, tf.int32))
    _, _, exif = tf.while_loop(
        lambda position, is_done, exif: ~is_done,
        advance,
        state,
        maximum_iterations=_MAX_SEGMENTS,
        parallel_iterations=1,
    )
    return tf.unstack(exif)


def _read_orientation(contents, start, size):
    """Read the orientation from EXIF data, which is a TIFF file; 1 if there is none or it is damaged."""
    block = tf.strings.substr(contents, tf.minimum(start, tf.strings.length(contents)), size)
    size = tf.strings.length(block)
    data = tf.io.decode_raw(tf.strings.join([block, _PADDING]), tf.uint8)
    is_little = data[0] == ord("I")

    def number(values, count):
        return tf.where(is_little, _number(tf.reverse(values, [-1]), count), _number(values, count))

    start = tf.cast(tf.minimum(number(data[4:8], 4), tf.cast(size, tf.int64)), tf.int32)
    count = tf.cast(number(data[start : start + 2], 2), tf.int32)
    # Each entry: tag and type, two bytes each; count and value, four bytes each.
    entries = data[start + 2 : start + 2 + 12 * count]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], [-1, 12])
    is_here = number(entries[:, :2], 2) == _ORIENTATION_TAG
    values = tf.where(number(entries[:, 2:4], 2) == 4, number(entries[:, 8:12], 4), number(entries[:, 8:10], 2))
    value = tf.reduce_max(tf.where(is_here, values, 0))
    return tf.cast(tf.where((value >= 1) & (value <= 8), value, 1), tf.int32)


def _number(values, count):
    """Unsigned big-endian number in the `count` bytes of the last axis, int64."""
    weights = tf.constant([256**power for power in reversed(range(count))], tf.int64)
    return tf.reduce_sum(tf.cast(values, tf.int64) * weights, axis=-1)
