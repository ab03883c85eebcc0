"""A dot is followed: where it goes tells which transform was made."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf

from tfdml.data import Augmentation

SIDE = 65
CENTER = (SIDE - 1) / 2


def dots(x, y, count=200):
    """Images with a soft dot at (x, y) from the centre."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - CENTER
    dot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8.0).astype(np.float32)
    return np.repeat(dot[None, ..., None], count, 0)


def places(images):
    """Centroids (x, y) from the centre."""
    images = np.asarray(images)[..., 0]
    rows, columns = np.mgrid[:SIDE, :SIDE] - CENTER
    mass = images.sum((1, 2))
    return (images * columns).sum((1, 2)) / mass, (images * rows).sum((1, 2)) / mass


def test_nothing_asked_is_nothing_done():
    images = dots(3, 4, 2)
    np.testing.assert_array_equal(Augmentation()(images, (0, 0)), images)


def test_rotation():
    x, y = places(Augmentation(rotation=30)(dots(15, 0), (1, 2)))
    np.testing.assert_allclose(np.hypot(x, y), 15, atol=0.1)
    angles = np.rad2deg(np.arctan2(y, x))
    assert angles.min() < -25 and 25 < angles.max()
    assert np.abs(angles).max() < 30.5


def test_scale():
    x, y = places(Augmentation(scale=0.4)(dots(12, -6), (1, 2)))
    np.testing.assert_allclose(y / x, -0.5, atol=0.03)
    ratios = x / 12
    assert 0.58 < ratios.min() < 0.65 and 1.35 < ratios.max() < 1.42


def test_shear():
    x, y = places(Augmentation(shear=0.5)(dots(0, 10), (1, 2)))
    np.testing.assert_allclose(y, 10, atol=0.1)
    assert -5.2 < x.min() < -4.5 and 4.5 < x.max() < 5.2


def test_translation():
    x, y = places(Augmentation(translation=0.2)(dots(0, 0), (1, 2)))
    largest = 0.2 * SIDE
    for shifts in (x, y):
        assert -largest - 0.2 < shifts.min() < -0.85 * largest
        assert 0.85 * largest < shifts.max() < largest + 0.2
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.25


def test_all_affine_changes_are_one_map_of_the_plane():
    # Three dots fix the map; a fourth must follow it: rotation · scale · shear, then the shift.
    augmentation = Augmentation(rotation=20, scale=0.2, shear=0.2, translation=0.1)
    origin, right, down, both = (
        np.stack(places(augmentation(dots(x, y, 20), (3, 4))), 1) for x, y in [(0, 0), (9, 0), (0, 9), (9, 9)]
    )
    np.testing.assert_allclose(both - origin, (right - origin) + (down - origin), atol=0.1)
    first, second = (right - origin) / 9, (down - origin) / 9
    size = np.linalg.norm(first, axis=1)
    assert (np.abs(size - 1) < 0.21).all()
    # The determinant of rotation and shear is 1: what is left is the scale's square.
    np.testing.assert_allclose(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0], size**2, rtol=0.03)


def test_flip():
    images = np.random.default_rng(0).random((100, 6, 8, 2)).astype(np.float32)
    result = Augmentation(horizontal_flip=True)(images, (0, 0)).numpy()
    flipped = np.array([np.allclose(one, image[:, ::-1]) for one, image in zip(result, images)])
    kept = np.array([np.allclose(one, image) for one, image in zip(result, images)])
    assert (flipped ^ kept).all()
    assert 30 < flipped.sum() < 70


def ramps(height, width):
    """An image that holds its own coordinates as shares of its sides: rows in channel 0, columns in 1."""
    rows, columns = (np.mgrid[:height, :width] + 0.5) / np.reshape([height, width], (2, 1, 1))
    return np.stack([rows, columns], -1).astype(np.float32)


def check_boxes(height_share, width_share, image_aspect):
    area = height_share * width_share
    assert (area < 0.52).all() and area.min() < 0.25 and area.max() > 0.4
    aspect = width_share / height_share * image_aspect
    # A box that would stick out is cut, which changes its aspect; those well inside keep it.
    inside = (height_share < 0.98) & (width_share < 0.98)
    assert (0.72 < aspect[inside]).all() and (aspect[inside] < 1.39).all()
    assert aspect.min() < 0.85 and aspect.max() > 1.15


def test_crop_inside_the_batch():
    height, width = 48, 64
    images = np.repeat(ramps(height, width)[None], 300, 0)
    result = Augmentation(crop_area=(0.2, 0.5))(images, (5, 6)).numpy()
    assert result.shape == images.shape
    # Inner pixels, since those at the border are mixed with the black around an image.
    height_share = (result[:, 40, 30, 0] - result[:, 8, 30, 0]) / 32 * height
    width_share = (result[:, 24, 50, 1] - result[:, 24, 14, 1]) / 36 * width
    check_boxes(height_share, width_share, width / height)
    centre = (result[:, 23:25, 31:33].mean((1, 2)) - 0.5) / (1 - np.stack([height_share, width_share], 1))
    assert (np.abs(centre) < 0.51).all() and centre.min() < -0.4 and centre.max() > 0.4


def test_crop_before_resizing():
    height, width = 120, 160
    augmentation = Augmentation(crop_area=(0.2, 0.5), horizontal_flip=True)
    crop = tf.function(lambda number: augmentation.crop(ramps(height, width), (5, number)))
    crops = [crop(number).numpy() for number in tf.range(100, dtype=tf.int64)]
    assert all(one.min() >= 0 and one.max() <= 1 for one in crops)
    shares = np.array([(one.shape[0] / height, one.shape[1] / width) for one in crops])
    check_boxes(shares[:, 0], shares[:, 1], width / height)
    for one in crops:
        np.testing.assert_allclose(np.diff(one[:, 0, 0]), 1 / height, rtol=1e-3)
        np.testing.assert_allclose(np.diff(one[0, :, 1]), 1 / width, rtol=1e-3)
    # The second step of the same augmentation only flips.
    images = np.repeat(ramps(8, 8)[None], 20, 0)
    rest = augmentation.after_crop(images, (5, 6))
    np.testing.assert_allclose(rest, Augmentation(horizontal_flip=True)(images, (5, 6)))
    np.testing.assert_array_equal(Augmentation().crop(images[0], (5, 6)), images[0])


def test_follows_from_the_seed():
    images = dots(5, 7, 4)
    augmentation = Augmentation(
        rotation=20, scale=0.1, translation=0.1, horizontal_flip=True, crop_area=(0.5, 1)
    )
    first, again = augmentation(images, (3, 8)), augmentation(images, (3, 8))
    np.testing.assert_array_equal(first, again)
    for other in ((3, 9), (4, 8)):
        assert np.abs(first - augmentation(images, other)).max() > 0.1
    assert np.abs(first[0] - first[1]).max() > 0.1


def test_config_round_trip():
    augmentation = Augmentation(rotation=5, crop_area=(0.16, 1), horizontal_flip=True)
    assert Augmentation.from_config(augmentation.config()) == augmentation
    assert augmentation != Augmentation()


@pytest.mark.parametrize(
    "options",
    [
        {"rotation": -1},
        {"rotation": 181},
        {"scale": 1.0},
        {"shear": 3.0},
        {"translation": 1.5},
        {"crop_area": (0.0, 1.0)},
        {"crop_area": (0.5, 1.1)},
        {"crop_area": (0.8, 0.5)},
        {"crop_aspect": (2.0, 1.0)},
        {"crop_aspect": (0.0, 1.0)},
    ],
)
def test_refuses(options):
    ((name, _),) = options.items()
    with pytest.raises(ValueError, match=f"{name}="):
        Augmentation(**options)


def photographs(count=60):
    return np.random.default_rng(0).uniform(0.3, 0.6, (1, 9, 7, 3)).repeat(count, 0).astype(np.float32)


def gray(images):
    return images @ np.array([0.299, 0.587, 0.114])


def test_brightness():
    images = photographs()
    factors = np.asarray(Augmentation(brightness=0.4)(images, (1, 2))) / images
    np.testing.assert_allclose(factors, factors[:, :1, :1, :1] * np.ones_like(factors), rtol=1e-5)
    assert 0.6 <= factors.min() < 0.65 and 1.35 < factors.max() <= 1.4
    # What would be brighter than white is white.
    assert np.asarray(Augmentation(brightness=1.0)(images * 1.6, (1, 2))).max() == 1.0


def test_contrast():
    images = photographs()
    changed = np.asarray(Augmentation(contrast=0.5)(images, (1, 2)))
    means = gray(images).mean(axis=(1, 2))
    np.testing.assert_allclose(gray(changed).mean(axis=(1, 2)), means, atol=1e-6)
    factors = (changed - means[:, None, None, None]) / (images - means[:, None, None, None])
    assert np.ptp(factors.reshape(len(images), -1), axis=1).max() < 1e-2
    assert 0.5 <= np.median(factors, axis=(1, 2, 3)).min() < 0.56 and 1.44 < factors.max() < 1.51


def test_saturation():
    images = photographs()
    changed = np.asarray(Augmentation(saturation=0.9)(images, (1, 2)))
    np.testing.assert_allclose(gray(changed), gray(images), atol=1e-6)
    spread = (changed - gray(changed)[..., None]) / (images - gray(images)[..., None])
    factors = np.median(spread, axis=(1, 2, 3))
    assert 0.1 <= factors.min() < 0.2 and 1.8 < factors.max() < 1.91


def test_hue():
    images = photographs()
    changed = np.asarray(Augmentation(hue=0.1)(images, (1, 2)))
    # In the words of Python's own conversion: luma stays, and the angle of the color turns.
    before, after = (np.array([colorsys.rgb_to_yiq(*pixel) for pixel in of[:, 0, 0]]) for of in (images, changed))
    np.testing.assert_allclose(after[:, 0], before[:, 0], atol=2e-3)
    turns = np.angle((after[:, 1] + 1j * after[:, 2]) / (before[:, 1] + 1j * before[:, 2])) / (2 * np.pi)
    assert -0.105 < turns.min() < -0.085 and 0.085 < turns.max() < 0.105


def test_gray_images_keep_their_channel():
    images = photographs()[..., :1]
    np.testing.assert_array_equal(Augmentation(hue=0.5, saturation=1.0)(images, (1, 2)), images)
    assert np.asarray(Augmentation(contrast=0.5, brightness=0.5)(images, (1, 2))).shape == images.shape


def test_erasing():
    images = np.zeros((400, 40, 40, 3), np.float32) - 1.0
    erased = np.asarray(Augmentation(erasing=0.7, erasing_area=(0.1, 0.2))(images, (1, 2)))
    masks = (erased >= 0).all(-1)
    is_erased = masks.any(axis=(1, 2))
    assert 0.62 < is_erased.mean() < 0.78
    for mask, image in zip(masks[is_erased], erased[is_erased]):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert mask.sum() == len(rows) * len(columns)
        assert 1 / 3.6 < len(rows) / len(columns) < 3.6
        assert np.ptp(image[mask].reshape(-1, 3), axis=0).max() == 0.0
    shares = masks[is_erased].mean(axis=(1, 2))
    assert 0.08 < shares.min() < 0.115 and 0.185 < shares.max() < 0.22
    # Up to every side.
    where = masks.any(axis=0)
    assert where[0].any() and where[-1].any() and where[:, 0].any() and where[:, -1].any() and where[2:-2, 2:-2].all()


def test_colors_follow_the_seed_and_geometry_is_as_without_them():
    images = photographs(8)
    colors = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1, "erasing": 0.5}
    augmentation = Augmentation(horizontal_flip=True, rotation=10, **colors)
    one, again = augmentation(images, (3, 4)), tf.function(augmentation)(tf.constant(images), (3, 4))
    np.testing.assert_allclose(one, again, atol=1e-6)
    assert np.abs(np.asarray(one) - np.asarray(augmentation(images, (3, 5)))).max() > 0.1
    geometry = Augmentation(horizontal_flip=True, rotation=10)
    np.testing.assert_allclose(
        Augmentation(**colors)(geometry(images, (3, 4)), (3, 4)), augmentation(images, (3, 4)), atol=1e-6
    )
    assert Augmentation.from_config(augmentation.config()) == augmentation


@pytest.mark.parametrize(
    "options",
    [{"brightness": 1.1}, {"contrast": -0.1}, {"saturation": 2}, {"hue": 0.6}, {"erasing": 1.5},
     {"erasing_area": (0.0, 0.2)}, {"erasing_area": (0.3, 0.2)}],
)  # fmt: skip
def test_colors_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Augmentation(**options)
