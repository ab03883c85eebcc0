"""Preprocessing and batches in another range than 0–1."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml import data


@pytest.fixture
def colors():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 6, 6, 3)).astype(np.uint8)
    return data.LabeledImages(images, np.repeat(np.arange(4), 2), ["a", "b", "c", "d"])


def test_black_and_white():
    image = np.stack([np.zeros((4, 4, 3)), np.full((4, 4, 3), 255)]).astype(np.uint8)
    values = data.Preprocessing((4, 4), 3, input_range=(-1, 1))(image)
    np.testing.assert_array_equal(values[:, 0, 0, 0], [-1.0, 1.0])
    caffe = data.Preprocessing((2, 2), 3, input_range="caffe")(image)
    np.testing.assert_allclose(caffe[1, 0, 0], 255 - np.array([103.939, 116.779, 123.68]), rtol=1e-5)


def test_the_range_is_part_of_the_configuration():
    for input_range in ((0, 1), (0, 255), "torch", "tf"):
        preprocessing = data.Preprocessing((4, 4), 3, input_range=input_range)
        assert data.Preprocessing.from_config(preprocessing.config()) == preprocessing
        assert eval(repr(preprocessing), {"Preprocessing": data.Preprocessing}) == preprocessing
    assert data.Preprocessing((4, 4), 3, input_range=(0, 255)) != data.Preprocessing((4, 4), 3)
    # What older versions wrote has no range.
    assert data.Preprocessing.from_config({"size": [4, 4], "channels": 3}) == data.Preprocessing((4, 4), 3)
    with pytest.raises(ValueError, match="for color images"):
        data.Preprocessing((4, 4), 1, input_range="caffe")


@pytest.mark.integration
def test_batches_have_it_and_what_augmentation_uncovers_is_black(colors):
    unit, signed = (data.Preprocessing((6, 6), 3, input_range=given) for given in ((0, 1), (-1, 1)))
    shift = data.Augmentation(translation=0.5)
    plain, _ = next(iter(data.balanced_batches(colors, 2, 2, 0, unit, shift)))
    assert (plain.numpy() == 0.0).all(axis=-1).any()
    for preprocessing, options in ((signed, {}), (unit, {"input_range": (-1, 1)})):
        batch, _ = next(iter(data.balanced_batches(colors, 2, 2, 0, preprocessing, shift, **options)))
        np.testing.assert_allclose(batch, 2.0 * plain - 1.0, atol=1e-6)
        batch, _ = next(iter(data.evaluation_batches(colors, 8, preprocessing, **options)))
        np.testing.assert_allclose(batch, colors.images / 127.5 - 1.0, atol=1e-5)
        batch, _ = next(iter(data.class_pool(colors, 1, 0, preprocessing, **options)(0)))
        assert batch.numpy().min() < -0.5


@pytest.mark.parametrize("dtype", ["int32", "int64", "int8", "uint32"])
def test_integers_of_an_unknown_range_are_refused(dtype):
    with pytest.raises(ValueError, match=f"images of type {dtype}. Expected: uint8"):
        data.Preprocessing((4, 4), 3)(np.ones((4, 4, 3), dtype))


def test_what_is_not_an_image_is_refused():
    preprocessing = data.Preprocessing((4, 4), 3)
    for shape in ((4, 4, 5), (0, 4, 3), (4, 0, 1), (4, 4, 0)):
        with pytest.raises(ValueError, match="These are not images"):
            preprocessing(np.zeros(shape, np.uint8))
        in_graph = tf.function(preprocessing, input_signature=[tf.TensorSpec([None, None, None], tf.uint8)])
        with pytest.raises(tf.errors.InvalidArgumentError, match="These are not images"):
            in_graph(np.zeros(shape, np.uint8))
