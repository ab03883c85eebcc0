"""What every labelled set has in common, whether its samples are images or something else."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Sequence
from typing import Any, Callable, TypeVar

import numpy as np

from tfdml._utils.arguments import is_integer
from tfdml._utils.types import ArrayLike
from tfdml.ops.labels import label_column

BOTH, QUERY, GALLERY = range(3)

_Samples = TypeVar("_Samples", bound="LabeledSamples")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LabeledSamples:
    """The classes of samples, and how they are published to be split; a base class.

    A subclass holds the samples themselves, one for each label, and implements `_take`.

    Args:
        labels: Integers `(n,)` or `(n, 1)` from 0 to `len(class_names) - 1`; booleans are 0 and 1. `encode_labels`
            makes them of names or of integers with gaps.
        class_names: The classes' names; label `i` belongs to `class_names[i]`. Classes are told apart by their labels:
            two of one name stay two.
        name: What the set is called in messages and tables.
        num_train_classes: Classes 0 to `num_train_classes - 1` are published as training classes, the others as test
            classes. `None` if there is no published split.
        roles: Integers `(n,)`: what a sample is for in the published evaluation, 1 a query, 2 one of the gallery that
            queries are compared with, 0 both. `None` if there are no such roles.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If ranks or lengths do not match, a label has no class name, or the published split or a role is
            out of range.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str | None = None
    num_train_classes: int | None = None
    roles: np.ndarray | None = None

    def __post_init__(self):
        labels = integer_column(self.labels)
        class_names = tuple(
            name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
            for name in self.class_names
        )
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
            raise ValueError(
                f"labels must be in 0..{len(class_names) - 1}, one for each class name. "
                f"Received: labels from {labels.min()} to {labels.max()} with {len(class_names)} class names."
            )
        fields = {
            "labels": labels,
            "class_names": class_names,
            "num_train_classes": _checked_split(self.num_train_classes, len(class_names)),
            "roles": _checked_roles(self.roles, len(labels)),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """Samples of each class, `(num_classes,)`."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @property
    def is_query(self) -> np.ndarray | None:
        """Which samples are queries, bool `(n,)`; the others are the gallery. `None` if any is of no one role."""
        if self.roles is None or (self.roles == BOTH).any():
            return None
        return self.roles == QUERY

    def subset(self: _Samples, class_indices: ArrayLike) -> _Samples:
        """The samples of some classes, relabelled 0, 1, … in the given order of classes.

        Args:
            class_indices: Distinct labels of this set.

        Returns:
            A set of the same kind, whose samples keep this set's order and their roles. It has no published split.

        Raises:
            ValueError: If a class is out of range or is named twice.
        """
        classes = np.asarray(class_indices)
        if classes.ndim != 1 or (classes.size and classes.dtype.kind not in "iu"):
            raise ValueError(f"class_indices must be a list of integers. Received: {class_indices!r}.")
        classes = classes.astype(np.int64)
        if classes.size and not 0 <= classes.min() <= classes.max() < self.num_classes:
            raise ValueError(
                f"class_indices must be in 0..{self.num_classes - 1}. "
                f"Received: classes from {classes.min()} to {classes.max()}."
            )
        if len(np.unique(classes)) != len(classes):
            raise ValueError(f"class_indices must be distinct. Received: {class_indices!r}.")
        new_labels = np.full(self.num_classes, -1, np.int64)
        new_labels[classes] = np.arange(len(classes))
        chosen = np.flatnonzero(new_labels[self.labels] >= 0)
        return self._take(
            chosen,
            labels=new_labels[self.labels[chosen]],
            class_names=tuple(self.class_names[index] for index in classes),
            name=self.name,
            roles=None if self.roles is None else self.roles[chosen],
        )

    def split(
        self: _Samples, partition: Callable[[LabeledSamples], Sequence[np.ndarray | None]]
    ) -> list[_Samples | None]:
        """The samples in parts without a common class.

        Args:
            partition: A function from a labelled set to one array of its labels for each part, or `None` for a part
                that is not wanted. `split_classes` makes it.

        Returns:
            A list with a set of the same kind, or `None`, for each part.
        """
        return [None if classes is None else self.subset(classes) for classes in partition(self)]

    def _take(self, indices: np.ndarray, **fields: Any) -> Any:
        """A new set of the samples at these indices; `fields` are the arguments of `LabeledSamples` for it."""
        raise NotImplementedError

    def _check_length(self, kind, samples):
        """Raises a ValueError unless there are as many samples, called `kind`, as labels."""
        if len(samples) != len(self.labels):
            raise ValueError(
                f"{kind} and labels must have the same length. "
                f"Received: {len(samples)} {kind} and {len(self.labels)} labels."
            )


def integer_column(labels):
    """Class labels as an int64 vector.

    Args:
        labels: Integers or booleans `(n,)` or `(n, 1)`, of any width.

    Returns:
        int64 `(n,)`.

    Raises:
        TypeError: If they are not integers.
        ValueError: If they are not a column, or do not fit into int64.
    """
    labels = label_column(labels)
    if not len(labels):
        return labels.astype(np.int64)
    if labels.dtype.kind == "O" and all(isinstance(label, numbers.Integral) for label in labels):
        largest = max(map(abs, labels.tolist()))
    elif labels.dtype.kind in "biu":
        largest = int(labels.max())
    else:
        raise TypeError(
            f"labels must be integers. Received: labels of type {labels.dtype}, such as {labels[0]!r}. "
            "`tfdml.data.encode_labels` numbers names and other values from 0."
        )
    if largest > np.iinfo(np.int64).max:
        raise ValueError(
            f"labels must fit into int64. Received: {largest}. `tfdml.data.encode_labels` numbers them from 0."
        )
    return labels.astype(np.int64)


def check_is_labeled(dataset):
    """Raises a TypeError, which says how to make one, unless this is a labeled set."""
    if not isinstance(dataset, LabeledSamples):
        raise TypeError(
            f"Received: a dataset of type {type(dataset).__name__}. Expected: LabeledImages or LabeledFeatures. Make "
            "one with `tfdml.data.LabeledImages.from_arrays(images, labels)`, `.from_csv(path)`, or "
            "`.from_tf_dataset(dataset)` of a tf.data dataset of (image, label)."
        )
    return dataset


def _checked_split(num_train_classes, num_classes):
    if num_train_classes is None:
        return None
    if not is_integer(num_train_classes) or not 0 < num_train_classes < num_classes:
        raise ValueError(
            f"Received: num_train_classes={num_train_classes!r}; expected an integer with "
            f"0 < num_train_classes < {num_classes}, the number of classes, or None."
        )
    return int(num_train_classes)


def _checked_roles(roles, count):
    if roles is None:
        return None
    roles = np.asarray(roles)
    if roles.shape != (count,):
        raise ValueError(f"Received: roles of shape {roles.shape}; expected ({count},), one for each label.")
    if not np.isin(roles, (BOTH, QUERY, GALLERY)).all():
        raise ValueError(
            f"Received: roles with {sorted(set(roles.tolist()) - {BOTH, QUERY, GALLERY})}; "
            f"expected {BOTH} (both), {QUERY} (query) or {GALLERY} (gallery)."
        )
    return roles.astype(np.int8)
