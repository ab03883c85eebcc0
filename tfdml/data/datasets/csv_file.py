"""A CSV file of image paths and labels."""

from __future__ import annotations

import os

from tfdml.data.labeled_images import LabeledImages
from tfdml.ops import MAX_PIXELS


def csv(
    path: str | os.PathLike,
    image_column: str = "path",
    label_column: str = "label",
    root: str | os.PathLike | None = None,
    delimiter: str = ",",
    verify: bool = True,
    on_unreadable: str = "error",
    max_pixels: int = MAX_PIXELS,
) -> LabeledImages:
    """Images whose paths and labels a CSV file holds; arguments, result and errors of `LabeledImages.from_csv`."""
    return LabeledImages.from_csv(
        path, image_column, label_column, root, delimiter=delimiter, verify=verify, on_unreadable=on_unreadable,
        max_pixels=max_pixels,
    )  # fmt: skip
