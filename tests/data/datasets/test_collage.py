"""Collages: what is where, what follows from the seed, and that no class of one split occurs in another."""

import cifar_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tfdml import data
from tfdml.data import Collages, LabeledImages, Preprocessing, load, split_classes

SIDE = 4


def toys(num_classes, first, per_class=3, side=SIDE, channels=1):
    """Images of one value, which tells the class: `first` plus the label."""
    labels = np.tile(np.arange(num_classes), per_class)
    images = np.zeros((len(labels), side, side, channels), np.uint8) + (first + labels).astype(np.uint8)[
        :, None, None, None
    ]
    return LabeledImages(images, labels, tuple(f"{first + label}" for label in range(num_classes)))


def tiles_of(images):
    """The four tiles of each collage, in the order of the places: (n, 4, side, side, channels)."""
    top, bottom = np.split(images, 2, axis=1)
    return np.stack([tile for half in (top, bottom) for tile in np.split(half, 2, axis=2)], axis=1)


def values_of(collages):
    """The value of each tile, `(n, 4)`: tiles are of one value."""
    tiles = tiles_of(collages.images)
    np.testing.assert_array_equal(tiles, np.broadcast_to(tiles[:, :, :1, :1, :1], tiles.shape))
    return tiles[:, :, 0, 0, 0]


def test_one_target_and_three_backgrounds():
    collages = Collages(toys(10, 0, per_class=40), toys(5, 100), tile=SIDE, per_target=2)
    assert len(collages) == 800 and collages.image_shape == collages.images.shape[1:] == (8, 8, 1)
    values = values_of(collages)
    target = np.take_along_axis(values, collages.places[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(target, collages.labels)
    assert (np.sum(values >= 100, axis=1) == 3).all() and values.max() < 105
    np.testing.assert_array_equal(collages.labels, np.repeat(np.tile(np.arange(10), 40), 2))
    assert collages.class_names == tuple(map(str, range(10)))


def test_places_and_backgrounds_are_uniform():
    collages = Collages(toys(1, 0, per_class=4000), toys(5, 100), tile=SIDE)
    counts = np.bincount(collages.places, minlength=4)
    assert (abs(counts - 1000) < 5 * np.sqrt(4000 * 3 / 16)).all()
    values = values_of(collages)
    for place in range(4):
        counts = np.bincount(values[:, place][values[:, place] >= 100] - 100, minlength=5)
        assert (abs(counts - 600) < 5 * np.sqrt(3000 * 4 / 25)).all()


def test_follow_from_the_seed_and_the_number():
    targets, backgrounds = toys(3, 0, per_class=20), toys(5, 100)
    images = Collages(targets, backgrounds, tile=SIDE, seed=3).images
    np.testing.assert_array_equal(Collages(targets, backgrounds, tile=SIDE, seed=3).images, images)
    assert (Collages(targets, backgrounds, tile=SIDE, seed=4).images != images).any()
    first = LabeledImages(targets.images[:7], targets.labels[:7], targets.class_names)
    np.testing.assert_array_equal(Collages(first, backgrounds, tile=SIDE, seed=3).images, images[:7])


def test_distilled_are_the_targets_alone():
    targets = toys(3, 0)
    collages = Collages(targets, toys(5, 100), tile=SIDE, per_target=2, distilled=True)
    assert collages.image_shape == (SIDE, SIDE, 1)
    np.testing.assert_array_equal(collages.images, targets.images)
    np.testing.assert_array_equal(collages.labels, targets.labels)
    with pytest.raises(ValueError, match="one tile"):
        _ = collages.places


@settings(deadline=None, max_examples=40)
@given(
    targets=st.integers(4, 40),
    backgrounds=st.integers(4, 20),
    validation=st.floats(0.15, 0.3),
    test=st.floats(0.15, 0.4),
    seed=st.none() | st.integers(0, 1000),
    fold=st.none() | st.integers(0, 1),
)
def test_splits_share_neither_targets_nor_backgrounds(targets, backgrounds, validation, test, seed, fold):
    collages = Collages(toys(targets, 0), toys(backgrounds, 100), tile=SIDE)
    splits = split_classes(collages, validation, test, seed, fold=fold, folds=2)
    alone = split_classes(toys(targets, 0), validation, test, seed, fold=fold, folds=2)
    seen = []
    for split, of_targets in zip(splits, alone):
        values = values_of(split)
        seen.append(set(values.ravel().tolist()))
        assert split.class_names == of_targets.class_names
        np.testing.assert_array_equal(split.labels, of_targets.labels)
        target = np.take_along_axis(values, split.places[:, None], axis=1)[:, 0]
        np.testing.assert_array_equal(target, of_targets.images[:, 0, 0, 0])
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    names = [set(split.backgrounds.class_names) for split in splits]
    assert sum(map(len, names)) == len(set.union(*names)) == backgrounds


def test_splits_keep_the_options():
    options = {"tile": 8, "per_target": 2, "seed": 5, "name": "mine"}
    for distilled in (False, True):
        splits = split_classes(Collages(toys(10, 0), toys(10, 100), **options, distilled=distilled), validation=None)
        assert splits.validation is None
        for split in (splits.train, splits.test):
            assert {name: getattr(split, name) for name in options} == options
            assert split.distilled == distilled


def test_too_few_backgrounds_to_split():
    collages = Collages(toys(10, 0), toys(2, 100), tile=SIDE)
    with pytest.raises(ValueError, match="backgrounds cannot be split.*validation split has no classes.*2 classes"):
        split_classes(collages, validation=0.2, test=0.3)


def test_subset_takes_collages_as_they_are():
    collages = Collages(toys(4, 0), toys(5, 100), tile=SIDE)
    subset = collages.subset([2])
    np.testing.assert_array_equal(subset.images, collages.images[collages.labels == 2])
    assert subset.class_names == ("2",)


def test_nothing_is_put_together_before_it_is_asked_for():
    collages = Collages(toys(4, 0), toys(5, 100), tile=SIDE)
    assert len(collages) == 12 and not collages.holds_paths and "8x8x1" in repr(collages)
    assert collages.class_counts.tolist() == [3] * 4
    split_classes(collages)
    assert "images" not in vars(collages)
    assert collages.images is collages.images


def test_tiles_of_other_sizes_and_channels():
    """Grey becomes colour where the other set is in colour; every image is stretched to the tile."""
    generator = np.random.default_rng(0)
    grey = LabeledImages(generator.integers(0, 256, (6, 5, 7, 1), dtype=np.uint8), np.arange(6), "abcdef")
    colour = LabeledImages(generator.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8), np.arange(3), "xyz")
    collages = Collages(grey, colour, tile=8)
    assert collages.image_shape == (16, 16, 3)
    tiles = tiles_of(collages.images)
    expected = np.rint(255 * Preprocessing((8, 8), 3)(grey.images).numpy())
    np.testing.assert_array_equal(tiles[np.arange(6), collages.places], expected)
    originals = {image.tobytes() for image in colour.images}
    others = [tile.tobytes() for row, place in zip(tiles, collages.places) for tile in np.delete(row, place, axis=0)]
    assert set(others) <= originals


def test_images_in_files(tmp_path):
    for value, name in ((10, "a"), (20, "b")):
        (tmp_path / name).mkdir()
        Image.new("L", (6, 6), value).save(tmp_path / name / "1.png")
    collages = Collages(data.folder(tmp_path), toys(2, 100), tile=SIDE)
    assert collages.images.shape == (2, 8, 8, 3)
    np.testing.assert_array_equal(values_of(collages)[np.arange(2), collages.places], [10, 20])


def test_batches_of_collages():
    collages = Collages(toys(8, 0), toys(5, 100), tile=SIDE)
    images, labels = next(iter(data.balanced_batches(collages, 4, 2, 0, Preprocessing((8, 8), 1))))
    assert images.shape == (8, 8, 8, 1)
    tiles = np.rint(255 * tiles_of(images.numpy())[:, :, 0, 0, 0])
    np.testing.assert_array_equal(np.sort(tiles, axis=1)[:, 0], labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tile": 0}, "tile=0"), ({"per_target": 0}, "per_target=0"), ({"seed": -1}, "seed=-1")],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Collages(toys(2, 0), toys(2, 100), **options)


@pytest.mark.parametrize(("targets", "backgrounds"), [(0, 2), (2, 0)])
def test_refuses_an_empty_set(targets, backgrounds):
    with pytest.raises(ValueError, match="Collages need (targets|backgrounds)"):
        Collages(toys(targets, 0), toys(backgrounds, 100))


def test_refuses_datasets_without_images():
    features = data.LabeledFeatures(np.zeros((2, 3), "float32"), [0, 1], ("a", "b"))
    with pytest.raises(TypeError, match="Received: backgrounds of type LabeledFeatures. Expected: LabeledImages"):
        Collages(toys(2, 0), features, tile=SIDE)


def test_by_name(tmp_path):
    options = {"characters": "ABCDEFGHIJ0123", "size": 16, "cache_dir": str(tmp_path)}
    collages = load("collage", target_options=options, tile=16)
    # The digits are a class of both.
    assert "".join(collages.class_names) == "ABCDEFGHIJ"
    assert collages.backgrounds.class_names == tuple("0123456789")
    assert collages.images.shape[1:] == (32, 32, 1)
    assert load("collage", target_options=options, tile=16, distilled=True).images.shape[1:] == (16, 16, 1)
    swapped = load("collage", targets="digits", backgrounds="glyphs", background_options={**options, "size": 8})
    assert len(swapped.class_names) == 10 and "".join(swapped.backgrounds.class_names) == "ABCDEFGHIJ0123"[:10]


def test_by_name_with_the_same_classes():
    with pytest.raises(ValueError, match="all classes in common. Received: targets='digits', backgrounds='digits'"):
        load("collage", targets="digits", backgrounds="digits")


@pytest.fixture
def cifar_folder(tmp_path):
    return cifar_files.write_cifar100(tmp_path / "cifar-100-binary")


@pytest.mark.parametrize("test", [0.4, "published"])
def test_cifar_collage_splits_every_superclass(cifar_folder, test):
    """Two classes of each super-class to train, one to validate, two to test; targets and backgrounds alike."""
    shared = ("people", "insects", "fish", "trees")
    collages = load("cifar_collage", path=cifar_folder, shared=shared)
    splits = split_classes(collages, validation=0.2, test=test)
    used = []
    for split, of_each in zip(splits, (2, 1, 2)):
        for images, number in ((split.targets, 16), (split.backgrounds, 4)):
            labels = [cifar_files.CLASSES.index(name) for name in images.class_names]
            used += labels
            names = [cifar_files.SUPERCLASSES[cifar_files.superclass_of(label)] for label in labels]
            assert len(set(names)) == number and all(names.count(name) == of_each for name in names)
            assert set(names) <= set(shared) if number == 4 else not set(names) & set(shared)
    assert sorted(used) == list(range(100))
    assert splits.train.images.shape == (32 * 3, 64, 64, 3)


def test_cifar_collage_shows_the_class_it_tells(cifar_folder):
    collages = load("cifar_collage", path=cifar_folder, part="test")
    tiles = tiles_of(collages.images)[np.arange(len(collages)), collages.places]
    for tile, label in zip(tiles, collages.labels):
        assert collages.class_names[label] == cifar_files.CLASSES[tile[0, 0, 0]]
    distilled = load("cifar_collage", path=cifar_folder, part="test", distilled=True)
    np.testing.assert_array_equal(distilled.images, tiles)
    assert distilled.name == "cifar_collage"


def test_cifar_collage_with_an_unknown_superclass(cifar_folder):
    with pytest.raises(ValueError, match="Unknown super-class. Received: 'tree'.*Did you mean 'trees'"):
        load("cifar_collage", path=cifar_folder, shared=["tree"])
