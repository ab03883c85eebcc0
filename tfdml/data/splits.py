"""Class-disjoint splits: evaluate on classes that are not in the training data."""

from __future__ import annotations

import numbers
from typing import NamedTuple

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml.data.labeled_samples import LabeledSamples


class Splits(NamedTuple):
    """Train, validation and test datasets, as returned by `split_classes`.

    No two of them share a class, except that `validation="test"` uses one dataset as both. A split that was not
    requested is `None`.

    Attributes:
        train: `LabeledSamples` to train on.
        validation: `LabeledSamples` to select weights and hyperparameters on, or `None`.
        test: `LabeledSamples` to report results on, or `None`.

    Example:
        >>> from tfdml.data.labeled_images import LabeledImages
        >>> images = LabeledImages.from_arrays(np.zeros((4, 8, 8, 1), "uint8"), [0, 1, 2, 3])
        >>> train, validation, test = split_classes(images, validation=None, test=0.5)
        >>> train.num_classes, validation, test.num_classes
        (2, None, 2)
    """

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
    """Split the classes of a dataset into train, validation and test.

    Use it before training: retrieval on classes that are not in the training data shows how an embedder generalizes.

    Classes are split in order: the first for training, the next for validation, the last for testing, as is usual in
    metric learning. A seed shuffles them first. In cross-validation, fold k of `folds` validates on the k-th contiguous
    part of the classes that are not in test, and trains on the others. The backgrounds of `Collages` are split in the
    same way as the targets.

    Args:
        dataset: `LabeledImages` or another `LabeledSamples`.
        validation: float in 0–1, `"test"` or `None`. Share of all classes; ignored if `fold` is given. `"test"` uses
            the test split for validation, too, and all other classes for training: the conventional protocol, which
            selects weights on the same classes that it reports. `None` means no validation split. Default 0.2.
        test: float in 0–1, `"published"` or `None`. Share of all classes. `"published"` uses the published test classes
            (`num_train_classes`), or the last half of the classes if none are published; the seed then shuffles only
            the other classes. `None` means no test split. Default 0.3.
        seed: int. Shuffles the classes. `None` keeps their order. Default `None`.
        fold: int from 0 to `folds - 1`. Number of the cross-validation fold. Default `None`.
        folds: int, at least 2. Number of folds. Default 4.

    Returns:
        `Splits(train, validation, test)`, each relabeled from 0.

    Raises:
        ValueError: If an argument is out of range, or a split has no classes.

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
    return _splits(dataset.split(lambda part: _partition(part, validation, test, seed, fold, folds)), validation)


def split_samples(
    dataset: LabeledSamples,
    validation: float | str | None = 0.2,
    test: float | str | None = 0.3,
    seed: int | None = None,
    fold: int | None = None,
    folds: int = 4,
) -> Splits:
    """Split the samples of a dataset without classes, as `split_classes` splits classes.

    Args:
        dataset, validation, test, seed, fold, folds: As for `split_classes`, with samples in the place of classes.

    Returns:
        `Splits(train, validation, test)`. Samples keep their order.
    """
    _check_shares(validation, test, fold, folds)
    parts = _partition(_Samples(len(dataset)), validation, test, seed, fold, folds, "samples")
    return _splits([None if part is None else dataset.select(np.sort(part)) for part in parts], validation)


def _splits(parts, validation):
    train, *others = parts
    assert train is not None  # Only the other two can be left out.
    splits = Splits(train, *others)
    return splits._replace(validation=splits.test) if validation == "test" else splits


class _Samples(NamedTuple):
    """Samples that are divided like classes."""

    num_classes: int
    num_train_classes: int | None = None


def _check_shares(validation, test, fold, folds):
    for name, share, word in (("validation", validation, "test"), ("test", test, "published")):
        if share is None or share == word:
            continue
        if not isinstance(share, numbers.Real) or not 0 <= share < 1:  # type: ignore[operator]
            raise ValueError(
                f"{name} must be a share of the classes. Received: {name}={share!r}. "
                f"Expected: 0 < {name} < 1, {word!r} or None."
            )
    if validation == "test" and (test is None or fold is not None):
        raise ValueError(
            f"validation='test' needs a test split. Received: validation='test' with test={test!r}, fold={fold!r}. "
            "Expected: a test split and no fold."
        )
    if fold is not None:
        check_whole_number("folds", folds, minimum=2)
        if check_whole_number("fold", fold, minimum=0) >= folds:
            raise ValueError(
                f"Invalid fold. Received: fold={fold!r}. Expected: an integer with 0 <= fold < folds={folds}."
            )


def _partition(dataset, validation, test, seed, fold, folds, kind="classes"):
    """Return the classes of train, validation and test as arrays, or `None` for a split that is not requested."""
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
                f"The {name} split has no {kind}. Received: {num_classes} {kind} with "
                f"validation={validation!r}, test={test!r}, fold={fold!r}, folds={folds!r}. "
                f"Expected: shares that leave {kind} for each split, or None to omit a split."
            )
    return [members if is_wanted else None for members, is_wanted in wanted.values()]


def _seen_and_unseen(dataset, test, seed):
    """Return the classes for training and validation, and those of the test split."""
    classes = np.arange(dataset.num_classes)
    if test == "published":
        count = dataset.num_train_classes or dataset.num_classes - dataset.num_classes // 2
        seen, unseen = classes[:count], classes[count:]
        return (seen if seed is None else np.random.default_rng(seed).permutation(seen)), unseen
    if seed is not None:
        classes = np.random.default_rng(seed).permutation(classes)
    count = len(classes) - (0 if test is None else int(round(test * len(classes))))
    return classes[:count], classes[count:]
