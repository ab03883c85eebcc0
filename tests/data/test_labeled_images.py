import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tfdml.data import LabeledImages


def images(labels, class_names="abcd"):
    labels = np.asarray(labels)
    # Each image's value tells which one it is.
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 1), np.uint8)
    return LabeledImages(images, labels, tuple(class_names), name="toys")


def test_counts_and_shapes():
    dataset = images([0, 1, 1, 3])
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


def test_subset_relabels_in_the_given_order_and_keeps_the_images_order():
    subset = images([3, 0, 1, 0, 2]).subset([2, 0])
    assert subset.class_names == ("c", "a")
    assert subset.images[:, 0, 0, 0].tolist() == [1, 3, 4]
    assert subset.labels.tolist() == [1, 1, 0]
    assert subset.name == "toys"


def test_is_frozen():
    with pytest.raises(AttributeError):
        images([0]).labels = np.array([1])


@pytest.mark.parametrize(
    "classes, message", [([4], "0..3"), ([-1], "0..3"), ([1, 1], "distinct"), ([0.5], "integers")]
)
def test_subset_refuses(classes, message):
    with pytest.raises(ValueError, match=message):
        images([0, 1]).subset(classes)


@pytest.mark.parametrize(
    "images, labels, error, message",
    [
        (np.zeros((2, 4, 4, 1), np.uint8), [0], ValueError, "2 images and 1 labels"),
        (np.zeros((2, 4, 4, 1), np.uint8), [[0, 1], [1, 0]], ValueError, r"shape \(2, 2\)"),
        (np.zeros((2, 4, 4), np.uint8), [0, 1], ValueError, "rank 4"),
        (np.zeros((2, 4, 4, 1), np.float32), [0, 1], TypeError, "uint8"),
        (np.full((2, 4, 4, 1), np.nan), [0, 1], TypeError, "32 of the values are not finite"),
        (np.full((2, 4, 4, 1), 0.5), [0, 1], TypeError, "np.rint"),
        (np.zeros((2, 4, 0, 1), np.uint8), [0, 1], ValueError, r"must have pixels.*\(2, 4, 0, 1\)"),
        (np.zeros((2, 4, 4, 5), np.uint8), [0, 1], ValueError, "1 to 4 channels"),
        (["x.png", None], [0, 1], TypeError, "None as a path"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0.0, 1.0], TypeError, "integers"),
        (np.zeros((2, 4, 4, 1), np.uint8), ["a", "b"], TypeError, "encode_labels"),
        (np.zeros((2, 4, 4, 1), np.uint8), np.array([0, 2**63], np.uint64), ValueError, "fit into int64"),
        (np.zeros((2, 4, 4, 1), np.uint8), [0, 2], ValueError, "from 0 to 2 with 2 class names"),
        (np.zeros((2, 4, 4, 1), np.uint8), [-1, 1], ValueError, "from -1 to 1"),
    ],
)
def test_refuses_what_does_not_fit(images, labels, error, message):
    with pytest.raises(error, match=message):
        LabeledImages(images, labels, ("a", "b"))


def test_published_split_and_roles():
    plain = images([0, 1, 2, 3])
    assert plain.num_train_classes is None and plain.roles is None and plain.is_query is None
    published = dataclasses.replace(images([0, 1, 2, 2, 3, 3]), num_train_classes=2, roles=[0, 0, 1, 2, 2, 1])
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
        ({"num_train_classes": 4}, "num_train_classes=4. Expected: an integer with 0 < num_train_classes < 4"),
        ({"num_train_classes": 0}, "num_train_classes=0"),
        ({"num_train_classes": 1.5}, "num_train_classes=1.5"),
        ({"roles": [1, 2, 3]}, r"roles with \[3\]. Expected: 0 \(both\), 1 \(query\) or 2 \(gallery\)"),
        ({"roles": [1, 2]}, r"roles of shape \(2,\). Expected: \(3,\)"),
    ],
)
def test_refuses_splits_and_roles(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(images([0, 1, 1]), **fields)


@pytest.mark.parametrize("labels", [[True, False], np.array([[1], [0]], np.uint8), np.array([1, 0], object)])
def test_labels_of_other_types(labels):
    dataset = LabeledImages(np.zeros((2, 4, 4, 1), np.uint8), labels, ("a", "b"))
    assert dataset.labels.dtype == np.int64 and dataset.labels.tolist() == [1, 0]


def test_classes_of_one_name_stay_apart():
    dataset = images([0, 1, 3], ["a", "b", "c", "b"])
    assert (dataset.num_classes, dataset.class_counts.tolist()) == (4, [1, 1, 0, 1])
    assert dataset.subset([3, 1]).class_names == ("b", "b")
    assert images([0, 1], [b"a", "\u00fc"]).class_names == ("a", "\u00fc")


@pytest.mark.skipif(not hasattr(getattr(np, "dtypes", None), "StringDType"), reason="NumPy 1 has no StringDType")
def test_strings_of_numpy_2():
    strings = np.array(["b", "a", "b"], np.dtypes.StringDType())
    assert LabeledImages(strings, [0, 1, 1], strings[:2]).class_names == ("b", "a")
    assert LabeledImages(strings, [0, 1, 1], strings[:2]).images.tolist() == ["b", "a", "b"]
    assert LabeledImages.from_arrays(np.zeros((3, 2, 2), np.uint8), strings).labels.tolist() == [1, 0, 1]


def test_from_arrays():
    images = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    dataset = LabeledImages.from_arrays(images, [[30], [7], [30]], name="mine")
    np.testing.assert_array_equal(dataset.images, images)
    assert (dataset.labels.tolist(), dataset.class_names, dataset.name) == ([1, 0, 1], ("7", "30"), "mine")
    floats = LabeledImages.from_arrays(images / np.float32(255), ["b", "a", "b"])
    np.testing.assert_array_equal(floats.images, images)
    assert LabeledImages.from_arrays(images[..., 0], [0, 1, 1]).image_shape == (4, 5, 1)
    assert LabeledImages.from_arrays(["x.png", "y.png"], ["b", "a"]).holds_paths


@pytest.mark.parametrize("value, message", [(np.nan, "such as nan"), (255.0, "such as 255.0"), (-0.5, "such as -0.5")])
def test_from_arrays_refuses_floats_that_are_not_shares(value, message):
    images = np.zeros((2, 3, 3, 1), np.float32)
    images[1, 0, 0, 0] = value
    with pytest.raises(ValueError, match=f"Images of floats must be in 0–1. Received: 1 other values, {message}"):
        LabeledImages.from_arrays(images, [0, 1])


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("labels", [["b", "a", "b"], [5, 2, 5]])
def test_from_tf_dataset(batch, labels):
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5, 1)
    pairs = tf.data.Dataset.from_tensor_slices((images, labels))
    dataset = LabeledImages.from_tf_dataset(pairs if batch is None else pairs.batch(batch))
    np.testing.assert_array_equal(dataset.images, images)
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.class_names == (("a", "b") if labels[0] == "b" else ("2", "5"))


def test_from_tf_dataset_refuses():
    pairs = tf.data.Dataset.from_tensor_slices((np.zeros((3, 4, 4, 1), np.uint8), [0, 1, 1]))
    with pytest.raises(ValueError, match="endless"):
        LabeledImages.from_tf_dataset(pairs.repeat())
    with pytest.raises(ValueError, match="empty"):
        LabeledImages.from_tf_dataset(pairs.take(0))
    with pytest.raises(TypeError, match=r"Expected: a tf.data.Dataset of \(image, label\)"):
        LabeledImages.from_tf_dataset(pairs.map(lambda image, _: image))
    with pytest.raises(TypeError, match=r"Expected: a tf.data.Dataset"):
        LabeledImages.from_tf_dataset([1])
    sizes = tf.data.Dataset.from_tensor_slices([2, 3])
    with pytest.raises(ValueError, match=r"same size. Received: shapes \(2, 2, 3\), \(3, 3, 3\)"):
        LabeledImages.from_tf_dataset(sizes.map(lambda size: (tf.zeros([size, size, 3], tf.uint8), size)))


def test_from_tf_dataset_of_gray_images():
    images = np.arange(3 * 3 * 5, dtype=np.uint8).reshape(3, 3, 5)
    pairs = tf.data.Dataset.from_tensor_slices((images, [4, 4, 2]))
    for dataset in (pairs, pairs.batch(2), pairs.batch(3)):
        np.testing.assert_array_equal(LabeledImages.from_tf_dataset(dataset).images[..., 0], images)


def test_from_arrays_with_class_names():
    images, names = np.zeros((3, 2, 2), np.uint8), ("tabby", "siamese", "manx")
    for labels in ([1, 0, 1], ["siamese", "tabby", "siamese"], np.array([b"siamese", b"tabby", b"siamese"])):
        dataset = LabeledImages.from_arrays(images, labels, names)
        assert (dataset.labels.tolist(), dataset.class_names) == ([1, 0, 1], names)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2.*from 0 to 3"):
        LabeledImages.from_arrays(images, [3, 0, 1], names)
    with pytest.raises(ValueError, match=r"not among the names. Received: 'lion'"):
        LabeledImages.from_arrays(images, ["tabby", "lion", "manx"], names)


@pytest.mark.parametrize("dtype", ["int64", "uint16", "int8", "float16", "float64", "bool"])
def test_from_arrays_of_any_type(dtype):
    images = np.array([[[0, 1]], [[1, 0]]])
    white = 255 if dtype[0] in "fb" else 1
    dataset = LabeledImages.from_arrays(images.astype(dtype), [0, 1])
    assert dataset.images.dtype == np.uint8
    np.testing.assert_array_equal(dataset.images[..., 0], images * white)


def test_from_arrays_refuses_other_values():
    for value in (256, -1):
        with pytest.raises(ValueError, match=f"must be in 0–255. Received: 1 other values of int64, such as {value}"):
            LabeledImages.from_arrays(np.array([[[0, value]], [[1, 1]]]), [0, 1])
    with pytest.raises(TypeError, match="images must be uint8"):
        LabeledImages.from_arrays(np.zeros((2, 2, 2), complex), [0, 1])
