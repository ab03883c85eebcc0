"""Precomputed features in `.npy` files, with the labels of their images."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data import parquet_files
from tfdml.data.class_files import CLASSES, read_names, read_superclasses
from tfdml.data.labeled_features import LabeledFeatures
from tfdml.ops.labels import label_column

FEATURES, LABELS, ROLES = "features.npy", "labels.npy", "roles.npy"
SOURCE = parquet_files.SOURCE


def features(
    path: PathLike,
    labels: PathLike | None = None,
    classes: PathLike | None = None,
    roles: PathLike | None = None,
    num_train_classes: int | None = None,
    verify: bool = True,
) -> LabeledFeatures:
    """Load precomputed features of images, one per row of an array on disk, which need not fit into memory.

    Use it to train a `build_head` on features that `tfdml-extract` or another program has written.

    ```
    features.npy      float16, float32 or float64 (n, d)
    labels.npy        (n,): integers, or class names as text
    classes.txt       optional: one line per class, in the order of the labels
    superclasses.txt  optional: the super-class of each class, one line per class
    roles.npy         optional: integers (n,), 1 for queries, 2 for their gallery, 0 for both
    source.json       optional, as written by `tfdml-extract`
    ```

    The folder may have Parquet files instead of `features.npy` and `labels.npy`, with the columns `vector` and `label`
    (integers) or `class_name`, as `tfdml-extract --ray` writes them; needs pyarrow, which the extra `ray` installs.
    These are read into memory.

    Without `classes.txt`, the classes are the labels that occur, in sorted order; they need not start at 0. No file is
    unpickled.

    Args:
        path: str or `os.PathLike`. Folder of these files, or the file of the features with the others next to it.
        labels: str or `os.PathLike`. File of the labels. `None` means `labels.npy` in the same folder. Default `None`.
        classes: str or `os.PathLike`. File of the class names. `None` means `classes.txt` in the same folder, if it
            exists. Default `None`.
        roles: str or `os.PathLike`. File of the roles. `None` means `roles.npy` in the same folder, if it exists.
            Default `None`.
        num_train_classes: int. The first `num_train_classes` classes are published for training, the others for
            testing. `None` uses the value in `source.json`, if any. Default `None`.
        verify: bool. Read all features once to find those that are not finite. Default `True`.

    Returns:
        `LabeledFeatures`, whose features are read when batches are made.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file cannot be read or has the wrong type, the files are inconsistent, or a feature is not
            finite; the message names the file and the rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(pathlib.Path(folder, "features.npy"), np.eye(3, dtype="float32"))
        ...     np.save(pathlib.Path(folder, "labels.npy"), np.array(["cat", "dog", "cat"]))
        ...     features(folder).class_names
        ('cat', 'dog')
    """
    path = pathlib.Path(path).expanduser()
    features_path = path / FEATURES if path.is_dir() else path
    folder = features_path.parent
    if not features_path.is_file():
        if parquet_files.holds_parquet(path):
            return _from_parquet(path, labels, classes, roles, num_train_classes, verify)
        raise FileNotFoundError(_missing(features_path))
    array = _read(features_path, lambda: np.lib.format.open_memmap(features_path, mode="r"))
    labels_path = _companion(labels, folder / LABELS)
    if labels_path is None:
        raise FileNotFoundError(f"Features without labels. Received: {features_path}. Expected: {folder / LABELS}.")
    numbers, names = _numbers_and_names(labels_path, _companion(classes, folder / CLASSES))
    roles_path = _companion(roles, folder / ROLES)
    if num_train_classes is None:
        num_train_classes = _published_split(folder / SOURCE)
    try:
        dataset = LabeledFeatures(
            array,
            numbers,
            names,
            name=folder.resolve().name if path.is_dir() else path.stem,
            num_train_classes=num_train_classes,
            roles=None if roles_path is None else _load(roles_path),
            superclasses=read_superclasses(folder),
        )
    except (TypeError, ValueError) as error:
        others = f" and {roles_path}" if roles_path is not None else ""
        raise ValueError(f"{error} Read from {features_path} with {labels_path}{others}.") from error
    if not len(dataset):
        raise ValueError(f"There are no features. Received: {features_path} of shape {array.shape}.")
    if verify:
        _check_finite(dataset, features_path)
    return dataset


def _from_parquet(folder, labels, classes, roles, num_train_classes, verify):
    for name, value in (("labels", labels), ("classes", classes), ("roles", roles)):
        if value is not None:
            raise ValueError(
                f"{name} does not apply to Parquet files, which contain them. Received: {name}={os.fspath(value)!r} "
                f"with {folder}. Expected: None."
            )
    files = parquet_files.ParquetVectors(folder)
    if not len(files):
        raise ValueError(f"There are no features. Received: {folder} with Parquet files without rows.")
    array, blocks, done = None, [], 0
    for block in files.blocks():
        if array is None:
            array = np.empty((len(files), files.dim), block.vectors.dtype)
        array[done : done + len(block.vectors)] = block.vectors
        done += len(block.vectors)
        blocks.append(block._replace(vectors=np.empty((0, files.dim)), ids=[]))
    numbers, names = _labels_of_blocks(blocks, folder)
    has_roles = all(block.roles is not None for block in blocks)
    dataset = LabeledFeatures(
        array,
        numbers,
        names,
        name=folder.resolve().name,
        num_train_classes=_published_split(folder / SOURCE) if num_train_classes is None else num_train_classes,
        roles=np.concatenate([block.roles for block in blocks]) if has_roles else None,
        superclasses=read_superclasses(folder),
    )
    if verify:
        _check_finite(dataset, folder)
    return dataset


def _labels_of_blocks(blocks, folder):
    """Return labels from 0 and the names of the classes."""
    path = folder / CLASSES
    if path.is_file() and all(block.labels is not None for block in blocks):
        return np.concatenate([block.labels for block in blocks]), read_names(path)
    classes: Any = [name for block in blocks for name in block.classes or ()]
    if not classes:
        columns = [block.labels for block in blocks if block.labels is not None]
        classes = np.concatenate(columns).tolist() if columns else [None]
    if any(name is None for name in classes):
        raise ValueError(
            f"Features without labels. Received: {folder} with Parquet files in which a label is missing. Expected: "
            "a column 'label' of integers or 'class_name'."
        )
    present, numbers = np.unique(classes, return_inverse=True)
    return numbers, tuple(map(str, present))


def _companion(given, usual):
    """Return the given path, or the usual one if the file exists."""
    if given is None:
        return usual if usual.is_file() else None
    given = pathlib.Path(given).expanduser()
    if not given.is_file():
        raise FileNotFoundError(f"There is no such file. Received: {given}.")
    return given


def _missing(path):
    if path.with_name(f"{path.name}.partial").exists():
        return f"The extraction of these features was interrupted. Received: {path.parent} without {path.name}."
    if path.parent.is_dir() and path.name == FEATURES:
        return f"The folder has no features. Received: {path.parent}. Expected: {FEATURES} and {LABELS} in it."
    return f"There is no such file. Received: {path}. Expected: a .npy file, or a folder with {FEATURES} and {LABELS}."


def _read(path, read):
    try:
        return read()
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise ValueError(f"Not a readable .npy file of numbers or text. Received: {path} ({error}).") from error


def _load(path):
    def read():
        with open(path, "rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    return _read(path, read)


def _numbers_and_names(labels_path, classes_path):
    """Return labels from 0 and the names of the classes."""
    labels = label_column(_load(labels_path), f"{labels_path} with labels")
    names = None if classes_path is None else read_names(classes_path)
    if labels.dtype.kind not in "iuUS":
        raise ValueError(
            f"Labels must be integers or text. Received: {labels_path} with labels of type {labels.dtype}. Expected: "
            "integers or text, (n,) or (n, 1)."
        )
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind in "iu" and labels.size and labels.min() < 0:
        raise ValueError(
            f"Negative labels. Received: {labels_path} with labels down to {labels.min()}. "
            "Expected: labels of at least 0."
        )
    if names is None:
        present, numbers = np.unique(labels, return_inverse=True)
        return numbers, tuple(map(str, present))
    if labels.dtype.kind == "U":
        return _numbers_of(labels, names, labels_path, classes_path), names
    if labels.size and labels.max() >= len(names):
        raise ValueError(
            "Labels without a name. "
            f"Received: {labels_path} with labels up to {labels.max()} and {classes_path} with {len(names)} names. "
            "Expected: a name for each label, the first for 0."
        )
    return labels, names


def _numbers_of(labels, names, labels_path, classes_path):
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) != len(names):
        twice = next(name for number, name in enumerate(names) if numbers[name] != number)
        raise ValueError(f"Labels as text need names that differ. Received: {twice!r} twice in {classes_path}.")
    unknown = sorted(set(labels.tolist()) - set(numbers))
    if unknown:
        raise ValueError(
            f"Unknown classes. Received: {labels_path} with classes that {classes_path} does not name: {unknown[:10]}."
        )
    return np.array([numbers[label] for label in labels.tolist()], np.int64)


def _published_split(path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape")).get("num_train_classes")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"Not a JSON file of tfdml-extract. Received: {path} ({error}).") from error


def _check_finite(dataset, path):
    rows = dataset.not_finite()
    if len(rows):
        more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
        raise ValueError(
            f"Features that are not finite. Received: {os.fspath(path)}, rows {', '.join(map(str, rows[:10]))}{more} "
            "(from 0). Expected: finite numbers that float32 can hold."
        )
