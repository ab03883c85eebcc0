import dataclasses

import numpy as np
import pytest

from tfdml.data import LabeledFeatures, split_classes
from tfdml.data import labeled_features as module


def points(labels, dtype="float32", size=3):
    # The first number of each tells which one it is.
    features = np.zeros((len(labels), size), dtype)
    features[:, 0] = np.arange(len(labels))
    return LabeledFeatures(features, labels, tuple("abcd"), name="toys")


def test_counts_and_shapes():
    dataset = points([0, 1, 1, 3])
    assert (len(dataset), dataset.num_classes, dataset.feature_size) == (4, 4, 3)
    assert dataset.class_counts.tolist() == [1, 2, 0, 1]
    assert repr(dataset) == "LabeledFeatures(name='toys', features=4 (of 3), classes=4)"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4"])
def test_features_are_read_as_float32(dtype):
    read = points([0, 1, 1, 3], dtype).read([2, 0])
    assert read.dtype == np.float32 and read.dtype.isnative
    assert read.tolist() == [[2, 0, 0], [0, 0, 0]]


def test_subsets_share_the_array():
    dataset = points([3, 0, 1, 0, 2])
    subset = dataset.subset([2, 0])
    assert subset.class_names == ("c", "a")
    assert subset.labels.tolist() == [1, 1, 0]
    assert subset.read(slice(None))[:, 0].tolist() == [1, 3, 4]
    assert np.shares_memory(subset.features, dataset.features)
    again = subset.subset([0])
    assert again.read([0])[:, 0].tolist() == [4] and again.labels.tolist() == [0]


def test_splits_roles_and_published_classes():
    dataset = dataclasses.replace(points([0, 1, 2, 2, 3, 3]), num_train_classes=2, roles=[0, 0, 1, 2, 2, 1])
    train, validation, test = split_classes(dataset, validation=0.25, test="published")
    assert [part.class_names for part in (train, validation, test)] == [("a",), ("b",), ("c", "d")]
    assert test.read([0, 1, 2, 3])[:, 0].tolist() == [2, 3, 4, 5]
    assert test.is_query.tolist() == [True, False, False, True]


def test_what_is_not_finite_is_found_block_by_block(monkeypatch):
    monkeypatch.setattr(module, "_NUMBERS_PER_BLOCK", 6)
    features = np.ones((7, 3))
    features[2, 1], features[3, 0], features[6, 2] = np.nan, -np.inf, 1e39
    dataset = LabeledFeatures(features, [0, 0, 1, 1, 2, 2, 3], tuple("abcd"))
    assert dataset.not_finite().tolist() == [2, 3, 6]
    assert dataset.subset([1]).not_finite().tolist() == [0, 1]
    assert points([0, 1]).not_finite().tolist() == []


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": np.zeros((3, 2), np.int32)}, TypeError, "int32 and shape (3, 2). Expected: float16 or float32"),
        ({"features": np.zeros((3, 2), "O")}, TypeError, "features of type object"),
        ({"features": np.zeros((3, 2), np.complex64)}, TypeError, "complex64"),
        ({"features": np.zeros(3)}, ValueError, "shape (3,). Expected: (n, dim)"),
        ({"features": np.zeros((3, 2, 2))}, ValueError, "shape (3, 2, 2)"),
        ({"features": np.zeros((3, 0))}, ValueError, "shape (3, 0)"),
        ({"features": np.zeros((2, 2))}, ValueError, "2 features and 3 labels"),
        ({"labels": [0, 1, 4]}, ValueError, "from 0 to 4 with 4 class names"),
        ({"rows": [0, 1, 3]}, ValueError, "rows from 0 to 3. Expected: 0 <= row < 3"),
        ({"rows": [0, 1]}, ValueError, "2 features and 3 labels"),
        ({"rows": [0.0, 1.0, 2.0]}, ValueError, "float64. Expected: integers"),
    ],
)
def test_refuses_what_does_not_fit(changes, error, message):
    with pytest.raises(error) as raised:
        dataclasses.replace(points([0, 1, 1]), **changes)
    assert message in str(raised.value)
