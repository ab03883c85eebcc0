"""List files of the real shape: loaders and the split code give the published numbers of classes and images."""

import miniatures
import numpy as np
import pytest

from tfdml.data import cars196, cub, in_shop, sop, split_classes


def spread(images, classes):
    """The label of each image, where classes have about as many each."""
    return np.sort(np.arange(images) % classes)


def halves(train_images, train_classes, test_images, test_classes):
    return np.concatenate([spread(train_images, train_classes), train_classes + spread(test_images, test_classes)])


def check_published(dataset, train, test):
    """Train and test are (classes, images)."""
    splits = split_classes(dataset, validation="test", test="published")
    for split, (classes, images) in ((splits.train, train), (splits.test, test)):
        assert (split.num_classes, len(split)) == (classes, images)
    folds = [split_classes(dataset, test="published", fold=fold, folds=4) for fold in range(4)]
    validated = [name for fold in folds for name in fold.validation.class_names]
    assert tuple(validated) == splits.train.class_names
    assert sum(len(fold.validation) for fold in folds) == train[1]
    for fold in folds:
        assert len(fold.train) + len(fold.validation) == train[1]
        assert fold.test.class_names == splits.test.class_names
        assert abs(fold.validation.num_classes - train[0] / 4) < 1
    return splits


def test_cub(tmp_path):
    labels = halves(5_864, 100, 11_788 - 5_864, 100)
    names = [f"{label + 1:03d}.Bird" for label in range(200)]
    miniatures.write_cub_lists(
        tmp_path / "CUB_200_2011", names, labels, [f"{names[label]}/{i}.jpg" for i, label in enumerate(labels)]
    )
    splits = check_published(cub(tmp_path, verify=False), (100, 5_864), (100, 5_924))
    assert splits.train.class_names[-1] == "100.Bird"


@pytest.mark.integration  # SciPy takes seconds to write and to read 16,185 records.
@pytest.mark.parametrize("devkit", [False, True])
def test_cars196(tmp_path, devkit):
    labels = np.random.default_rng(0).permutation(halves(8_054, 98, 16_185 - 8_054, 98))
    miniatures.write_cars_lists(tmp_path, [f"Car {label}" for label in range(196)], labels.tolist(), devkit)
    splits = check_published(cars196(tmp_path, verify=False), (98, 8_054), (98, 8_131))
    assert splits.test.class_names[0] == "Car 98"


def test_sop(tmp_path):
    labels = halves(59_551, 11_318, 120_053 - 59_551, 11_316)
    miniatures.write_sop_lists(tmp_path / "Stanford_Online_Products", labels.tolist(), 11_318)
    check_published(sop(tmp_path, verify=False), (11_318, 59_551), (11_316, 60_502))


def test_in_shop(tmp_path):
    # Training and test items are mixed, as in the original.
    order = np.random.default_rng(0).permutation(7_982)
    train, test = order[:3_997], order[3_997:]
    rows = [
        (int(items[index]), status)
        for items, status, images in ((train, "train", 25_882), (test, "query", 14_218), (test, "gallery", 12_612))
        for index in spread(images, len(items))
    ]
    miniatures.write_in_shop_list(tmp_path / "In-shop Clothes Retrieval Benchmark", rows)
    splits = check_published(in_shop(tmp_path, verify=False), (3_997, 25_882), (3_985, 14_218 + 12_612))
    assert splits.train.is_query is None
    is_query, labels = splits.test.is_query, splits.test.labels
    assert (is_query.sum(), (~is_query).sum()) == (14_218, 12_612)
    assert len(set(labels[is_query])) == len(set(labels[~is_query])) == 3_985
