import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tfdml import data
from tfdml.data import load


def test_names():
    collages, files = ["cifar_collage", "collage"], ["cifar10", "cifar100", "csv", "fashion_mnist", "folder", "mnist"]
    published = ["cars196", "cub", "in_shop", "sop"]
    assert data.names() == sorted(["digits", "emoji", "features", "glyphs", *collages, *files, *published])


def test_digits():
    dataset = load("digits")
    original = load_digits()
    assert dataset.images.shape == (1797, 8, 8, 1)
    assert dataset.images.max() == 255
    np.testing.assert_allclose(dataset.images[..., 0] / 255 * 16, original.images, atol=0.04)
    np.testing.assert_array_equal(dataset.labels, original.target)
    assert dataset.class_names == tuple("0123456789")


def test_options_reach_the_data_set(tmp_path):
    assert load("glyphs", characters="ab", size=16, cache_dir=tmp_path).image_shape == (16, 16, 1)
    (tmp_path / "images" / "a").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "a" / "1.png")
    assert load("folder", path=tmp_path / "images").class_names == ("a",)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"'glyfs'.*'digits'.*Did you mean 'glyphs'\?"):
        load("glyfs")


def test_missing_option():
    with pytest.raises(ValueError, match=r"'folder' needs the option 'path'\. Received: none"):
        load("folder")
