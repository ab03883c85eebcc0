"""A set of feature vectors with class labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfdml._utils.types import ArrayLike
from tfdml.data.labeled_samples import LabeledSamples

_DTYPES = ("float16", "float32", "float64")
# Numbers that are read at once: 64 MB of float32.
_NUMBERS_PER_BLOCK = 2**24


# With an __init__ of its own: the features come first, before what has defaults.
@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class LabeledFeatures(LabeledSamples):
    """Vectors, such as a frozen network's features of images, and their classes.

    Of an array in a file (`np.load(…, mmap_mode="r")`) only what is asked for is read; the subsets of a set share the
    array.

    Args:
        features: float16, float32 or float64 `(n, d)`.
        labels: Integers `(n,)` from 0 to `len(class_names) - 1`.
        class_names: The classes' names; label `i` belongs to `class_names[i]`.
        name: What the set is called in messages and tables.
        num_train_classes: Classes 0 to `num_train_classes - 1` are published as training classes, the others as test
            classes. `None` if there is no published split.
        roles: Integers `(n,)`: what a sample is for in the published evaluation, 1 a query, 2 one of the gallery, 0
            both. `None` if there are no such roles.
        rows: Integers `(n,)`: which rows of `features` belong to the set, in which order; `None` for all.

    Raises:
        TypeError: If features are no floats of these types, or labels are no integers.
        ValueError: If ranks or lengths do not match, a label has no class name, or the published split, a role or a row
            is out of range.

    Example:
        >>> import numpy as np
        >>> points = LabeledFeatures(np.eye(4, dtype="float32"), [0, 1, 0, 2], ("a", "b", "c"))
        >>> points.subset([2, 0]).read([0, 2])
        array([[1., 0., 0., 0.],
               [0., 0., 0., 1.]], dtype=float32)
    """

    features: np.ndarray  # type: ignore[misc]
    rows: np.ndarray | None  # type: ignore[misc]

    def __init__(
        self,
        features: ArrayLike,
        labels: ArrayLike,
        class_names: Sequence[str],
        name: str | None = None,
        num_train_classes: int | None = None,
        roles: ArrayLike | None = None,
        rows: ArrayLike | None = None,
    ) -> None:
        object.__setattr__(self, "features", _checked_features(features))
        object.__setattr__(self, "rows", _checked_rows(rows, len(self.features)))
        super().__init__(labels, tuple(class_names), name, num_train_classes, roles)
        self._check_length("features", self.features if self.rows is None else self.rows)

    def __repr__(self):
        return (
            f"LabeledFeatures(name={self.name!r}, features={len(self)} (of {self.feature_size}), "
            f"classes={self.num_classes})"
        )

    @property
    def feature_size(self) -> int:
        """How many numbers a feature has."""
        return self.features.shape[1]

    def read(self, indices: ArrayLike) -> np.ndarray:
        """Some features as an array.

        Args:
            indices: Integers, or a slice, of this set.

        Returns:
            float32 `(len(indices), feature_size)`.
        """
        chosen = indices if self.rows is None else self.rows[indices]
        with np.errstate(over="ignore"):
            return np.asarray(self.features[chosen], np.float32)

    def not_finite(self) -> np.ndarray:
        """The indices of features that hold NaN or infinity, as float32; they are read block by block."""
        step = max(1, _NUMBERS_PER_BLOCK // self.feature_size)
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(self), step):
            is_finite = np.isfinite(self.read(slice(start, start + step))).all(axis=1)
            found.append(start + np.flatnonzero(~is_finite))
        return np.concatenate(found)

    def _take(self, indices, **fields):
        return LabeledFeatures(self.features, **fields, rows=indices if self.rows is None else self.rows[indices])


def _checked_features(features):
    features = np.asarray(features)
    if features.dtype.name not in _DTYPES:
        raise TypeError(
            f"Received: features of type {features.dtype} and shape {features.shape}; expected {' or '.join(_DTYPES)}."
        )
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"Received: features of shape {features.shape}; expected (n, d).")
    return features


def _checked_rows(rows, count):
    if rows is None:
        return None
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(f"Received: rows of shape {rows.shape} and type {rows.dtype}; expected integers (n,).")
    if rows.size and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(f"Received: rows from {rows.min()} to {rows.max()} of {count} features.")
    return rows.astype(np.int64)
