"""Class-disjoint splits: a metric is judged on classes that it has never seen."""

from __future__ import annotations

import numbers
from typing import NamedTuple

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml.data.labeled_samples import LabeledSamples


class Splits(NamedTuple):
    """Three sets; a part that was not asked for is `None`. No two have a class in common, unless
    `validation="test"` asked for one set as both."""

    train: LabeledSamples
    validation: LabeledSamples | None
    test: LabeledSamples | None


def split_classes(
    dataset: LabeledSamples,
    validation: float | str | None = 0.2,
    test: float | str | None = 0.3,
    seed: int | None = None,
    fold: int | None = None,
    folds: int = 4,
) -> Splits:
    """Splits the classes of a set into train, validation and test.

    The classes are taken in their order: the first for training, then validation, the last for test (the
    field's protocol); a seed shuffles them before. In cross-validation, fold `k` of `folds` validates on the
    k-th contiguous part of the classes that are not in test, and trains on the others. Of `Collages` the
    backgrounds are split in the same way as the targets.

    Args:
        dataset: A `LabeledImages`, or another `LabeledSamples`.
        validation: Share of all classes in 0–1, or `None` for no validation split. A fold takes its place. `"test"`
            takes the test split as validation split, too, and all other classes to train: the conventional protocol,
            which chooses the weights by the very classes that it reports.
        test: Share of all classes in 0–1, or `None` for no test split. `"published"` takes the test classes that are
            published with the set (`num_train_classes`), or the last half of the classes where there are none; the
            seed then shuffles the other classes only.
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
        >>> from tfdml.data.labeled_images import LabeledImages
        >>> images = LabeledImages(np.zeros((10, 4, 4, 1), np.uint8), np.arange(10), "abcdefghij")
        >>> [split.class_names for split in split_classes(images, validation=0.2, test=0.3)]
        [('a', 'b', 'c', 'd', 'e'), ('f', 'g'), ('h', 'i', 'j')]
    """
    _check_shares(validation, test, fold, folds)
    train, *others = dataset.split(lambda part: _partition(part, validation, test, seed, fold, folds))
    assert train is not None  # Only the other two can be left out.
    splits = Splits(train, *others)
    return splits._replace(validation=splits.test) if validation == "test" else splits


def _check_shares(validation, test, fold, folds):
    for name, share, word in (("validation", validation, "test"), ("test", test, "published")):
        if share is None or share == word:
            continue
        if not isinstance(share, numbers.Real) or not 0 <= share < 1:  # type: ignore[operator]
            raise ValueError(
                f"{name} must be a share of the classes. Received: {name}={share!r}; "
                f"expected 0 < {name} < 1, {word!r} or None."
            )
    if validation == "test" and (test is None or fold is not None):
        raise ValueError(
            f"Received: validation='test' with test={test!r}, fold={fold!r}; expected a test split and no fold."
        )
    if fold is not None:
        check_whole_number("folds", folds, minimum=2)
        if check_whole_number("fold", fold, minimum=0) >= folds:
            raise ValueError(f"Received: fold={fold!r}; expected an integer with 0 <= fold < folds={folds}.")


def _partition(dataset, validation, test, seed, fold, folds):
    """The classes of train, validation and test in three arrays, `None` for a part that is not wanted."""
    seen, unseen = _seen_and_unseen(dataset, test, seed)
    num_classes = dataset.num_classes
    if fold is None:
        is_share = validation is not None and validation != "test"
        start = max(0, len(seen) - (int(round(validation * num_classes)) if is_share else 0))
        train, held_out = seen[:start], seen[start:]
    else:
        is_share = True
        parts = np.array_split(seen, folds)
        held_out = parts[int(fold)]
        train = np.concatenate([part for number, part in enumerate(parts) if number != fold])

    wanted = {"train": (train, True), "validation": (held_out, is_share), "test": (unseen, test is not None)}
    for name, (members, is_wanted) in wanted.items():
        if is_wanted and not len(members):
            raise ValueError(
                f"A {name} split without classes. Received: {num_classes} classes with "
                f"validation={validation!r}, test={test!r}, fold={fold!r}, folds={folds!r}; "
                "expected shares that leave each split a class, or None for a split that is not wanted."
            )
    return [members if is_wanted else None for members, is_wanted in wanted.values()]


def _seen_and_unseen(dataset, test, seed):
    """The classes that may be seen in training or validation, and those of the test split."""
    classes = np.arange(dataset.num_classes)
    if test == "published":
        count = dataset.num_train_classes or dataset.num_classes - dataset.num_classes // 2
        seen, unseen = classes[:count], classes[count:]
        return (seen if seed is None else np.random.default_rng(seed).permutation(seen)), unseen
    if seed is not None:
        classes = np.random.default_rng(seed).permutation(classes)
    count = len(classes) - (0 if test is None else int(round(test * len(classes))))
    return classes[:count], classes[count:]
