"""Images listed in a CSV file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tfdml.data.labeled_images import LabeledImages
from tfdml.ops import MAX_PIXELS


def csv(
    path: str | os.PathLike,
    image_column: str = "path",
    label_column: str | None = "label",
    root: str | os.PathLike | None = None,
    delimiter: str = ",",
    verify: bool = True,
    on_unreadable: str = "error",
    max_pixels: int = MAX_PIXELS,
    annotation_columns: Sequence[str] = (),
    tag_column: str | None = None,
    tag_separator: str = "|",
) -> LabeledImages:
    """Load images listed in a CSV file of paths and labels, positions or tags.

    Use it for your own images if their labels are in a table. For one folder per class, use `folder`.

    Args:
        path, image_column, label_column, root, delimiter, verify, on_unreadable, max_pixels, annotation_columns,
        tag_column, tag_separator: As for `LabeledImages.from_csv`.

    Returns:
        `LabeledImages` of paths, in the order of the rows.

    Raises:
        FileNotFoundError: As for `LabeledImages.from_csv`.
        ValueError: As for `LabeledImages.from_csv`.

    Example:
        `images = csv("photos.csv", image_column="file", label_column="product")`
    """
    return LabeledImages.from_csv(
        path, image_column, label_column, root, delimiter=delimiter, verify=verify, on_unreadable=on_unreadable,
        max_pixels=max_pixels, annotation_columns=annotation_columns, tag_column=tag_column,
        tag_separator=tag_separator,
    )  # fmt: skip
