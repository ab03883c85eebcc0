"""Dataset of feature vectors with class labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfdml._utils.types import ArrayLike
from tfdml.data.labeled_samples import LabeledSamples

_DTYPES = ("float16", "float32", "float64")
# Numbers that are read at once: 64 MB of float32.
_NUMBERS_PER_BLOCK = 2**24


# It defines __init__ because `features` is the first argument and has no default.
@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class LabeledFeatures(LabeledSamples):
    """Dataset of feature vectors and their class labels.

    Use it for precomputed features of a frozen network; train a `build_head` on them. Memory-mapped arrays
    (`np.load(…, mmap_mode="r")`) are read only as needed, and subsets share the array.

    Args:
        features: float16, float32 or float64 array `(n, dim)`.
        labels: Integers `(n,)` or `(n, 1)` from 0 to `len(class_names) - 1`.
        class_names: Sequence of str. `class_names[i]` is the name of label i.
        name: str. Name of the dataset in messages and tables. Default `None`.
        num_train_classes: int. In the published split, classes 0 to `num_train_classes - 1` are for training and the
            others for testing. `None` if there is no published split. Default `None`.
        roles: Integers `(n,)`. Roles of the samples in the published evaluation: 1 query, 2 gallery, 0 both. `None` if
            there are no roles. Default `None`.
        rows: Integers `(n,)`. Rows of `features` that belong to the dataset, in this order. `None` means all. Default
            `None`.
        superclasses: Sequence of str or integers `(num_classes,)`. Super-class of each class. Default `None`.
        annotations: Numbers `(n,)` or `(n, k)`. Positions, multi-hot tags or ids, as for `LabeledSamples`. Default
            `None`.

    Raises:
        TypeError: If features do not have one of these types, or labels are not integers.
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
        superclasses: ArrayLike | None = None,
        annotations: ArrayLike | None = None,
    ) -> None:
        object.__setattr__(self, "features", _checked_features(features))
        object.__setattr__(self, "rows", _checked_rows(rows, len(self.features)))
        super().__init__(labels, tuple(class_names), name, num_train_classes, roles, superclasses, annotations)
        self._check_length("features", self.features if self.rows is None else self.rows)

    def __repr__(self):
        return (
            f"LabeledFeatures(name={self.name!r}, features={len(self)} (of {self.feature_size}), "
            f"classes={self.num_classes})"
        )

    @property
    def feature_size(self) -> int:
        """Size of a feature vector."""
        return self.features.shape[1]

    def read(self, indices: ArrayLike) -> np.ndarray:
        """Return some features as an array.

        Args:
            indices: Integers or a slice. Indices of samples of this dataset.

        Returns:
            float32 array `(len(indices), feature_size)`.
        """
        chosen = indices if self.rows is None else self.rows[indices]
        with np.errstate(over="ignore"):
            return np.asarray(self.features[chosen], np.float32)

    def not_finite(self) -> np.ndarray:
        """Return the indices of features with NaN or infinity in float32. Features are read block by block."""
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
            f"Features must be floats. Received: features of type {features.dtype} and shape {features.shape}. "
            f"Expected: {' or '.join(_DTYPES)}."
        )
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(f"Features must be vectors. Received: features of shape {features.shape}. Expected: (n, dim).")
    return features


def _checked_rows(rows, count):
    if rows is None:
        return None
    rows = np.asarray(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(
            f"Invalid rows. Received: rows of shape {rows.shape} and type {rows.dtype}. Expected: integers (n,)."
        )
    if rows.size and not 0 <= rows.min() <= rows.max() < count:
        raise ValueError(
            f"Rows are out of range. Received: rows from {rows.min()} to {rows.max()}. Expected: 0 <= row < {count}."
        )
    return rows.astype(np.int64)
