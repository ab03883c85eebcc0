"""Class-disjoint splits: a metric is judged on classes that it has never seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tfdml.data.labeled_images import LabeledImages


class Splits(NamedTuple):
    """Three sets without a common class; a part that was not asked for is `None`."""

    train: LabeledImages
    validation: LabeledImages | None
    test: LabeledImages | None


def split_classes(dataset, validation=0.2, test=0.3, seed=None, fold=None, folds=4):
    """Splits the classes of a set into train, validation and test.

    The classes are taken in their order: the first for training, then validation, the last for test (the
    field's protocol); a seed shuffles them before. In cross-validation, fold `k` of `folds` validates on the
    k-th contiguous part of the classes that are not in test, and trains on the others. Of `Collages` the
    backgrounds are split in the same way as the targets.

    Args:
        dataset: A `LabeledImages`.
        validation: Share of all classes in 0–1, or `None` for no validation split. A fold takes its place.
        test: Share of all classes in 0–1, or `None` for no test split.
        seed: Shuffles the classes, or `None` to leave them in order.
        fold: Number of the fold from 0 to `folds - 1`, or `None`.
        folds: How many folds there are.

    Returns:
        `Splits(train, validation, test)`, each relabelled from 0.

    Raises:
        ValueError: If a share is out of range, or a split is left without classes.

    Reference:
        Gürbüz, "Novel Optimization Models to Generalize Deep Metric Learning", METU 2022, section 3.3.2.1
        (folds).

    Example:
        >>> import numpy as np
        >>> pictures = LabeledImages(np.zeros((10, 4, 4, 1), np.uint8), np.arange(10), "abcdefghij")
        >>> [split.class_names for split in split_classes(pictures, validation=0.2, test=0.3)]
        [('a', 'b', 'c', 'd', 'e'), ('f', 'g'), ('h', 'i', 'j')]
    """
    return Splits(
        *dataset.split(lambda num_classes: _partition(num_classes, validation, test, seed, fold, folds))
    )


def _partition(num_classes, validation, test, seed, fold, folds):
    """The classes of train, validation and test in three arrays, `None` for a part that is not wanted."""
    for name, share in (("validation", validation), ("test", test)):
        if share is not None and not 0 <= share < 1:
            raise ValueError(
                f"{name} must be a share of the classes. Received: {name}={share!r}; "
                f"expected 0 < {name} < 1 or None."
            )
    if fold is not None:
        if int(folds) != folds or folds < 2:
            raise ValueError(f"folds must be an integer of at least 2. Received: folds={folds!r}.")
        if int(fold) != fold or not 0 <= fold < folds:
            raise ValueError(f"Received: fold={fold!r}; expected an integer with 0 <= fold < folds={folds}.")

    classes = np.arange(num_classes)
    if seed is not None:
        classes = np.random.default_rng(seed).permutation(classes)
    test_count = 0 if test is None else int(round(test * num_classes))
    seen, unseen = classes[: num_classes - test_count], classes[num_classes - test_count :]
    if fold is None:
        validation_count = 0 if validation is None else int(round(validation * num_classes))
        start = max(0, len(seen) - validation_count)
        train, held_out = seen[:start], seen[start:]
    else:
        parts = np.array_split(seen, folds)
        held_out = parts[int(fold)]
        train = np.concatenate([part for number, part in enumerate(parts) if number != fold])

    wanted = {
        "train": (train, True),
        "validation": (held_out, validation is not None or fold is not None),
        "test": (unseen, test is not None),
    }
    for name, (members, is_wanted) in wanted.items():
        if is_wanted and not len(members):
            raise ValueError(
                f"A {name} split without classes. Received: {num_classes} classes with "
                f"validation={validation!r}, test={test!r}, fold={fold!r}, folds={folds!r}; "
                "expected shares that leave each split a class, or None for a split that is not wanted."
            )
    return [members if is_wanted else None for members, is_wanted in wanted.values()]
