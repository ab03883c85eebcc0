import os
import pickle

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_sample_image

from tfdml.data import (
    Augmentation,
    BalancedSampler,
    LabeledImages,
    Preprocessing,
    balanced_batches,
    class_pool,
    evaluation_batches,
    folder,
    steps_per_epoch,
)
from tfdml.data.batches import _cropped, balanced_share, evaluation_share
from tfdml.data.image_files import decode_whole

PLAIN = Preprocessing((6, 6), 1)
COUNTS = [5, 3, 8, 2, 4, 6, 4]


@pytest.fixture
def in_memory():
    """Images whose one value is their number, in mixed order of classes."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 6, 1), np.uint8)
    return LabeledImages(images, labels, tuple("abcdefg"))


@pytest.fixture
def in_files(tmp_path, in_memory):
    for image, label in zip(in_memory.images, in_memory.labels):
        place = tmp_path / in_memory.class_names[label]
        place.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(place / f"{image.max():03d}.png")
    return folder(tmp_path)


def numbers(images):
    """Which image each one is."""
    return np.rint(np.asarray(images)[:, 0, 0, 0] * 255).astype(int)


def collect(dataset, count=None):
    batches = list(dataset if count is None else dataset.take(count))
    return [(np.asarray(images), np.asarray(labels)) for images, labels in batches]


def assert_same(first, second):
    assert len(first) == len(second)
    for (first_images, first_labels), (second_images, second_labels) in zip(first, second):
        np.testing.assert_array_equal(first_images, second_images)
        np.testing.assert_array_equal(first_labels, second_labels)


@pytest.mark.parametrize("source", ["in_memory", "in_files"])
def test_balanced_batches_are_the_samplers(source, request):
    dataset = request.getfixturevalue(source)
    batches = balanced_batches(dataset, 3, 2, seed=5, preprocessing=PLAIN)
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY
    assert batches.element_spec[0] == tf.TensorSpec((6, 6, 6, 1), tf.float32)
    assert batches.element_spec[1] == tf.TensorSpec((6,), tf.int64)
    sampler = BalancedSampler(dataset.labels, 3, 2, 5)
    values = (
        dataset.images[:, 0, 0, 0] if source == "in_memory" else [int(path[-7:-4]) for path in dataset.images]
    )
    for number, (images, labels) in enumerate(collect(batches, 80)):
        indices = sampler.batch(number)
        np.testing.assert_array_equal(labels, dataset.labels[indices])
        np.testing.assert_array_equal(numbers(images), np.asarray(values)[indices])


def test_an_epoch_visits_every_class(in_memory):
    batches = balanced_batches(in_memory, 3, 2, seed=0, preprocessing=PLAIN)
    steps = steps_per_epoch(in_memory, 3)
    collected = collect(batches, 5 * steps)
    for epoch in range(5):
        seen = np.concatenate([labels for _, labels in collected[epoch * steps : (epoch + 1) * steps]])
        assert set(seen) == set(range(7))


@pytest.mark.integration
@pytest.mark.parametrize("source, starts", [("in_memory", (1, 66, 100)), ("in_files", (2,))])
def test_going_on_from_a_batch_gives_the_same_images(source, starts, request):
    dataset = request.getfixturevalue(source)
    options = {
        "classes_per_batch": 3,
        "samples_per_class": 3,
        "seed": 1,
        "preprocessing": PLAIN,
        "augmentation": Augmentation(rotation=20, translation=0.1, horizontal_flip=True, crop_area=(0.3, 1)),
    }
    whole = collect(balanced_batches(dataset, **options), starts[-1] + 4)
    for start in starts:
        rest = collect(balanced_share(dataset, **options, start_batch=start), 4)
        assert_same(whole[start : start + 4], rest)


def test_seeds_differ_and_repeat(in_memory):
    first, again, other = (
        collect(balanced_batches(in_memory, 3, 2, seed, PLAIN, Augmentation(translation=0.2)), 5)
        for seed in (0, 0, 1)
    )
    assert_same(first, again)
    assert any((first[index][1] != other[index][1]).any() for index in range(5))


def test_augmentation_changes_each_visit(in_memory):
    plain = collect(balanced_batches(in_memory, 3, 2, 0, PLAIN), 20)
    changed = collect(balanced_batches(in_memory, 3, 2, 0, PLAIN, Augmentation(translation=0.3)), 20)
    for (_, plain_labels), (changed_images, changed_labels) in zip(plain, changed):
        np.testing.assert_array_equal(plain_labels, changed_labels)
        assert changed_images.min() >= 0 and changed_images.max() <= 1
    # Images are of one value and what a shift uncovers is black: the share of light tells how far it went.
    before, after = (
        np.concatenate([images.mean((1, 2, 3)) for images, _ in batches]) for batches in (plain, changed)
    )
    shares = after[before > 0] / before[before > 0]
    assert shares.max() < 1.001 and shares.min() < 0.8
    assert len(np.unique(shares.round(4))) > 0.9 * len(shares)


def test_small_images_can_be_enlarged_and_coloured(in_memory):
    images, _ = next(iter(balanced_batches(in_memory, 2, 2, 0, Preprocessing((9, 12), 3))))
    assert images.shape == (4, 9, 12, 3)


@pytest.mark.parametrize("source", ["in_memory", "in_files"])
def test_evaluation_is_in_order_and_complete(source, request):
    dataset = request.getfixturevalue(source)
    batches = evaluation_batches(dataset, 10, PLAIN)
    assert batches.cardinality() == 4
    collected = collect(batches)
    assert [len(labels) for _, labels in collected] == [10, 10, 10, 2]
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in collected]), dataset.labels)
    found = numbers(np.concatenate([images for images, _ in collected]))
    if source == "in_memory":
        assert found.tolist() == list(range(32))
    else:
        assert found.tolist() == [int(path[-7:-4]) for path in dataset.images]
    assert_same(collected, collect(batches))


@pytest.mark.parametrize("source, projections", [("in_memory", (0, 1, 0)), ("in_files", (0,))])
def test_class_pool(source, projections, request):
    dataset = request.getfixturevalue(source)
    pool = class_pool(dataset, pool_size=4, seed=3, preprocessing=PLAIN, batch_size=10)
    drawn = []
    for projection in projections:
        collected = collect(pool(projection))
        labels = np.concatenate([labels for _, labels in collected])
        assert np.bincount(labels).tolist() == [min(4, count) for count in COUNTS]
        found = numbers(np.concatenate([images for images, _ in collected]))
        assert len(set(found)) == len(found)
        assert collected[0][0].shape == (10, 6, 6, 1)
        drawn.append(found.tolist())
    if len(projections) == 3:
        assert drawn[0] == drawn[2]
        assert drawn[0] != drawn[1]


def test_class_pool_draws_every_image_at_times(in_memory):
    pool = class_pool(in_memory, pool_size=2, seed=0, preprocessing=PLAIN)
    found = {
        number for projection in range(12) for images, _ in pool(projection) for number in numbers(images)
    }
    assert found == set(range(32))


def test_an_image_that_becomes_unreadable_or_vanishes_is_named(in_files):
    path, batches = in_files.images[7], evaluation_batches(in_files, 4, PLAIN)
    for content, message in ((b"no image", "Unreadable image"), (b"", None)):
        with open(path, "wb") as file:
            file.write(content)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message) as error:
            collect(batches)
        assert path in str(error.value)
    os.remove(path)
    with pytest.raises(tf.errors.NotFoundError, match=path):
        collect(batches)


def test_refuses_classes_with_one_image():
    dataset = LabeledImages(np.zeros((5, 6, 6, 1), np.uint8), [0, 0, 1, 2, 2], ("ant", "cat", "dog"))
    with pytest.raises(ValueError, match=r"'cat' \(1\)"):
        balanced_batches(dataset, 2, 2, 0, PLAIN)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda data: balanced_batches(data, 8, 2, 0, PLAIN), "classes_per_batch=8"),
        (lambda data: balanced_batches(data, 2, 0, 0, PLAIN), "samples_per_class=0"),
        (lambda data: balanced_share(data, 2, 2, 0, PLAIN, start_batch=-1), "start_batch=-1"),
        (lambda data: evaluation_batches(data, 0, PLAIN), "batch_size=0"),
        (lambda data: evaluation_batches(data.subset([]), 4, PLAIN), "The dataset is empty"),
        (lambda data: class_pool(data, 0, 0, PLAIN), "pool_size=0"),
        (lambda data: class_pool(data, 1, -1, PLAIN), "seed=-1"),
        (lambda data: class_pool(data.subset([]), 1, 0, PLAIN), "The dataset is empty"),
        (lambda data: class_pool(data, 1, 0, PLAIN)(-1), "projection=-1"),
    ],
)
def test_refuses(make, message, in_memory):
    with pytest.raises(ValueError, match=message):
        make(in_memory)


KINDS = ("444", "420", "grey", "turned", "png")


def encode(kind, folder):
    """Writes an image of a kind and returns its path; "turned" has an EXIF orientation."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8))
    image = image.convert("L") if kind == "grey" else image
    path, options = folder / f"{kind}.{'png' if kind == 'png' else 'jpg'}", {}
    if kind != "png":
        options = {"subsampling": 2 if kind == "420" else 0, "quality": 90}
    if kind == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    image.save(path, **options)
    return str(path)


def test_decoding_no_more_than_the_crop_gives_the_same_pixels(tmp_path):
    # No crop is twice as large: all are decoded in full.
    augmentation, preprocessing = Augmentation(crop_area=(0.16, 1.0)), Preprocessing((40, 50), 3)
    crop = tf.function(lambda path, seed: _cropped(path, preprocessing, augmentation, seed), autograph=False)
    for kind in KINDS:
        path = tf.constant(encode(kind, tmp_path))
        whole = decode_whole(tf.io.read_file(path))
        assert whole.shape == (*((83, 61) if kind == "turned" else (61, 83)), 1 if kind == "grey" else 3)
        for number in range(8):
            expected = preprocessing(augmentation.crop(whole, (0, number))).numpy()
            cropped = crop(path, tf.constant([0, number], tf.int64)).numpy()
            # Chroma of half the resolution is interpolated between columns; the decoder has no more at an edge.
            inner = slice(5, -5) if kind == "420" else slice(None)
            np.testing.assert_allclose(cropped[:, inner], expected[:, inner], atol=1e-6)


def photograph(width, height):
    """One of scikit-learn's two photographs, enlarged if need be."""
    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("subsampling, channels", [(0, 1), (2, 3)])
@pytest.mark.integration
def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(subsampling, channels, tmp_path):
    """Against Pillow: decoded in full, cut out and resized with its anti-aliased bilinear filter."""
    path, size = str(tmp_path / "image.jpg"), (60, 70)
    photograph(1200, 900).save(path, quality=90, subsampling=subsampling)
    preprocessing = Preprocessing(size, channels)
    whole = Image.open(path).convert("RGB" if channels == 3 else "L")
    means = {1: [], 2: [], 4: [], 8: []}
    for augmentation in (Augmentation(crop_area=(0.004, 0.03)), Augmentation(crop_area=(0.03, 1.0))):
        # A function of each augmentation.
        crop = tf.function(lambda seed, it=augmentation: _cropped(path, preprocessing, it, seed))
        for number in range(15):
            window = augmentation.crop_window((900, 1200), (0, number)).numpy()
            ratio = max(ratio for ratio in means if ratio == 1 or (window[2:] // ratio >= size).all())
            top, left, rows, columns = window // ratio * ratio
            box = (left, top, left + columns, top + rows)
            expected = np.asarray(whole.resize(size[::-1], Image.Resampling.BILINEAR, box=box), np.float32)
            cropped = 255 * crop(tf.constant([0, number], tf.int64)).numpy()
            difference = np.abs(cropped - expected.reshape(*size, channels))
            assert np.quantile(difference, 0.99) < 15
            means[ratio].append(difference.mean())
    # Decoded in full, what differs is the decoders, by a grey level.
    for of_ratio in means.values():
        assert np.mean(of_ratio) < 1.8 and np.max(of_ratio) < 3.0


def test_decoding_smaller_does_not_alias(tmp_path):
    # Stripes that are too fine for the result become the grey between them, as without scaled decoding.
    stripes = np.broadcast_to(np.uint8(255 * (np.arange(600) // 2 % 2))[:, None], (600, 600))
    Image.fromarray(stripes).save(tmp_path / "stripes.jpg", quality=100)
    augmentation, preprocessing = Augmentation(crop_area=(0.5, 1.0)), Preprocessing((50, 50), 1)
    path = str(tmp_path / "stripes.jpg")
    crop = tf.function(lambda seed: _cropped(path, preprocessing, augmentation, seed), autograph=False)
    for number in range(5):
        image = crop(tf.constant([0, number], tf.int64)).numpy()
        assert abs(image.mean() - 0.5) < 0.02 and image.std() < 0.03


def test_flips_of_single_images_are_those_of_batches(tmp_path):
    paths = [str(tmp_path / f"{number}.jpg") for number in range(8)]
    for path, pixels in zip(paths, np.random.default_rng(0).integers(0, 256, (8, 30, 40, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(path, quality=95)
    dataset, preprocessing = LabeledImages(paths, np.arange(8) // 2, "abcd"), Preprocessing((20, 24), 3)
    flipping, plain = Augmentation(horizontal_flip=True), Augmentation()
    flipped, kept = (
        collect(balanced_share(dataset, 4, 2, 3, preprocessing, augmentation, start_batch=5), 6)
        for augmentation in (flipping, plain)
    )
    expected = [
        (flipping.after_crop(images, (3, number)).numpy(), labels) for number, (images, labels) in enumerate(kept, 5)
    ]
    assert_same(flipped, expected)
    changed = [(images != images_kept).any((1, 2, 3)) for (images, _), (images_kept, _) in zip(flipped, kept)]
    assert 10 < np.sum(changed) < 38


def test_batches_of_crops(tmp_path):
    """Pixels of the batches are those of decoding, cropping, resizing and flipping one after another."""
    paths = [encode(kind, tmp_path) for kind in KINDS]
    dataset = LabeledImages(paths * 2, [0] * 5 + [1] * 5, "ab")
    augmentation = Augmentation(crop_area=(0.16, 1.0), horizontal_flip=True)
    preprocessing = Preprocessing((33, 45), 3)
    batches = collect(balanced_share(dataset, 2, 5, 3, preprocessing, augmentation, start_batch=5), 2)
    sampler = BalancedSampler(dataset.labels, 2, 5, 3)
    whole = {path: decode_whole(tf.io.read_file(path)) for path in paths}
    for batch, (images, _) in enumerate(batches, start=5):
        batch_paths = dataset.images[sampler.batch(batch)]
        cropped = [
            preprocessing(augmentation.crop(whole[path], (3, 10 * batch + place)))
            for place, path in enumerate(batch_paths)
        ]
        flipped = augmentation.after_crop(tf.stack(cropped), (3, batch)).numpy()
        assert 0 < np.sum((flipped != np.stack(cropped)).any((1, 2, 3))) < 10
        for path, image, expected in zip(batch_paths, images, flipped):
            np.testing.assert_allclose(image, expected, atol=0.2 if "420" in path else 1e-6)


def test_a_random_crop_takes_the_place_of_the_central_one(tmp_path):
    # Of an image with one bright row at the top, nothing would be left in the centre.
    image = np.zeros((40, 20), np.uint8)
    image[:10] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    dataset = LabeledImages([str(tmp_path / "image.png")] * 2, [0, 0], "a")
    preprocessing = Preprocessing((8, 8), 1, short_side=8)
    ((central, _),) = collect(evaluation_batches(dataset, 2, preprocessing))
    assert central.max() < 0.2
    whole = Augmentation(crop_area=(1.0, 1.0), crop_aspect=(0.5, 0.5))
    ((cropped, _),) = collect(balanced_batches(dataset, 1, 2, 0, preprocessing, whole), 1)
    np.testing.assert_allclose(cropped[:, :2], 1.0, atol=0.2)
    np.testing.assert_allclose(cropped[:, 3:], 0.0, atol=0.1)


def test_arrays_are_taken_as_they_are_without_preprocessing(in_memory):
    images, labels = next(iter(balanced_batches(in_memory, 3, 2, 0)))
    assert images.shape == (6, 6, 6, 1)
    np.testing.assert_array_equal(in_memory.labels[numbers(images)], labels)
    with pytest.raises(ValueError, match="preprocessing=None with .*paths.*Expected: a Preprocessing"):
        balanced_batches(LabeledImages(["x.png"] * 4, [0, 0, 1, 1], "ab"), 2, 2, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda data: balanced_batches(data, 2, 2, 0, PLAIN),
        lambda data: evaluation_batches(data, 2, PLAIN),
        lambda data: class_pool(data, 2, 0, PLAIN),
        lambda data: steps_per_epoch(data, 2),
    ],
)
def test_says_how_to_make_a_labeled_set(make):
    images, labels = np.zeros((4, 6, 6, 1), np.uint8), [0, 0, 1, 1]
    for given in ((images, labels), tf.data.Dataset.from_tensor_slices((images, labels))):
        with pytest.raises(TypeError, match=r"LabeledImages.from_arrays\(images, labels\)`, `.from_csv"):
            make(given)


def test_settings_can_be_pickled():
    for setting in (PLAIN, Augmentation(rotation=3)):
        assert pickle.loads(pickle.dumps(setting)) == setting


@pytest.mark.integration
@pytest.mark.parametrize(
    "source, augmentation, indices",
    [
        ("in_memory", None, range(4)),
        ("in_memory", Augmentation(rotation=9, horizontal_flip=True, crop_area=(0.3, 1)), (1,)),
        ("in_files", Augmentation(horizontal_flip=True), (1,)),
        ("in_files", Augmentation(rotation=9, crop_area=(0.3, 1)), (1,)),
    ],
)
def test_the_parts_of_workers_are_the_whole(source, augmentation, indices, request):
    dataset = request.getfixturevalue(source)
    arguments = (dataset, 2, 3, 7, Preprocessing((8, 8), 1), augmentation)
    whole = collect(balanced_share(*arguments, start_batch=2), 5)
    # The four parts have 1, 2, 1 and 2 of the 6 rows.
    for index in indices:
        rows = slice(index * 6 // 4, (index + 1) * 6 // 4)
        expected = [(images[rows], labels[rows]) for images, labels in whole]
        assert_same(collect(balanced_share(*arguments, start_batch=2, part=(index, 4)), 5), expected)


def test_workers_evaluate_every_other_batch(in_memory):
    preprocessing = Preprocessing((8, 8), 1)
    whole = collect(evaluation_batches(in_memory, 5, preprocessing))
    for index in range(2):
        mine = evaluation_share(in_memory, 5, preprocessing, part=(index, 2))
        assert len(mine) == len(whole[index::2])
        assert_same(collect(mine), whole[index::2])
        policy = mine.options().experimental_distribute.auto_shard_policy
        assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.parametrize("part", [(2, 2), (-1, 2)])
def test_refuses_parts_that_do_not_exist(part, in_memory):
    preprocessing = Preprocessing((8, 8), 1)
    with pytest.raises(ValueError, match=r"Received: part=.*. Expected: \(index, count\) with 0 <= index < count"):
        balanced_share(in_memory, 2, 3, 0, preprocessing, part=part)
    with pytest.raises(ValueError, match=r"Received: part=.*. Expected: \(index, count\) with 0 <= index < count"):
        evaluation_share(in_memory, 2, preprocessing, part=part)
