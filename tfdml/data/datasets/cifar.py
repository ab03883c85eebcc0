"""CIFAR-10 and CIFAR-100, read from their binary versions."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from tfdml._utils.arguments import check_choice
from tfdml._utils.types import PathLike
from tfdml.data.download_specs import PUBLISHED
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import first_half

_PARTS = ("train", "test", "all")
_PIXELS = 3 * 32 * 32


class Cifar100(NamedTuple):
    """Content of the files of CIFAR-100.

    Attributes:
        images: uint8 array `(n, 32, 32, 3)`.
        labels: Integers `(n,)`. Class ("fine" label) of each image.
        superclass_labels: Integers `(n,)`. Superclass ("coarse" label) of each image.
        class_names, superclass_names: Tuples of str.
        superclass_of_class: Integers `(classes,)`; -1 for a class without images.
    """

    images: np.ndarray
    labels: np.ndarray
    superclass_labels: np.ndarray
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...]
    superclass_of_class: np.ndarray


def cifar10(path: PathLike, part: str = "train") -> LabeledImages:
    """Load CIFAR-10: color images of 32×32 pixels in 10 classes, 5,000 training and 1,000 test images each.

    Args:
        path: str or `os.PathLike`. Folder of the binary version, `cifar-10-batches-bin`, or its parent folder.
        part: `"train"`, `"test"` or `"all"`. Default `"train"`.

    Returns:
        `LabeledImages` with images `(n, 32, 32, 3)`. `split_classes(test="published")` trains on the first half of the
        classes.

    Raises:
        FileNotFoundError: If a file is missing; the message says how to get it.
        ValueError: If a file is damaged, or the part is unknown.

    Example:
        `images = cifar10("~/datasets/cifar-10-batches-bin", part="all")`
    """
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    folder = _Folder(path, PUBLISHED["cifar10"])
    class_names = folder.names("batches.meta.txt")
    labels, images = folder.records(part, {"train": train, "test": ["test_batch.bin"]}, [len(class_names)])
    split = first_half(len(class_names))
    return LabeledImages(images, labels[:, 0], class_names, name="cifar10", num_train_classes=split)


def cifar100(path: PathLike, part: str = "train", labels: Literal["fine", "coarse"] = "fine") -> LabeledImages:
    """Load CIFAR-100: color images of 32×32 pixels in 100 classes, 500 training and 100 test images each.

    Args:
        path: str or `os.PathLike`. Folder of the binary version, `cifar-100-binary`, or its parent folder.
        part: `"train"`, `"test"` or `"all"`. Default `"train"`.
        labels: `"fine"` for the 100 classes, `"coarse"` for the 20 superclasses of five classes each. Default `"fine"`.

    Returns:
        `LabeledImages` with images `(n, 32, 32, 3)`; fine classes have superclasses. `split_classes(test="published")`
        trains on the first half of the classes.

    Raises:
        FileNotFoundError: If a file is missing; the message says how to get it.
        ValueError: If a file is damaged, or the part or the kind of labels is unknown.

    Example:
        `images = cifar100("~/datasets/cifar-100-binary", part="all")`
    """
    check_choice("labels", labels, ("fine", "coarse"))
    files = read_cifar100(path, part)
    if labels == "coarse":
        numbers, class_names = files.superclass_labels, files.superclass_names
    else:
        numbers, class_names = files.labels, files.class_names
    split = first_half(len(class_names))
    return LabeledImages(
        files.images, numbers, class_names, name="cifar100", num_train_classes=split,
        superclasses=files.superclass_of_class if labels == "fine" else None,
    )  # fmt: skip


def read_cifar100(path, part="train"):
    """Read CIFAR-100 with both kinds of labels; arguments and errors are those of `cifar100`.

    Returns:
        A `Cifar100`.
    """
    folder = _Folder(path, PUBLISHED["cifar100"])
    superclass_names = folder.names("coarse_label_names.txt")
    class_names = folder.names("fine_label_names.txt")
    labels, images = folder.records(
        part, {"train": ["train.bin"], "test": ["test.bin"]}, [len(superclass_names), len(class_names)]
    )
    coarse, fine = labels.T
    superclass_of_class = np.full(len(class_names), -1, np.int64)
    superclass_of_class[fine] = coarse
    if (superclass_of_class[fine] != coarse).any():
        raise ValueError(f"A class of two super-classes. Received: {folder.path}. Expected: the files of CIFAR-100.")
    return Cifar100(images, fine, coarse, class_names, superclass_names, superclass_of_class)


class _Folder:
    """Folder of binary CIFAR files: records of label bytes and 3,072 pixels, one channel after the other."""

    def __init__(self, path, published):
        self.path, self.advice = published.root(path), published.advice(path)

    def find(self, name):
        if not (self.path / name).is_file():
            raise FileNotFoundError(
                f"A file of the dataset is missing. Received: {self.path}, which does not hold {name}. {self.advice}"
            )
        return self.path / name

    def names(self, name):
        lines = self.find(name).read_text(encoding="utf-8").splitlines()
        return tuple(line.strip() for line in lines if line.strip())

    def records(self, part, files, counts):
        """Return labels `(n, kinds)`, each below its count, and images `(n, 32, 32, 3)`."""
        check_choice("part", part, _PARTS)
        names = [name for key in ("train", "test") if part in (key, "all") for name in files[key]]
        records = np.concatenate([self._read(self.find(name), counts) for name in names])
        labels, pixels = records[:, : len(counts)], records[:, len(counts) :]
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return labels.astype(np.int64), np.ascontiguousarray(images)

    def _read(self, path, counts):
        contents = np.fromfile(path, np.uint8)
        size = len(counts) + _PIXELS
        if not len(contents) or len(contents) % size:
            raise ValueError(
                f"Damaged file. Received: {path} of {len(contents)} bytes. Expected: a multiple of {size}."
            )
        records = contents.reshape(-1, size)
        for column, count in enumerate(counts):
            largest = records[:, column].max()
            if largest >= count:
                raise ValueError(
                    f"Damaged file. Received: {path} with label {largest}. Expected: labels below {count}."
                )
        return records
