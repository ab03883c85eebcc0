"""Image files of all formats and orientations come through one path, and what cannot be decoded is named."""

import dataclasses
import io
import os
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfdml.data import Augmentation, LabeledImages, Preprocessing, balanced_batches, evaluation_batches, folder
from tfdml.data.datasets.collage import Collages
from tfdml.data.image_files import read_encoded, read_image, read_in_graph, verify_images

# Smooth and without symmetry; few colors, so that a GIF holds it exactly.
PIXELS = np.zeros((24, 40, 3), np.uint8)
PIXELS[:8], PIXELS[:, :13, 0], PIXELS[16:, 27:, 2] = (200, 60, 90), 120, 255
WAYS = [None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270"]
PREPROCESSING = Preprocessing((12, 20), 3)


def encode(kind, orientation=1, image=None, **options):
    """The bytes of the image, stored in a way that the orientation undoes."""
    image = Image.fromarray(PIXELS) if image is None else image
    if orientation > 1:
        image = image.transpose(getattr(Image.Transpose, WAYS[orientation - 1]))
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95, "subsampling": 0} if kind in ("JPEG", "MPO") else {}), **options)
    return file.getvalue()


def png_header(height, width):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))


@pytest.fixture(scope="module")
def read():
    """Reads a file as the pipeline does."""
    return tf.function(read_in_graph, input_signature=[tf.TensorSpec((), tf.string)], autograph=False)


@pytest.fixture
def write(tmp_path):
    def write(contents, name="image"):
        path = str(tmp_path / name)
        with open(path, "wb") as file:
            file.write(contents)
        return path

    return write


FILES = {
    "png": (encode("PNG"), 0),
    "jpeg": (encode("JPEG"), 12),
    "mpo": (encode("MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))]), 12),
    "gif": (encode("GIF", save_all=True, append_images=[Image.new("RGB", (40, 24))]), 0),
    "bmp": (encode("BMP"), 0),
    "bmp of 32 bits": (encode("BMP", image=Image.fromarray(PIXELS).convert("RGBA")), 0),
    "bmp with a palette": (encode("BMP", image=Image.fromarray(PIXELS).convert("P", palette=1)), 0),
    "webp": (encode("WEBP", lossless=True), 0),
    "tiff": (encode("TIFF"), 0),
    "tiff of CMYK": (encode("TIFF", image=Image.fromarray(PIXELS).convert("CMYK")), 1),
}


@pytest.mark.parametrize("name", FILES)
def test_formats_give_the_same_pixels(name, read, write):
    contents, tolerance = FILES[name]
    path = write(contents)
    for pixels in (read(path).numpy(), read_image(path)):
        assert pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels[..., :3].astype(int), PIXELS, atol=tolerance)


@pytest.mark.parametrize(
    "image, expected",
    [
        (Image.new("1", (3, 2), 1), [255]),
        (Image.new("L", (3, 2), 7), [7]),
        (Image.new("LA", (3, 2), (7, 9)), [7, 9]),
        (Image.new("RGBA", (3, 2), (1, 2, 3, 4)), [1, 2, 3, 4]),
        (Image.fromarray(np.full((2, 3), 0x1234, np.uint16)), [0x12]),
    ],
)
def test_channels(image, expected, read, write):
    for kind in ("TIFF", "PNG"):
        pixels = read(write(encode(kind, image=image))).numpy()
        np.testing.assert_array_equal(pixels, np.broadcast_to(np.array(expected, np.uint8), (2, 3, len(expected))))


def test_transparent_palettes(read, write):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = read(write(encode("GIF", image=image, transparency=1))).numpy()
    np.testing.assert_array_equal(pixels[0, 0], [10, 20, 30, 255])
    assert pixels[0, 1, 3] == 0


@pytest.mark.parametrize("kind, tolerance", [("PNG", 0), ("JPEG", 14), ("WEBP", 0), ("TIFF", 0)])
def test_eight_orientations_give_the_same_tensor(kind, tolerance, read, write):
    for orientation in range(1, 9):
        options = {"lossless": True} if kind == "WEBP" else {}
        path = write(encode(kind, orientation, **options))
        for pixels in (read(path).numpy(), read_image(path)):
            assert pixels.shape == PIXELS.shape
            np.testing.assert_allclose(pixels.astype(int), PIXELS, atol=tolerance)
            if kind == "JPEG":
                assert np.abs(pixels.astype(int) - PIXELS).mean() < 1


def test_eight_orientations_in_batches_and_crops(write):
    paths = [write(encode(kind, number), f"{kind}{number}") for kind in ("PNG", "JPEG") for number in range(1, 9)]
    dataset = LabeledImages(paths, [0] * 8 + [1] * 8, "ab")
    expected = PREPROCESSING(PIXELS)
    ((images, _),) = evaluation_batches(dataset, 16, PREPROCESSING)
    np.testing.assert_allclose(images[:8], np.broadcast_to(expected, (8, 12, 20, 3)), atol=1e-6)
    np.testing.assert_allclose(images[8:], np.broadcast_to(expected, (8, 12, 20, 3)), atol=0.06)
    # The crop is drawn in the upright image: that of the number in the epoch, whatever its orientation.
    augmentation = Augmentation(crop_area=(0.2, 0.5))
    images, labels = next(iter(balanced_batches(dataset, 2, 8, 3, PREPROCESSING, augmentation)))
    for number, (image, label) in enumerate(zip(images, labels)):
        wanted = PREPROCESSING(augmentation.crop(PIXELS, (3, number)))
        # At sharp edges, decoding a crop differs by what the decoder interpolates.
        np.testing.assert_allclose(image, wanted, atol=1e-6 if label == 0 else 0.5)
        assert np.abs(image - wanted).mean() < 0.02


BROKEN = {
    "empty": (b"", "the file is empty"),
    "text": (b"no image", "in none of these formats"),
    "png cut": (encode("PNG")[:-30], "truncated"),
    "png without its end": (encode("PNG")[:-12], "truncated"),
    "jpeg cut": (encode("JPEG")[: len(encode("JPEG")) * 2 // 3], "Invalid JPEG data"),
    "mpo cut in its first image": (FILES["mpo"][0][: len(encode("JPEG")) // 2], "Invalid JPEG data"),
    "tiff cut": (encode("TIFF")[:600], "TIFF|truncated|none"),
    "webp cut": (encode("WEBP")[:60], "WEBP|none|decod|truncated|webp"),
    "bmp with an odd header": (encode("BMP")[:14] + struct.pack("<I", 3) + encode("BMP")[18:], "header"),
    "bmp without pixels": (encode("BMP")[:18] + bytes(8) + encode("BMP")[26:], "0 x 0 pixels|size|damaged header"),
    "png bomb": (png_header(20_000, 30_000), "20,000 x 30,000 pixels. Expected: at most .*max_pixels"),
    "png without pixels": (png_header(0, 5), "0 x 5 pixels"),
    "pixels of floats": (encode("TIFF", image=Image.new("F", (3, 2))), "mode 'F'"),
}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A path, and batches of two files of which it is the last: whatever it holds when they are made."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "whole").write_bytes(encode("PNG"))
    paths = [str(folder / "whole"), str(folder / "broken file")]
    return paths[1], evaluation_batches(LabeledImages(paths, [0, 1], "ab"), 2, Preprocessing((3, 3), 3))


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_decoded_is_named(name, pipeline, write):
    contents, message = BROKEN[name]
    path, batches = pipeline
    with open(path, "wb") as file:
        file.write(contents)
    with pytest.raises(ValueError, match=rf"Unreadable image. Received: {path} \(.*({message})"):
        read_image(path)
    with pytest.raises(ValueError, match=rf"Unreadable images. Received: {path} \(.*({message})"):
        verify_images([write(encode("PNG")), path])
    # In a graph, after the file was listed.
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"Unreadable image. Received: {path} \(.*({message})"):
        list(batches)


def test_the_limit_of_pixels(write):
    for kind in ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF"):
        path = write(encode(kind))
        assert read_image(path, max_pixels=960).shape[:2] == (24, 40)
        with pytest.raises(ValueError, match="24 x 40 pixels. Expected: at most 959 in all"):
            read_image(path, max_pixels=959)


_REST = [pytest.param(kind, marks=pytest.mark.integration) for kind in ("PNG", "WEBP")]


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["JPEG", *_REST])
def test_the_limit_of_a_dataset_reaches_every_decoder(kind, tmp_path):
    for name in ("a/1", "a/2", "b/1", "b/2"):
        path = tmp_path / f"{name}.{kind.lower()}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(kind))
    crop, message = Augmentation(crop_area=(0.5, 1)), "Unreadable image.*(959|too many)"

    def decode(dataset):
        yield lambda: next(iter(evaluation_batches(dataset, 2, PREPROCESSING)))
        yield lambda: next(iter(balanced_batches(dataset.subset([1, 0]), 2, 2, 0, PREPROCESSING)))
        yield lambda: next(iter(balanced_batches(dataset, 2, 2, 0, PREPROCESSING, crop)))
        yield lambda: Collages(dataset, dataset, tile=8).images
        yield lambda: read_encoded(dataset.images[0], dataset.max_pixels)

    for run in decode(folder(tmp_path, max_pixels=960)):
        run()
    # The folder was listed before its files grew.
    for run in decode(dataclasses.replace(folder(tmp_path), max_pixels=959)):
        with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match=message):
            run()


def test_other_formats_become_png_for_a_saved_model(write):
    np.testing.assert_array_equal(tf.io.decode_png(read_encoded(write(encode("WEBP", lossless=True)))), PIXELS)
    np.testing.assert_array_equal(tf.io.decode_png(read_encoded(write(encode("TIFF", 6)))), PIXELS)
    assert read_encoded(write(encode("JPEG", 6))) == encode("JPEG", 6)


@pytest.mark.integration
def test_a_cut_file_is_named_in_training(write):
    paths = [write(encode("PNG"), str(number)) for number in range(3)] + [write(encode("JPEG")[:500], "cut.jpg")]
    dataset = LabeledImages(paths, [0, 0, 1, 1], "ab")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Unreadable image. Received: \S+cut.jpg"):
        next(iter(balanced_batches(dataset, 2, 2, 0, PREPROCESSING, Augmentation(crop_area=(0.5, 1)))))


def test_damaged_metadata_do_not_matter(read, write):
    contents = encode("PNG", 3)
    place = contents.index(b"eXIf") + 4
    damaged = contents[:place] + b"\xff" * 12 + contents[place + 12 :]
    path = write(damaged[: place - 8] + damaged[place + 4 + struct.unpack(">I", damaged[place - 8 : place - 4])[0] :])
    np.testing.assert_array_equal(read(path), PIXELS[::-1, ::-1])


@pytest.mark.integration
def test_names_that_are_not_utf8(tmp_path):
    for name in (b"a", b"b"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"data", name))
        for file_name in (b"caf\xe9.png", b"[x]*?.png", "ü~.png".encode()):
            with open(os.path.join(os.fsencode(tmp_path), b"data", name, file_name), "wb") as file:
                file.write(encode("PNG"))
    dataset = folder(tmp_path / "data")
    assert len(dataset) == len(folder(os.fsencode(tmp_path / "data"))) == 6
    ((images, _),) = evaluation_batches(dataset, 6, PREPROCESSING)
    np.testing.assert_allclose(images, np.broadcast_to(PREPROCESSING(PIXELS), images.shape), atol=1e-6)
    broken = next(path for path in dataset.encoded_paths if b"caf" in path)
    with open(broken, "wb"):
        pass
    with pytest.raises(ValueError, match=r"caf\\udce9.png \(the file is empty\)"):
        folder(tmp_path / "data")
    with pytest.raises(tf.errors.InvalidArgumentError, match="caf.*the file is empty"):
        next(iter(evaluation_batches(dataset, 6, PREPROCESSING)))


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.png").write_bytes(encode("PNG"))
    dataset = LabeledImages(["~/x.png", b"~/x.png", tmp_path / "x.png"], [0, 0, 0], "a")
    assert set(dataset.images) == {str(tmp_path / "x.png")}
