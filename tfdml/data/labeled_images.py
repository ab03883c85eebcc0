"""A set of pictures with class labels."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class LabeledImages:
    """Pictures and their classes, in memory or as paths of files.

    Args:
        images: uint8 `(n, height, width, channels)`, or an array of `n` paths of PNG or JPEG files.
        labels: Integers `(n,)` from 0 to `len(class_names) - 1`.
        class_names: The classes' names; label `i` belongs to `class_names[i]`.
        name: What the set is called in messages and tables.

    Raises:
        TypeError: If images are neither uint8 nor paths, or labels are no integers.
        ValueError: If ranks or lengths do not match, or a label has no class name.

    Example:
        >>> import numpy as np
        >>> cats = LabeledImages(np.zeros((3, 8, 8, 1), np.uint8), [0, 1, 1], ("tabby", "siamese"))
        >>> len(cats), cats.num_classes, cats.class_counts.tolist()
        (3, 2, [1, 2])
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    name: str | None = None

    def __post_init__(self):
        images, labels = _checked_images(self.images), np.asarray(self.labels)
        if labels.ndim != 1:
            raise ValueError(
                f"labels must have rank 1. Received: labels of shape {labels.shape}; expected (n,)."
            )
        if len(labels) != len(images):
            raise ValueError(
                "images and labels must have the same length. "
                f"Received: {len(images)} images and {len(labels)} labels."
            )
        if len(labels) and labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers. Received: labels of type {labels.dtype}.")
        labels = labels.astype(np.int64)
        class_names = tuple(str(class_name) for class_name in self.class_names)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(class_names):
            raise ValueError(
                f"labels must be in 0..{len(class_names) - 1}, one for each class name. "
                f"Received: labels from {labels.min()} to {labels.max()} with {len(class_names)} class names."
            )
        for field, value in (("images", images), ("labels", labels), ("class_names", class_names)):
            object.__setattr__(self, field, value)

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        kind = "paths" if self.holds_paths else "x".join(map(str, self.image_shape))
        return f"LabeledImages(name={self.name!r}, images={len(self)} ({kind}), classes={self.num_classes})"

    @property
    def num_classes(self):
        """How many classes there are."""
        return len(self.class_names)

    @property
    def class_counts(self):
        """Pictures of each class, `(num_classes,)`."""
        return np.bincount(self.labels, minlength=self.num_classes)

    @property
    def holds_paths(self):
        """Whether the pictures are paths of files rather than arrays."""
        return self.images.ndim == 1

    @property
    def image_shape(self):
        """`(height, width, channels)`, or `None` for paths, whose pictures may differ."""
        return None if self.holds_paths else self.images.shape[1:]

    def subset(self, class_indices):
        """The pictures of some classes, relabelled 0, 1, … in the given order of classes.

        Args:
            class_indices: Distinct labels of this set.

        Returns:
            A `LabeledImages` whose pictures keep this set's order.

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
        return LabeledImages(
            self.images[chosen],
            new_labels[self.labels[chosen]],
            tuple(self.class_names[index] for index in classes),
            name=self.name,
        )

    def split(self, partition):
        """The pictures in parts without a common class.

        Args:
            partition: A function from a number of classes to one array of labels for each part, or `None` for a part
                that is not wanted. `split_classes` makes it.

        Returns:
            A list with a `LabeledImages`, or `None`, for each part.
        """
        parts = partition(self.num_classes)
        return [None if classes is None else self.subset(classes) for classes in parts]


def _checked_images(images):
    images = np.asarray(images)
    if images.dtype.kind in "UO" and images.ndim == 1:
        return np.asarray([str(path) for path in images], dtype=str)
    if images.dtype != np.uint8:
        raise TypeError(
            "images must be uint8 in 0..255, or a list of paths. "
            f"Received: an array of type {images.dtype} and shape {images.shape}."
        )
    if images.ndim != 4:
        raise ValueError(
            "images must have rank 4. "
            f"Received: images of shape {images.shape}; expected (n, height, width, channels)."
        )
    return images
