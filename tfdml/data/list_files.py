"""Read the list files of published datasets, which name images and their classes."""

from __future__ import annotations

import os
import pathlib

import numpy as np


def counts_of(dataset):
    """Return the counts of classes and images in a `LabeledImages` with a published split."""
    is_train = dataset.labels < dataset.num_train_classes
    roles = np.zeros(len(dataset), np.int8) if dataset.roles is None else dataset.roles
    return {
        "classes": dataset.num_classes,
        "images": len(dataset),
        "training classes": dataset.num_train_classes,
        "training images": int(is_train.sum()),
        "query classes": len(np.unique(dataset.labels[roles == 1])),
        "query images": int((roles == 1).sum()),
        "gallery classes": len(np.unique(dataset.labels[roles == 2])),
        "gallery images": int((roles == 2).sum()),
    }


def first_half(num_classes):
    """Return the number of training classes in "the first half"; an odd number is rounded up."""
    return num_classes - num_classes // 2


def read_columns(path, /, header=0, **columns):
    """Read a list file whose lines are words separated by spaces.

    Args:
        path: str or `os.PathLike`. File to read.
        header: int. Number of lines to skip. Default 0.
        **columns: Names and types of the columns. Each line must have one word per column.

    Returns:
        List with one list of values per column.

    Raises:
        ValueError: If a line has another form, or there are no lines; the message names file and line.
    """
    expected = " ".join(columns)
    lines = pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    rows = []
    for number, line in enumerate(lines[header:], start=header + 1):
        words = line.split()
        if not words:
            continue
        try:
            if len(words) != len(columns):
                raise ValueError
            rows.append([kind(word) for kind, word in zip(columns.values(), words)])
        except ValueError as error:
            raise ValueError(
                f"Damaged list file. Received: {path} with line {number}: {line[:200]!r}. Expected: {expected!r}."
            ) from error
    if not rows:
        raise ValueError(f"Damaged list file. Received: {path} without entries. Expected: lines of {expected!r}.")
    return [list(column) for column in zip(*rows)]


def train_classes_first(train, test, path):
    """Number the classes of two lists: sorted training classes first, then sorted test classes.

    Args:
        train, test: Lists with the class of each image.
        path: Path of the list file, for the message.

    Returns:
        Triple (classes in order, labels of `train + test`, number of training classes).

    Raises:
        ValueError: If a class is in both lists, or a list is empty.
    """
    seen, unseen = sorted(set(train)), sorted(set(test))
    shared = sorted(set(train) & set(test))
    if shared or not seen or not unseen:
        received = f"with {len(shared)} classes in both, such as {shared[0]!r}" if shared else "without one of them"
        raise ValueError(
            f"Training and test classes must be disjoint. Received: {path} {received}. Expected: both kinds of classes."
        )
    classes = seen + unseen
    label_of = {of_class: label for label, of_class in enumerate(classes)}
    return classes, np.array([label_of[of_class] for of_class in [*train, *test]]), len(seen)


def missing_files(paths):
    """Return the files that do not exist. It lists folders, which is faster than checking each file."""
    names_in, missing = {}, []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in names_in:
            names_in[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in names_in[folder]:
            missing.append(path)
    return missing
