"""Each operation against Pillow's, or against scipy's interpolation where Pillow treats borders differently."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from tfdml.data import Augmentation, LabeledImages
from tfdml.data.batches import balanced_share
from tfdml.data.randaugment import OPERATIONS, randaugment

HEIGHT, WIDTH = 24, 31
MAGNITUDES = (0.0, 0.4, 1.0)


def bytes_of(channels=3):
    rng = np.random.default_rng(0)
    # A gradient with noise that leaves both ends of the range free.
    image = np.linspace(40, 180, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) + rng.uniform(-35, 50, (HEIGHT, WIDTH, 3))
    return image[..., :channels].astype(np.uint8)


def change(name, image, magnitude, sign=1.0):
    return np.asarray(OPERATIONS[name](tf.constant(image / 255.0, tf.float32), magnitude, tf.constant(sign))) * 255.0


def posterized(image, magnitude):
    return ImageOps.posterize(image, 8 - round(4 * magnitude))


def solarized(image, magnitude):
    return ImageOps.solarize(image, threshold=int(np.ceil(256 * (1 - magnitude))))


@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("identity", lambda image, magnitude: image),
        ("posterize", posterized),
        ("solarize", solarized),
        ("autocontrast", lambda image, magnitude: ImageOps.autocontrast(image)),
        ("equalize", lambda image, magnitude: ImageOps.equalize(image)),
    ],
)
def test_operations_without_a_direction(name, operation, magnitude):
    image = bytes_of()
    # Pillow rounds autocontrast down to whole gray levels; the others are equal.
    tolerance = 1.01 if name == "autocontrast" else 1e-3
    np.testing.assert_allclose(
        change(name, image, magnitude), np.asarray(operation(Image.fromarray(image), magnitude)), atol=tolerance
    )


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_enhancements(name, magnitude, sign):
    image = bytes_of()
    enhanced = getattr(ImageEnhance, name)(Image.fromarray(image)).enhance(1.0 + sign * 0.9 * magnitude)
    # Pillow rounds twice, to the plain version and to the result; the rounding of the former counts up to 1.9 times.
    np.testing.assert_allclose(change(name.lower(), image, magnitude, sign), np.asarray(enhanced), atol=2.0)


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_geometry(name, sign):
    image, magnitude = bytes_of() / 255.0, 0.6
    angle, slant = np.deg2rad(sign * 30 * magnitude), sign * 0.3 * magnitude
    # Where a point (row, column) relative to the center goes.
    forward = {
        "rotate": [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]],
        "shear_x": [[1, 0], [slant, 1]],
        "shear_y": [[1, slant], [0, 1]],
    }.get(name, np.eye(2))
    shift = {"translate_x": (0, 0.45 * WIDTH), "translate_y": (0.45 * HEIGHT, 0)}.get(name, (0, 0))
    backward = np.linalg.inv(forward)
    center = (np.array([HEIGHT, WIDTH]) - 1) / 2
    offset = center - backward @ (center + sign * magnitude * np.array(shift))
    wanted = np.stack(
        [
            ndimage.affine_transform(image[..., channel], backward, offset, order=1, mode="grid-constant")
            for channel in range(3)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(change(name, image * 255.0, magnitude, sign) / 255.0, wanted, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"autocontrast", "equalize"}))
def test_nothing_changes_at_magnitude_0(name):
    np.testing.assert_allclose(change(name, bytes_of(), 0.0), bytes_of(), atol=1e-3)


@pytest.mark.parametrize("name", OPERATIONS)
def test_flat_small_and_gray_images(name):
    for image in (np.full((HEIGHT, WIDTH, 1), 70.0), np.full((2, 2, 3), 0.0), bytes_of(1)):
        changed = change(name, image, 0.5)
        assert changed.shape == image.shape and np.isfinite(changed).all()
        assert changed.min() >= 0 and changed.max() <= 255.001
        if name in ("autocontrast", "equalize", "color", "sharpness", "contrast") and np.ptp(image) == 0:
            np.testing.assert_allclose(changed, image, atol=1e-3)


def test_operations_of_an_image_follow_one_another():
    images = tf.constant(np.stack([bytes_of(), bytes_of()[::-1]]) / 255.0, tf.float32)
    names = list(OPERATIONS)
    chosen = [["solarize", "rotate"], ["rotate", "equalize"]]
    choices = tf.constant([[names.index(name) for name in row] for row in chosen])
    signs = tf.constant([[1.0, -1.0], [1.0, 1.0]])
    result = tf.function(randaugment)(images, choices, signs, 0.5)
    for image, row, directions, changed in zip(images, chosen, signs, result):
        for name, sign in zip(row, directions):
            image = OPERATIONS[name](image, 0.5, sign)
        np.testing.assert_allclose(changed, image, atol=1e-6)


def test_every_operation_is_drawn_equally_often(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "tfdml.data.augmentation.randaugment", lambda images, choices, *_: drawn.append(choices.numpy()) or images
    )
    augmentation = Augmentation(randaugment_operations=2)
    for number in range(4):
        augmentation(tf.zeros((700, 2, 2, 1)), (3, number))
    counts = np.bincount(np.ravel(drawn), minlength=len(OPERATIONS))
    assert len(counts) == len(OPERATIONS)
    # 400 each on average, with a standard deviation of 19.
    assert 320 < counts.min() and counts.max() < 480


def test_the_seed_determines_the_batches_also_in_parts_and_after_a_resume():
    rng = np.random.default_rng(0)
    dataset = LabeledImages.from_arrays(rng.integers(0, 256, (12, 8, 8, 3), np.uint8), np.repeat(np.arange(4), 3))
    augmentation = Augmentation(horizontal_flip=True, randaugment_operations=2, randaugment_magnitude=0.7)
    plain = Augmentation(horizontal_flip=True)

    def batches(count, augmentation, **options):
        made = balanced_share(dataset, 3, 2, 5, augmentation=augmentation, **options)
        return [images.numpy() for images, _ in made.take(count)]

    whole = batches(3, augmentation)
    np.testing.assert_array_equal(batches(1, augmentation, start_batch=2, part=(1, 2))[0], whole[2][3:])
    assert np.abs(whole[0] - whole[1]).max() > 0.1
    assert np.abs(batches(1, plain)[0] - whole[0]).max() > 0.1
    assert Augmentation.from_config(augmentation.config()) == augmentation != plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"randaugment_operations": -1}, "randaugment_operations=-1"),
        ({"randaugment_operations": 1.5}, "randaugment_operations=1.5"),
        ({"randaugment_operations": 17}, "0 <= randaugment_operations <= 16"),
        ({"randaugment_magnitude": 1.1}, "0 <= randaugment_magnitude <= 1"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
