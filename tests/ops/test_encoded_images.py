"""Image files are decoded as by Pillow, rotated upright, and limited in size before decoding."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from tfdml.ops import decode_image, encoded_size, exif_orientation, orient

FORMATS = ("PNG", "JPEG", "GIF", "BMP")
decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
read_orientation = tf.function(exif_orientation, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
read_size = tf.function(encoded_size, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def image_file(kind="PNG", size=(11, 6), mode="RGB", **options):
    """The bytes of an asymmetric image with large dark and bright areas, because JPEG decoders differ slightly."""
    array = np.zeros((size[1], size[0], 3), np.uint8)
    array[: size[1] // 3], array[:, : size[0] // 2, 0] = 200, 100
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, kind, **options)
    return file.getvalue()


def with_orientation(number, kind="JPEG", endian="<", size=(11, 6)):
    order = {"<": b"II", ">": b"MM"}[endian]
    entries = [(0x0100, 4, 1, struct.pack(endian + "I", 7)), (0x0112, 3, 1, struct.pack(endian + "HH", number, 0))]
    block = order + struct.pack(endian + "HIH", 42, 8, len(entries))
    block += b"".join(struct.pack(endian + "HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    return image_file(kind, size, exif=b"Exif\0\0" + block, **options)


def png_header(height, width):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


def upright(contents):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))))


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_those_of_pillow(kind):
    contents = image_file(kind)
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"))
    np.testing.assert_allclose(decode(contents).numpy().astype(int), expected, atol=12)
    np.testing.assert_array_equal(read_size(contents), (6, 11))
    assert read_orientation(contents) == 1


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA"])
def test_channels_are_those_of_the_file(mode):
    contents = image_file("PNG", mode=mode)
    np.testing.assert_array_equal(decode(contents), np.atleast_3d(upright(contents)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_eight_orientations(kind):
    for number in range(1, 9):
        for endian in "<>":
            contents = with_orientation(number, kind, endian)
            assert read_orientation(contents) == number
            np.testing.assert_array_equal(read_size(contents), (6, 11))
            np.testing.assert_allclose(decode(contents).numpy().astype(int), upright(contents), atol=12)


def test_an_orientation_is_undone():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for number in range(1, 9):
        stored = with_orientation(number, "PNG", size=(4, 2))
        expected = np.asarray(ImageOps.exif_transpose(_tagged(image, number)))
        np.testing.assert_array_equal(orient(image, tf.constant(number)), expected)
        assert read_orientation(stored) == number


def _tagged(image, number):
    tagged = Image.fromarray(image)
    tagged.getexif()[0x0112] = number
    return tagged


@pytest.mark.parametrize("number", [0, 9, 300])
def test_an_orientation_that_does_not_exist_is_none(number):
    assert read_orientation(with_orientation(number)) == 1


def test_exif_data_that_is_cut_off_is_none():
    contents = with_orientation(6)
    start = contents.index(b"Exif\0\0") + 6
    for keep in (0, 3, 8, 12, 20, 29):
        length = struct.pack(">H", 8 + keep)
        broken = contents[: start - 8] + length + b"Exif\0\0" + contents[start : start + keep] + image_file("JPEG")[2:]
        assert read_orientation(broken) == 1, keep


def test_segments_before_the_exif_data_are_passed_over():
    contents = with_orientation(8)
    start = contents.index(b"\xff\xe1")
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 9) + b"\xff\xc0\xff\xe1comnt" + b"\xff\xff\xff"
    contents = contents[:start] + comment + contents[start:]
    assert read_orientation(contents) == 8
    np.testing.assert_array_equal(read_size(contents), (6, 11))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_damaged_files_are_errors_and_nothing_else(kind):
    contents = with_orientation(6, kind) if kind in ("JPEG", "PNG") else image_file(kind)
    for keep in (*range(0, min(len(contents), 60), 7), len(contents) // 2):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode(contents[:keep])
    rng = np.random.default_rng(0)
    for _ in range(20):
        broken = np.frombuffer(contents, np.uint8).copy()
        broken[rng.integers(0, min(len(broken), 80), 2)] = rng.integers(0, 256, 2)
        try:
            assert decode(broken.tobytes()).dtype == tf.uint8
        except tf.errors.InvalidArgumentError:
            pass


@pytest.mark.parametrize(
    "contents",
    [
        png_header(20_000, 20_000),
        png_header(2**32 - 1, 2**32 - 1),
        b"GIF89a" + struct.pack("<HH", 40_000, 40_000) + bytes(20),
        b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 30_000, -30_000, 1, 24, 0) + bytes(30),
        image_file("JPEG").replace(b"\xff\xc0\x00\x11\x08\x00\x06\x00\x0b", b"\xff\xc0\x00\x11\x08\x9c\x40\x9c\x40"),
    ],
    ids=["png", "png of 64 bits", "gif", "bmp", "jpeg"],
)
def test_a_claim_of_too_many_pixels_is_refused_before_decoding(contents):
    with pytest.raises(tf.errors.InvalidArgumentError, match="is too large to decode"):
        decode(contents)


def test_errors_name_their_source():
    for contents, message in (
        (b"no image", "is not an image. Expected:"),
        (b"", "is not an image"),
        (png_header(0, 5), "is an image without pixels"),
        (image_file("BMP", mode="P"), "BMP of an unsupported kind"),
        (image_file("PNG"), "too large"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message) as error:
            decode_image(contents, max_pixels=60, source=("Image", tf.constant(7), "of the batch"))
        assert all(word in str(error.value) for word in ("Image", "7", "of the batch"))
    assert decode_image(image_file("PNG"), max_pixels=66).shape == (6, 11, 3)
