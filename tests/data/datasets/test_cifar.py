"""CIFAR-10 and CIFAR-100 from generated files in the original layout."""

import cifar_files
import numpy as np
import pytest

from tfdml.data import cifar10, cifar100
from tfdml.data.datasets.cifar import read_cifar100


def check_images(dataset, numbers):
    """Every image is the one that was written for its class, once each."""
    assert dataset.image_shape == (32, 32, 3)
    found = set()
    for image, label in zip(dataset.images, dataset.labels):
        label, number = int(label), int(image[0, 0, 1])
        np.testing.assert_array_equal(image, cifar_files.image_of(label, number))
        found.add((label, number))
    assert found == {(label, number) for label in range(dataset.num_classes) for number in numbers}
    assert len(dataset) == len(found)


@pytest.mark.parametrize(("part", "numbers"), [("train", [0, 1]), ("test", [2]), ("all", [0, 1, 2])])
def test_cifar100(tmp_path, part, numbers):
    folder = cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    for path in (folder, str(tmp_path)):
        dataset = cifar100(path, part)
        check_images(dataset, numbers)
        assert dataset.class_names == tuple(cifar_files.CLASSES)


def test_coarse_labels(tmp_path):
    cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    coarse, fine = cifar100(tmp_path, labels="coarse"), cifar100(tmp_path)
    np.testing.assert_array_equal(coarse.images, fine.images)
    np.testing.assert_array_equal(coarse.labels, cifar_files.superclass_of(fine.labels))
    assert coarse.class_names == tuple(cifar_files.SUPERCLASSES)
    assert coarse.class_counts.tolist() == [10] * 20


def test_superclasses_of_the_classes(tmp_path):
    cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    files = read_cifar100(tmp_path)
    np.testing.assert_array_equal(files.superclass_of_class, cifar_files.superclass_of(np.arange(100)))
    np.testing.assert_array_equal(cifar100(tmp_path).superclasses, files.superclass_of_class)
    assert cifar100(tmp_path, labels="coarse").superclasses is None


@pytest.mark.parametrize(("part", "numbers"), [("train", range(10)), ("test", [10, 11]), ("all", range(12))])
def test_cifar10(tmp_path, part, numbers):
    folder = cifar_files.write_cifar10(tmp_path / "cifar-10-batches-bin")
    for path in (folder, tmp_path):
        dataset = cifar10(path, part)
        check_images(dataset, numbers)
        assert dataset.class_names == cifar_files.CIFAR10_NAMES


@pytest.mark.parametrize(("load", "name"), [(cifar10, "cifar-10"), (cifar100, "cifar-100")])
def test_says_what_to_get_and_where_to_put_it(tmp_path, load, name):
    advice = rf"Put {name}-binary.tar.gz, from https://www.cs.toronto.edu.*run: python -m tfdml.data.prepare"
    with pytest.raises(FileNotFoundError, match=rf"nowhere.*{advice}"):
        load(tmp_path / "nowhere")
    # The python version: files without an ending.
    for file in ("train", "test", "meta"):
        (tmp_path / file).write_bytes(b"\x80\x02}")
    with pytest.raises(FileNotFoundError, match=rf"does not hold \S+txt.*{advice}.*pickles, is not read"):
        load(tmp_path)


def test_half_of_the_classes_are_to_train(tmp_path):
    cifar_files.write_cifar10(tmp_path / "cifar-10-batches-bin")
    cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    assert cifar10(tmp_path).num_train_classes == 5
    assert cifar100(tmp_path).num_train_classes == 50
    assert cifar100(tmp_path, labels="coarse").num_train_classes == 10


def test_a_missing_part_is_named(tmp_path):
    folder = cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    (folder / "test.bin").unlink()
    assert len(cifar100(folder)) == 200
    with pytest.raises(FileNotFoundError, match="does not hold test.bin"):
        cifar100(folder, "all")


def test_damaged_files_are_named(tmp_path):
    folder = cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    path, whole = folder / "train.bin", (folder / "train.bin").read_bytes()
    for contents, message in [
        (whole[:-1], "train.bin of 614799 bytes. Expected: a multiple of 3074"),
        (b"", "train.bin of 0 bytes"),
        (b"\x14" + whole[1:], "train.bin with label 20. Expected: labels below 20"),
        (whole[:1] + b"\x64" + whole[2:], "train.bin with label 100. Expected: labels below 100"),
        (bytes([(whole[0] + 1) % 20]) + whole[1:], "A class of two super-classes"),
    ]:
        path.write_bytes(contents)
        with pytest.raises(ValueError, match=message):
            cifar100(folder)


@pytest.mark.parametrize(
    ("options", "message"), [({"part": "validation"}, "part='validation'"), ({"labels": "both"}, "labels='both'")]
)
def test_refuses(tmp_path, options, message):
    folder = cifar_files.write_cifar100(tmp_path / "cifar-100-binary")
    with pytest.raises(ValueError, match=message):
        cifar100(folder, **options)
