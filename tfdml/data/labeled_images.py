"""Dataset of images with class labels."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import ArrayLike, PathLike
from tfdml.data.encoding import encode_labels
from tfdml.data.image_tables import read_image_table
from tfdml.data.labeled_samples import LabeledSamples
from tfdml.ops import MAX_PIXELS


# It defines __init__ because `images` is the first argument and has no default.
@dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)
class LabeledImages(LabeledSamples):
    """Dataset of images, in memory or in files, and their class labels.

    Samplers, splits and batches start from it. Usually it is created with `from_arrays`, `from_csv`,
    `from_tf_dataset` or `tfdml.data.folder`, which accept labels of any kind.

    Args:
        images: uint8 array `(n, height, width, channels)`; or `n` paths of image files (JPEG, PNG, GIF, BMP, WebP or
            TIFF) as str, bytes or `pathlib.Path`, where a leading `~` is the home folder.
        labels: Integers `(n,)` or `(n, 1)` from 0 to `len(class_names) - 1`.
        class_names: Sequence of str. `class_names[i]` is the name of label i.
        name: str. Name of the dataset in messages and tables. Default `None`.
        num_train_classes: int. In the published split, classes 0 to `num_train_classes - 1` are for training and the
            others for testing. `None` if there is no published split. Default `None`.
        roles: Integers `(n,)`. Roles of the images in the published evaluation: 1 query, 2 gallery, 0 both. `None` if
            there are no roles. Default `None`.
        max_pixels: int. Largest height · width of an image file; larger ones are rejected before memory is allocated
            for them.
        superclasses: Sequence of str or integers `(num_classes,)`. Super-class of each class. Default `None`.
        annotations: Numbers `(n,)` or `(n, k)`. Positions, multi-hot tags or ids, as for `LabeledSamples`. Default
            `None`.

    Raises:
        TypeError: If images are neither uint8 nor paths, or labels are not integers.
        ValueError: If ranks or lengths do not match, a label has no class name, or the published split or a role is
            out of range.

    Example:
        >>> import numpy as np
        >>> cats = LabeledImages(np.zeros((3, 8, 8, 1), np.uint8), [0, 1, 1], ("tabby", "siamese"))
        >>> len(cats), cats.num_classes, cats.class_counts.tolist()
        (3, 2, [1, 2])
    """

    images: np.ndarray  # type: ignore[misc]
    max_pixels: int = MAX_PIXELS

    def __init__(
        self,
        images: ArrayLike | Sequence[PathLike],
        labels: ArrayLike,
        class_names: Sequence[str],
        name: str | None = None,
        num_train_classes: int | None = None,
        roles: ArrayLike | None = None,
        max_pixels: int = MAX_PIXELS,
        superclasses: ArrayLike | None = None,
        annotations: ArrayLike | None = None,
    ) -> None:
        object.__setattr__(self, "images", _checked_images(images))
        object.__setattr__(self, "max_pixels", check_whole_number("max_pixels", max_pixels, minimum=1))
        super().__init__(labels, tuple(class_names), name, num_train_classes, roles, superclasses, annotations)
        self._check_length("images", self.images)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike,
        image_column: str = "path",
        label_column: str | None = "label",
        root: str | os.PathLike | None = None,
        *,
        annotation_columns: Sequence[str] = (),
        name: str | None = None,
        delimiter: str = ",",
        verify: bool = True,
        on_unreadable: str = "error",
        max_pixels: int = MAX_PIXELS,
        tag_column: str | None = None,
        tag_separator: str = "|",
    ) -> LabeledImages:
        """Create a dataset from a CSV file of image paths and labels.

        Images are decoded when batches are made.

        Args:
            path: str or `os.PathLike`. CSV file in UTF-8 with a header.
            image_column: str. Name of the column of paths. Default `"path"`.
            label_column: str or `None`. Name of the column of labels, which are names or integers. `None` puts all
                images into one class, if there are `annotation_columns` or a `tag_column` instead. Default `"label"`.
            root: str or `os.PathLike`. Folder to which relative paths refer. `None` means the folder of the CSV file.
                Default `None`.
            annotation_columns: Sequence of str. Names of the columns of numbers that become `annotations`, such as the
                coordinates of the camera. Default (), no annotations.
            name: str. Name of the dataset in messages and tables. `None` uses the name of the file. Default `None`.
            delimiter: str. Column separator. Default `","`.
            verify: bool. Decode each file once to check it, as for `tfdml.data.folder`. Default `True`.
            on_unreadable: `"error"` or `"skip"`, as for `tfdml.data.folder`. Default `"error"`.
            max_pixels: int. Largest height · width of an image; larger files count as unreadable.
            tag_column: str or `None`. Name of a column of tags, such as `sea|sky`, which become multi-hot
                `annotations` with a column for each tag in sorted order. Default `None`.
            tag_separator: str. What separates the tags of an image. Default `"|"`.

        Returns:
            `LabeledImages` of paths, in the order of the rows. `class_names` are the labels as str, sorted; integers
            are sorted as numbers.

        Raises:
            FileNotFoundError: If the CSV file or images are missing; the message counts and names them.
            ValueError: If a column is missing, the file is empty, a row is incomplete, an image is unreadable, all
                rows have the same label, an annotation is not a finite number, an image has no tags, or an argument is
                invalid.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     for name in ("a.png", "b.png"):
            ...         tf.io.write_file(os.path.join(folder, name), tf.io.encode_png(np.zeros((8, 8, 3), "uint8")))
            ...     table = pathlib.Path(folder, "photos.csv")
            ...     _ = table.write_text("path,label\\na.png,tabby\\nb.png,siamese\\n")
            ...     cats = LabeledImages.from_csv(table)
            >>> cats.name, cats.class_names, cats.labels.tolist()
            ('photos', ('siamese', 'tabby'), [1, 0])
        """
        images, labels, annotations = read_image_table(
            path, image_column, label_column, root, delimiter, verify, on_unreadable, max_pixels, annotation_columns,
            tag_column, tag_separator,
        )  # fmt: skip
        labels, class_names = encode_labels(labels)
        name = name or pathlib.Path(os.fsdecode(path)).stem
        return cls(images, labels, class_names, name, max_pixels=max_pixels, annotations=annotations)

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        labels: Any = None,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        annotations: Any = None,
    ) -> LabeledImages:
        """Create a dataset from arrays of images and labels.

        Args:
            images: Array `(n, height, width, channels)` or, for gray images, `(n, height, width)`, of integers in 0–255
                or floats in 0–1; or `n` paths. Floats are rounded to 256 levels.
            labels: Integers, with or without gaps, or names, `(n,)` or `(n, 1)`, as for `encode_labels`. `None` puts
                all images into one class, if there are `annotations` instead. Default `None`.
            class_names: Sequence of str. Names of the classes. Integer labels are indices into it; other labels must be
                elements of it. `None` uses the distinct labels in sorted order. Default `None`.
            name: str. Name of the dataset in messages and tables. Default `None`.
            annotations: Numbers `(n,)` or `(n, k)`. Positions, multi-hot tags or ids, as for `LabeledSamples`. Default
                `None`.

        Returns:
            `LabeledImages`.

        Raises:
            TypeError: If images have another type.
            ValueError: If shapes do not match, values are NaN or out of range, a label is missing or not in
                `class_names`, or there are neither labels nor annotations.

        Example:
            >>> import numpy as np
            >>> cats = LabeledImages.from_arrays(np.zeros((3, 8, 8)), ["tabby", "siamese", "tabby"])
            >>> cats.class_names, cats.labels.tolist(), cats.image_shape
            (('siamese', 'tabby'), [1, 0, 1], (8, 8, 1))
            >>> LabeledImages.from_arrays(np.zeros((2, 8, 8)), [0, 1], ("tabby", "siamese")).class_names
            ('tabby', 'siamese')
        """
        if labels is None:
            if annotations is None:
                raise ValueError("Images have neither labels nor annotations. Expected: at least one of the two.")
            labels = np.zeros(len(images), np.int64)
        images = np.asarray(images)
        if images.ndim > 1 and images.dtype.kind in "fiub" and images.dtype != np.uint8:
            images = _quantized(images) if images.dtype.kind == "f" else _as_bytes(images)
        if images.dtype == np.uint8 and images.ndim == 3:
            images = images[..., np.newaxis]
        if class_names is None:
            labels, class_names = encode_labels(labels)
        elif np.asarray(labels).dtype.kind not in "iub":
            labels, class_names = encode_labels(labels, class_names)
        return cls(images, labels, class_names, name, annotations=annotations)

    @classmethod
    def from_tf_dataset(cls, dataset: tf.data.Dataset, name: str | None = None) -> LabeledImages:
        """Create a dataset from a finite `tf.data.Dataset`, which is read once and kept in memory.

        Args:
            dataset: `tf.data.Dataset` of (image, label), single or in batches. Images have the same size and a type
                that `from_arrays` accepts; labels are integers or strings.
            name: str. Name of the dataset in messages and tables. Default `None`.

        Returns:
            `LabeledImages`, as for `from_arrays`.

        Raises:
            TypeError: If `dataset` is not a `tf.data.Dataset` of pairs.
            ValueError: If `dataset` is endless or empty, or images differ in size.

        Example:
            >>> import numpy as np
            >>> import tensorflow as tf
            >>> pairs = tf.data.Dataset.from_tensor_slices((np.zeros((4, 8, 8, 3), "uint8"), [3, 7, 7, 3]))
            >>> LabeledImages.from_tf_dataset(pairs.batch(3)).class_names
            ('3', '7')
        """
        spec = getattr(dataset, "element_spec", type(dataset).__name__)
        is_of_pairs = isinstance(spec, tuple) and len(spec) == 2 and all(isinstance(one, tf.TensorSpec) for one in spec)
        if not isinstance(dataset, tf.data.Dataset) or not is_of_pairs:
            raise TypeError(
                f"The dataset does not consist of pairs. Received: {spec}. Expected: a tf.data.Dataset of (image, "
                "label). Use `dataset.map` to convert other elements to pairs."
            )
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("The dataset is endless. Received: a repeated dataset. Pass it without repeat().")
        images, labels = [], []
        for image, label in dataset.as_numpy_iterator():
            # The labels distinguish a batch of gray images without channels from a single image.
            is_batched = np.ndim(image) == 4 or (np.ndim(image) == 3 and np.shape(label)[:1] == (len(image),))
            images.append(image if is_batched else image[np.newaxis])
            labels.append(np.reshape(label, [len(images[-1]), -1]))
        if not images:
            raise ValueError("The dataset is empty. Expected: at least one (image, label).")
        sizes = sorted({batch.shape[1:] for batch in images})
        if len(sizes) > 1:
            raise ValueError(
                f"Images must have the same size. Received: shapes {', '.join(map(str, sizes[:5]))}. Resize them with "
                "dataset.map, or keep them in files and use `tfdml.data.folder` or `LabeledImages.from_csv`."
            )
        return cls.from_arrays(np.concatenate(images), np.concatenate(labels), name=name)

    def __repr__(self):
        shape = self.image_shape
        kind = "paths" if shape is None else "x".join(map(str, shape))
        return f"LabeledImages(name={self.name!r}, images={len(self)} ({kind}), classes={self.num_classes})"

    @property
    def holds_paths(self) -> bool:
        """Whether the images are paths of files instead of arrays."""
        return self.images.ndim == 1

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """Shape (height, width, channels) of the images; `None` for paths, whose images may differ."""
        if self.holds_paths:
            return None
        height, width, channels = self.images.shape[1:]
        return (height, width, channels)

    @property
    def encoded_paths(self) -> list[bytes] | None:
        """The paths as bytes, in the file system's encoding; `None` for images in memory.

        `images` contains them as str, in which bytes that are not UTF-8 are surrogates.
        """
        return [os.fsencode(path) for path in self.images.tolist()] if self.holds_paths else None

    def _take(self, indices, **fields):
        return LabeledImages(self.images[indices], max_pixels=self.max_pixels, **fields)


def _checked_images(images):
    images = np.asarray(images)
    # "T" is the StringDType of NumPy 2.
    if images.dtype.kind in "USTO" and images.ndim == 1:
        return np.asarray([_path(path) for path in images.tolist()], dtype=str)
    if images.dtype != np.uint8:
        raise TypeError(
            "images must be uint8 in 0..255, or a list of paths. "
            f"Received: an array of type {images.dtype} and shape {images.shape}. {_advice(images)}"
        )
    if images.ndim != 4:
        raise ValueError(
            "images must have rank 4. "
            f"Received: images of shape {images.shape}. Expected: (n, height, width, channels)."
        )
    if not images.size and len(images) or images.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(
            f"images must have pixels, and 1 to 4 channels. Received: images of shape {images.shape}. "
            "Expected: (n, height, width, channels)."
        )
    return images


def _quantized(images):
    is_right = (images >= 0) & (images <= 1)
    if not is_right.all():
        wrong = images[~is_right]
        raise ValueError(
            f"Images of floats must be in 0–1. Received: {wrong.size} other values, such as {wrong[0]}. "
            "Pass images.astype('uint8') if they are in 0–255."
        )
    return np.rint(images.astype(np.float32) * 255).astype(np.uint8)


def _as_bytes(images):
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    is_right = (images >= 0) & (images <= 255)
    if not is_right.all():
        wrong = images[~is_right]
        raise ValueError(
            f"Images of integers must be in 0–255. Received: {wrong.size} other values of {images.dtype}, such as "
            f"{wrong[0]}. Scale them, and pass uint8."
        )
    return images.astype(np.uint8)


def _path(path):
    if not isinstance(path, (str, bytes, os.PathLike)):
        raise TypeError(f"images must be uint8 in 0..255, or a list of paths. Received: {path!r} as a path.")
    return os.path.expanduser(os.fsdecode(path))


def _advice(images):
    if images.dtype.kind != "f" or not images.size:
        return "Expected: uint8, or paths as text."
    if not np.isfinite(images).all():
        return f"{np.count_nonzero(~np.isfinite(images))} of the values are not finite. Expected: uint8."
    if images.min() >= 0 and images.max() <= 1:
        return "Pass np.rint(255 * images).astype(np.uint8)."
    return "Expected: uint8. Scale the values to 0..255, and pass images.astype(np.uint8)."
