import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdml.data import LabeledImages, split_classes


def numbered(num_classes, per_class=2, **fields):
    labels = np.repeat(np.arange(num_classes), per_class)
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    images[:, 0, 0, 0] = labels
    return LabeledImages(images, labels, tuple(f"class {label}" for label in range(num_classes)), **fields)


def names(split):
    return [int(name.split()[1]) for name in split.class_names]


def test_contiguous_without_a_seed():
    splits = split_classes(numbered(10), validation=0.2, test=0.3)
    assert [names(split) for split in splits] == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert splits.test.images[:, 0, 0, 0].tolist() == [7, 7, 8, 8, 9, 9]


@given(
    num_classes=st.integers(10, 60),
    validation=st.floats(0.1, 0.4),
    test=st.floats(0.1, 0.4),
    seed=st.none() | st.integers(0, 2**31),
)
def test_disjoint_and_complete(num_classes, validation, test, seed):
    splits = split_classes(numbered(num_classes), validation, test, seed)
    members = [set(names(split)) for split in splits]
    assert set.union(*members) == set(range(num_classes))
    assert sum(map(len, members)) == num_classes
    assert len(members[1]) == round(validation * num_classes)
    assert len(members[2]) == round(test * num_classes)
    for split in splits:
        assert (split.images[:, 0, 0, 0] == np.asarray(names(split))[split.labels]).all()


def test_seed_shuffles_repeatably():
    dataset = numbered(40)
    first, again, other = (names(split_classes(dataset, seed=seed).train) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first != list(range(len(first)))


def test_folds_validate_on_contiguous_quarters_of_the_seen_classes():
    dataset = numbered(10)
    folds = [split_classes(dataset, test=0.2, fold=fold, folds=4) for fold in range(4)]
    assert [names(fold.validation) for fold in folds] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert names(folds[1].train) == [0, 1, 4, 5, 6, 7]
    assert all(names(fold.test) == [8, 9] for fold in folds)


def test_parts_can_be_left_out():
    splits = split_classes(numbered(4), validation=None, test=0.5)
    assert splits.validation is None
    assert names(splits.train) == [0, 1]
    splits = split_classes(numbered(4), validation=None, test=None, fold=0, folds=2)
    assert splits.test is None
    assert names(splits.validation) == [0, 1]


def test_published_test_classes():
    dataset = numbered(10, num_train_classes=6)
    assert [names(split) for split in split_classes(dataset, 0.2, "published")] == [[0, 1, 2, 3], [4, 5], [6, 7, 8, 9]]
    folds = [split_classes(dataset, test="published", fold=fold, folds=3) for fold in range(3)]
    assert [names(fold.validation) for fold in folds] == [[0, 1], [2, 3], [4, 5]]
    shuffled = [split_classes(dataset, 0.2, "published", seed=seed) for seed in range(9)]
    assert len({tuple(names(splits.validation)) for splits in shuffled}) > 3
    for splits in shuffled:
        assert sorted(names(splits.train) + names(splits.validation)) == list(range(6))
        assert names(splits.test) == [6, 7, 8, 9]


def test_the_last_half_is_tested_where_no_split_is_published():
    splits = split_classes(numbered(11), validation=None, test="published")
    assert names(splits.train) == [0, 1, 2, 3, 4, 5]
    assert names(splits.test) == [6, 7, 8, 9, 10]


def test_the_conventional_protocol_validates_on_the_test_classes():
    splits = split_classes(numbered(10, num_train_classes=6), validation="test", test="published")
    assert names(splits.train) == [0, 1, 2, 3, 4, 5]
    assert splits.validation is splits.test
    assert names(splits.test) == [6, 7, 8, 9]


def test_roles_stay_with_their_images():
    roles = [0] * 12 + [1, 2] * 4
    splits = split_classes(numbered(10, num_train_classes=6, roles=roles), validation=0.2, test="published")
    assert splits.train.is_query is None and splits.validation.is_query is None
    assert splits.test.is_query.tolist() == [True, False] * 4


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation": 0.0}, "validation split has no classes"),
        ({"validation": 0.01}, "validation split has no classes"),
        ({"test": 0.01}, "test split has no classes"),
        ({"validation": 0.5, "test": 0.5}, "train split has no classes"),
        ({"validation": 0.8, "test": 0.7}, "train split has no classes"),
        ({"fold": 3, "folds": 20}, None),
        ({"fold": 19, "folds": 20}, "validation split has no classes"),
        ({"validation": 1.0}, "validation=1.0"),
        ({"test": -0.1}, "test=-0.1"),
        ({"test": float("nan")}, "test=nan"),
        ({"fold": 4}, "fold=4"),
        ({"fold": -1}, "fold=-1"),
        ({"fold": 0, "folds": 1}, "folds=1"),
        ({"test": "half"}, "test='half'. Expected: 0 < test < 1, 'published' or None"),
        ({"validation": "published"}, "validation='published'. Expected: 0 < validation < 1, 'test' or None"),
        ({"validation": "test", "test": None}, "validation='test' with test=None"),
        ({"validation": "test", "fold": 0}, "Expected: a test split and no fold"),
        ({"validation": 0.5, "test": "published"}, "train split has no classes"),
    ],
)
def test_refuses(options, message):
    dataset = numbered(10)
    if message is None:
        assert split_classes(dataset, **options).validation.num_classes == 1
        return
    with pytest.raises(ValueError, match=message):
        split_classes(dataset, **options)
