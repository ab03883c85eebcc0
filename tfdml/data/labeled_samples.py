"""Base class of labeled datasets, whether their samples are images or features."""

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
    """Base class of labeled datasets: labels, class names, published split and roles.

    Subclass it to add another kind of sample: store one sample per label, and implement `_take`. For images and
    features, use `LabeledImages` and `LabeledFeatures`.

    Args:
        labels: Integers `(n,)` or `(n, 1)` from 0 to `len(class_names) - 1`; booleans are 0 and 1. `encode_labels`
            converts names and integers with gaps.
        class_names: Sequence of str. `class_names[i]` is the name of label i. Two classes may have the same name.
        name: str. Name of the dataset in messages and tables. Default `None`.
        num_train_classes: int. In the published split, classes 0 to `num_train_classes - 1` are for training and the
            others for testing. `None` if there is no published split. Default `None`.
        roles: Integers `(n,)`. Roles of the samples in the published evaluation: 1 query, 2 gallery, 0 both. `None` if
            there are no roles. Default `None`.
        superclasses: Sequence of str or integers `(num_classes,)`. Super-class of each class, such as the category of a
            product, for batches of few super-classes. Default `None`.
        annotations: Numbers `(n,)` or `(n, k)`. What a relation of `tfdml.relations` compares instead of classes:
            positions, multi-hot tags or ids. `related_batches` returns them. Default `None`.

    Raises:
        TypeError: If labels are not integers or annotations are not numbers.
        ValueError: If ranks or lengths do not match, a label has no class name, or the published split or a role is
            out of range.

    Example:
        >>> samples = LabeledSamples([0, 1, 0, 2], ("ash", "elm", "oak"))
        >>> len(samples), samples.num_classes, samples.class_counts.tolist()
        (4, 3, [2, 1, 1])
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str | None = None
    num_train_classes: int | None = None
    roles: np.ndarray | None = None
    superclasses: np.ndarray | None = None
    annotations: np.ndarray | None = None

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
            "superclasses": _checked_superclasses(self.superclasses, len(class_names)),
            "annotations": _checked_annotations(self.annotations, len(labels)),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def class_counts(self) -> np.ndarray:
        """Number of samples of each class, integers `(num_classes,)`."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @property
    def is_query(self) -> np.ndarray | None:
        """Which samples are queries, bool `(n,)`; the others are the gallery. `None` if a sample has no single role."""
        if self.roles is None or (self.roles == BOTH).any():
            return None
        return self.roles == QUERY

    def subset(self: _Samples, class_indices: ArrayLike) -> _Samples:
        """Return the samples of some classes, relabeled 0, 1, … in the given order of classes.

        Args:
            class_indices: Integers. Distinct labels of this dataset.

        Returns:
            Dataset of the same kind. Samples keep their order and their roles; there is no published split.

        Raises:
            ValueError: If a class is out of range or given twice.
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
            superclasses=None if self.superclasses is None else self.superclasses[classes],
            **self._annotations_of(chosen),
        )

    def select(self: _Samples, indices: ArrayLike) -> _Samples:
        """Return some of the samples, with the same classes.

        Use it to divide samples by other criteria than classes, such as the route or the day of a photograph.

        Args:
            indices: Integers, or a bool mask `(n,)`. Indices of samples, in the order of the result.

        Returns:
            Dataset of the same kind, without a published split.

        Raises:
            ValueError: If an index is out of range, or the mask has another length.

        Example:
            >>> from tfdml.data import LabeledFeatures
            >>> points = LabeledFeatures(np.eye(3, dtype="float32"), [0, 1, 0], ("a", "b"))
            >>> points.select([2, 1]).labels.tolist()
            [0, 1]
        """
        chosen = np.asarray(indices)
        if chosen.dtype == bool and chosen.shape == (len(self),):
            chosen = np.flatnonzero(chosen)
        is_right = chosen.ndim == 1 and (not chosen.size or chosen.dtype.kind in "iu")
        if not is_right or (chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self)):
            raise ValueError(
                f"Indices do not select samples. Received: {chosen!r:.80}. Expected: integers in 0..{len(self) - 1}, "
                f"or a bool mask of length {len(self)}."
            )
        chosen = chosen.astype(np.int64)
        return self._take(
            chosen,
            labels=self.labels[chosen],
            class_names=self.class_names,
            name=self.name,
            roles=None if self.roles is None else self.roles[chosen],
            superclasses=self.superclasses,
            **self._annotations_of(chosen),
        )

    def _annotations_of(self, indices):
        # Subclasses of earlier versions do not know of annotations.
        return {} if self.annotations is None else {"annotations": self.annotations[indices]}

    def split(
        self: _Samples, partition: Callable[[LabeledSamples], Sequence[np.ndarray | None]]
    ) -> list[_Samples | None]:
        """Split the samples into parts with disjoint classes. Called by `split_classes`.

        Args:
            partition: Function from a labeled dataset to a list with one array of labels per part, or `None` for a part
                that is not needed.

        Returns:
            List with one dataset of the same kind, or `None`, per part.
        """
        return [None if classes is None else self.subset(classes) for classes in partition(self)]

    def _take(self, indices: np.ndarray, **fields: Any) -> Any:
        """Return a new dataset of the samples at these indices; `fields` are its arguments of `LabeledSamples`."""
        raise NotImplementedError

    def _check_length(self, kind, samples):
        """Raise a ValueError unless the number of samples, called `kind`, equals the number of labels."""
        if len(samples) != len(self.labels):
            raise ValueError(
                f"{kind} and labels must have the same length. "
                f"Received: {len(samples)} {kind} and {len(self.labels)} labels."
            )


def integer_column(labels):
    """Return class labels as an int64 vector.

    Args:
        labels: Integers or booleans of any width, `(n,)` or `(n, 1)`.

    Returns:
        int64 array `(n,)`.

    Raises:
        TypeError: If labels are not integers.
        ValueError: If labels are not a column, or exceed int64.
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
            "Use `tfdml.data.encode_labels` for names and other values."
        )
    if largest > np.iinfo(np.int64).max:
        raise ValueError(
            f"labels must fit into int64. Received: {largest}. Use `tfdml.data.encode_labels` to renumber them."
        )
    return labels.astype(np.int64)


def check_is_labeled(dataset):
    """Raise a TypeError with advice unless this is a labeled dataset."""
    if not isinstance(dataset, LabeledSamples):
        raise TypeError(
            f"This is not a labeled dataset. Received: {type(dataset).__name__}. Expected: LabeledImages or "
            "LabeledFeatures. Create one with `tfdml.data.LabeledImages.from_arrays(images, labels)`, "
            "`.from_csv(path)` or `.from_tf_dataset(dataset)`."
        )
    return dataset


def _checked_split(num_train_classes, num_classes):
    if num_train_classes is None:
        return None
    if not is_integer(num_train_classes) or not 0 < num_train_classes < num_classes:
        raise ValueError(
            f"Invalid num_train_classes. Received: num_train_classes={num_train_classes!r}. Expected: an integer with "
            f"0 < num_train_classes < {num_classes}, the number of classes, or None."
        )
    return int(num_train_classes)


def _checked_superclasses(superclasses, num_classes):
    if superclasses is None:
        return None
    superclasses = np.asarray(superclasses)
    if superclasses.shape != (num_classes,):
        raise ValueError(
            f"Invalid superclasses. Received: superclasses of shape {superclasses.shape}. Expected: ({num_classes},), "
            "one per class."
        )
    return superclasses


def _checked_annotations(annotations, count):
    if annotations is None:
        return None
    annotations = np.asarray(annotations)
    if annotations.dtype.kind not in "biuf":
        raise TypeError(
            f"Annotations must be numbers. Received: annotations of type {annotations.dtype}. Expected: positions, "
            "multi-hot tags (`tfdml.data.encode_tags`) or ids."
        )
    if annotations.ndim not in (1, 2) or len(annotations) != count:
        raise ValueError(
            f"Annotations must be one for each sample. Received: annotations of shape {annotations.shape}. Expected: "
            f"({count},) or ({count}, k)."
        )
    return annotations


def _checked_roles(roles, count):
    if roles is None:
        return None
    roles = np.asarray(roles)
    if roles.shape != (count,):
        raise ValueError(
            f"Invalid roles. Received: roles of shape {roles.shape}. Expected: ({count},), one role per label."
        )
    if not np.isin(roles, (BOTH, QUERY, GALLERY)).all():
        raise ValueError(
            f"Invalid roles. Received: roles with {sorted(set(roles.tolist()) - {BOTH, QUERY, GALLERY})}. "
            f"Expected: {BOTH} (both), {QUERY} (query) or {GALLERY} (gallery)."
        )
    return roles.astype(np.int8)
