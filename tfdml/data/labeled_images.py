"""A set of pictures with class labels."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfdml.data.labeled_samples import LabeledSamples


# With an __init__ of its own: the pictures come first, before what has defaults.
@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class LabeledImages(LabeledSamples):
    """Pictures and their classes, in memory or as paths of files.

    Args:
        images: uint8 `(n, height, width, channels)`, or an array of `n` paths of PNG or JPEG files.
        labels: Integers `(n,)` from 0 to `len(class_names) - 1`.
        class_names: The classes' names; label `i` belongs to `class_names[i]`.
        name: What the set is called in messages and tables.
        num_train_classes: Classes 0 to `num_train_classes - 1` are published as training classes, the others as test
            classes. `None` if there is no published split.
        roles: Integers `(n,)`: what a picture is for in the published evaluation, 1 a query, 2 one of the gallery,
            0 both. `None` if there are no such roles.

    Raises:
        TypeError: If images are neither uint8 nor paths, or labels are no integers.
        ValueError: If ranks or lengths do not match, a label has no class name, or the published split or a role is
            out of range.

    Example:
        >>> import numpy as np
        >>> cats = LabeledImages(np.zeros((3, 8, 8, 1), np.uint8), [0, 1, 1], ("tabby", "siamese"))
        >>> len(cats), cats.num_classes, cats.class_counts.tolist()
        (3, 2, [1, 2])
    """

    images: np.ndarray

    def __init__(self, images, labels, class_names, name=None, num_train_classes=None, roles=None):
        object.__setattr__(self, "images", _checked_images(images))
        super().__init__(labels, class_names, name, num_train_classes, roles)
        self._check_length("images", self.images)

    def __repr__(self):
        kind = "paths" if self.holds_paths else "x".join(map(str, self.image_shape))
        return f"LabeledImages(name={self.name!r}, images={len(self)} ({kind}), classes={self.num_classes})"

    @property
    def holds_paths(self):
        """Whether the pictures are paths of files rather than arrays."""
        return self.images.ndim == 1

    @property
    def image_shape(self):
        """`(height, width, channels)`, or `None` for paths, whose pictures may differ."""
        return None if self.holds_paths else self.images.shape[1:]

    def _take(self, indices, **fields):
        return LabeledImages(self.images[indices], **fields)


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
