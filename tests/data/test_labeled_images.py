import dataclasses

import numpy as np
import pytest

from tfdml.data import LabeledImages


def pictures(labels, class_names="abcd"):
    labels = np.asarray(labels)
    # Each picture's value tells which one it is.
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return LabeledImages(images, labels, tuple(class_names), name="toys")


def test_counts_and_shapes():
    dataset = pictures([0, 1, 1, 3])
    assert len(dataset) == 4
    assert dataset.num_classes == 4
    assert dataset.class_counts.tolist() == [1, 2, 0, 1]
    assert dataset.image_shape == (2, 3, 1)
    assert not dataset.holds_paths
    assert dataset.labels.dtype == np.int64
    assert "toys" in repr(dataset)


def test_paths():
    dataset = LabeledImages(["one.png", "two.png"], [0, 1], ("a", "b"))
    assert dataset.holds_paths
    assert dataset.image_shape is None
    assert dataset.subset([1]).images.tolist() == ["two.png"]


def test_subset_relabels_in_the_given_order_and_keeps_the_pictures_order():
    subset = pictures([3, 0, 1, 0, 2]).subset([2, 0])
    assert subset.class_names == ("c", "a")
    assert subset.images[:, 0, 0, 0].tolist() == [1, 3, 4]
    assert subset.labels.tolist() == [1, 1, 0]
    assert subset.name == "toys"


def test_is_frozen():
    with pytest.raises(AttributeError):
        pictures([0]).labels = np.array([1])


@pytest.mark.parametrize(
    "classes, message", [([4], "0..3"), ([-1], "0..3"), ([1, 1], "distinct"), ([0.5], "integers")]
)
def test_subset_refuses(classes, message):
    with pytest.raises(ValueError, match=message):
        pictures([0, 1]).subset(classes)


@pytest.mark.parametrize(
    "images, labels, error, message",
    [
        (np.zeros((2, 4, 4, 1), np.uint8), [0], ValueError, "2 images and 1 labels"),
        (np.zeros((2, 4, 4, 1), np.uint8), [[0], [1]], ValueError, r"shape \(2, 1\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], ValueError, "rank 4"),
        (np.zeros((2, 4, 4, 1), np.float32), [0, 1], TypeError, "uint8"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0.0, 1.0], TypeError, "integers"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 2], ValueError, "from 0 to 2 with 2 class names"),
        (np.zeros((2, 4, 4, 1), np.uint8), [-1, 1], ValueError, "from -1 to 1"),
    ],
)
def test_refuses_what_does_not_fit(images, labels, error, message):
    with pytest.raises(error, match=message):
        LabeledImages(images, labels, ("a", "b"))


def test_published_split_and_roles():
    plain = pictures([0, 1, 2, 3])
    assert plain.num_train_classes is None and plain.roles is None and plain.is_query is None
    published = dataclasses.replace(pictures([0, 1, 2, 2, 3, 3]), num_train_classes=2, roles=[0, 0, 1, 2, 2, 1])
    assert published.num_train_classes == 2
    assert published.roles.dtype == np.int8
    assert published.is_query is None
    test = published.subset([3, 2])
    assert test.num_train_classes is None
    assert test.roles.tolist() == [1, 2, 2, 1]
    assert test.is_query.tolist() == [True, False, False, True]
    assert published.subset([0]).is_query is None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_train_classes": 4}, "num_train_classes=4; expected an integer with 0 < num_train_classes < 4"),
        ({"num_train_classes": 0}, "num_train_classes=0"),
        ({"num_train_classes": 1.5}, "num_train_classes=1.5"),
        ({"roles": [1, 2, 3]}, r"roles with \[3\]; expected 0 \(both\), 1 \(query\) or 2 \(gallery\)"),
        ({"roles": [1, 2]}, r"roles of shape \(2,\); expected \(3,\)"),
    ],
)
def test_refuses_splits_and_roles(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(pictures([0, 1, 1]), **fields)
