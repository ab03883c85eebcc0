import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfdml.data import Preprocessing


def random_image(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, kind)
    return buffer.getvalue()


def test_same_size_is_only_scaled():
    image = random_image(5, 7, 3)
    result = Preprocessing((5, 7), 3)(image)
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, image / 255.0, rtol=1e-6)


def test_floats_are_taken_as_they_are():
    image = (random_image(5, 7, 3) / 255.0).astype(np.float32)
    np.testing.assert_array_equal(Preprocessing((5, 7), 3)(image), image)
    np.testing.assert_allclose(Preprocessing((5, 7), 3)(image.astype(np.float64)), image, rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour(channels):
    image = random_image(4, 4, 3)
    grey = Preprocessing((4, 4), 1)(image)
    expected = np.asarray(Image.fromarray(image).convert("L"))
    np.testing.assert_allclose(grey[..., 0] * 255, expected, atol=1.01)
    repeated = Preprocessing((4, 4), 3)(image[..., :1])
    np.testing.assert_allclose(repeated, np.repeat(image[..., :1], 3, -1) / 255.0, rtol=1e-6)


@pytest.mark.parametrize("given", [2, 4])
def test_transparency_is_laid_over_black(given):
    image = random_image(4, 4, given)
    result = Preprocessing((4, 4), 1 if given == 2 else 3)(image)
    np.testing.assert_allclose(result, (image[..., :-1] / 255.0) * (image[..., -1:] / 255.0), rtol=1e-5)


def test_resizing_averages_as_pillow_does():
    smooth = np.asarray(Image.fromarray(random_image(6, 6)).resize((40, 48), Image.Resampling.BICUBIC))
    result = Preprocessing((12, 10), 1)(smooth[..., None])
    expected = np.asarray(Image.fromarray(smooth).resize((10, 12), Image.Resampling.BILINEAR))
    assert result.shape == (12, 10, 1)
    np.testing.assert_allclose(result[..., 0] * 255, expected, atol=1.5)


def triangle_filter(size, scaled, kept):
    """The weights of an anti-aliased bilinear resize along one axis, one row for each of the central pixels kept."""
    support = max(1.0, size / scaled)
    first = (scaled - kept) // 2
    weights = np.zeros((kept, size))
    for row in range(kept):
        center = (first + row + 0.5) * size / scaled
        for pixel in range(size):
            weights[row, pixel] = max(0.0, 1.0 - abs(pixel + 0.5 - center) / support)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("shape", [(3, 40, 61, 3), (1, 9, 50, 1), (2, 13, 11, 4), (37, 23, 2), (31, 31, 3)])
@pytest.mark.parametrize("short_side", [None, 26])
def test_resizing_is_a_product_with_triangles(shape, short_side):
    images, size = random_image(*shape), (17, 22)
    height, width = shape[-3:-1]
    shortest = min(height, width)
    scaled = size if short_side is None else [(2 * side * 26 + shortest) // (2 * shortest) for side in (height, width)]
    rows, columns = triangle_filter(height, scaled[0], size[0]), triangle_filter(width, scaled[1], size[1])
    shown = images / 255.0
    if shape[-1] in (2, 4):
        shown = shown[..., :-1] * shown[..., -1:]
    expected = np.einsum("yh,xw,...hwc->...yxc", rows, columns, shown)
    preprocessing = Preprocessing(size, 1 if shape[-1] < 3 else 3, short_side)
    np.testing.assert_allclose(preprocessing(images), expected, atol=5e-5)
    np.testing.assert_allclose(preprocessing((images / 255.0).astype(np.float32)), expected, atol=5e-5)
    unknown = tf.function(preprocessing, input_signature=[tf.TensorSpec([None] * len(shape), tf.uint8)])
    np.testing.assert_allclose(unknown(images), expected, atol=5e-5)


@pytest.mark.parametrize("short_side", [None, 14])
def test_resizing_has_a_gradient(short_side):
    images = tf.constant(random_image(2, 25, 30, 3) / 255.0, tf.float32)
    weights = tf.constant(np.random.default_rng(1).normal(size=(2, 9, 12, 3)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        result = tf.reduce_sum(weights * Preprocessing((9, 12), 3, short_side)(images))
    # Linear, and nothing is clipped: the product with the gradient is the value.
    np.testing.assert_allclose(tf.reduce_sum(tape.gradient(result, images) * images), result, rtol=1e-4)


def test_result_stays_in_range_when_resized():
    image = np.full((9, 9, 1), 255, np.uint8)
    result = Preprocessing((5, 5), 1)(image).numpy()
    assert 0.999 < result.min() <= result.max() <= 1.0


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (31, 47)])
def test_short_side_then_central_crop(shape):
    # A ramp along the longer side: the middle of the result is the middle of the image.
    ramp = np.linspace(0, 255, max(shape)).astype(np.uint8)
    image = np.broadcast_to(ramp[None, :] if shape[1] > shape[0] else ramp[:, None], shape)[..., None]
    result = Preprocessing((16, 16), 1, short_side=20)(image).numpy()[..., 0]
    assert result.shape == (16, 16)
    assert abs(result.mean() - 0.5) < 0.02
    # 16 of the 20 pixels of the short side, in the scale of the long side.
    span = (result.max() - result.min()) * max(shape) / min(shape)
    assert abs(span - 15 / 20) < 0.04


def test_batches_equal_single_images():
    images = random_image(3, 20, 30, 3)
    for preprocessing in (Preprocessing((8, 9), 1), Preprocessing((8, 9), 3, short_side=10)):
        batch = preprocessing(images)
        for one, image in zip(batch, images):
            np.testing.assert_allclose(one, preprocessing(image), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_encoded_png_inside_a_graph(channels):
    preprocessing = Preprocessing((6, 6), channels)
    in_graph = tf.function(
        preprocessing.from_encoded, input_signature=[tf.TensorSpec((), tf.string)]
    ).get_concrete_function()
    assert in_graph.output_shapes == (6, 6, channels)
    for shape in [(9, 8), (9, 8, 2), (9, 8, 3), (9, 8, 4)]:
        image = random_image(*shape)
        expected = preprocessing(image if image.ndim == 3 else image[..., None])
        np.testing.assert_allclose(in_graph(tf.constant(encoded(image))), expected, atol=1e-6)


def test_encoded_jpeg():
    image = np.full((16, 16, 3), 128, np.uint8)
    result = Preprocessing((16, 16), 3).from_encoded(encoded(image, "JPEG"))
    np.testing.assert_allclose(result, image / 255.0, atol=0.02)


def test_config_round_trip():
    preprocessing = Preprocessing((6, 7), 3, short_side=9)
    again = Preprocessing.from_config(preprocessing.config())
    assert again == preprocessing
    assert hash(again) == hash(preprocessing)
    assert preprocessing.image_shape == (6, 7, 3)
    assert preprocessing != Preprocessing((6, 7), 3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"size": 32, "channels": 1}, "size=32"),
        ({"size": (32, 0), "channels": 1}, "size=0"),
        ({"size": (32, 32), "channels": 2}, "channels=2"),
        ({"size": (32, 40), "channels": 3, "short_side": 36}, "short_side=36"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**arguments)


def test_refuses_what_is_no_image():
    preprocessing = Preprocessing((4, 4), 1)
    with pytest.raises(ValueError, match=r"\(4, 4\)"):
        preprocessing(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="1 to 4 channels"):
        preprocessing(np.zeros((4, 4, 5), np.uint8))
