"""Emoji: the drawings of nine design houses."""

from __future__ import annotations

import json
import pathlib

import numpy as np

from tfdml._utils.arguments import check_choice
from tfdml._utils.types import PathLike
from tfdml.data import emoji_files
from tfdml.data.labeled_images import LabeledImages
from tfdml.data.list_files import counts_of, first_half, missing_files


def emoji(path: PathLike, verify: bool = True, counts: str = "published") -> LabeledImages:
    """Emoji as nine design houses draw them: 11,357 color images of 1,559 classes, 5 to 9 of each.

    Like Stanford Online Products it has many classes of few images, but it can be had offline, and its drawings may be
    used again: `tfdml-prepare emoji PATH` renders them from npm packages (`tfdml.data.emoji_files.prepare_emoji`).

    Args:
        path: Folder that `tfdml-prepare emoji` prepared.
        verify: Whether all images must be there.
        counts: `"published"` accepts the whole dataset only; `"any"` accepts other numbers of classes and images.

    Returns:
        `LabeledImages` of paths. Classes are in a fixed random order (by the SHA-256 of their names); the first half
        is for training and validation.

    Raises:
        FileNotFoundError: If the dataset or an image is not there; the message says what to do.
        ValueError: If its index is damaged, or the counts are not the published ones.
    """
    check_choice("counts", counts, ("published", "any"))
    root = pathlib.Path(path).expanduser()
    index = root / emoji_files.INDEX
    if not index.is_file():
        raise FileNotFoundError(
            f"{emoji_files.TITLE} is not there. Received: path={str(path)!r} without {index.name}. "
            f"{emoji_files.advice(path)}"
        )
    classes = _read_classes(index)
    paths = [str(root / "images" / name / f"{house}.png") for name, houses in classes.items() for house in houses]
    images = LabeledImages(
        np.array(paths),
        np.repeat(np.arange(len(classes)), [len(houses) for houses in classes.values()]),
        list(classes),
        name="emoji",
        num_train_classes=first_half(len(classes)),
    )
    found = counts_of(images)
    if counts == "published" and any(found[kind] != count for kind, count in emoji_files.COUNTS.items()):
        raise ValueError(
            f"These are not the images of {emoji_files.TITLE}. Received: {root} with {found['classes']:,} classes and "
            f"{found['images']:,} images. Expected: {emoji_files.COUNTS['classes']:,} and "
            f"{emoji_files.COUNTS['images']:,}. Pass counts='any' for other versions of the packages."
        )
    missing = missing_files(paths) if verify else []
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(paths)} images of {emoji_files.TITLE} are not there. Received: no "
            f"{', '.join(missing[:5])}. {emoji_files.advice(path)}"
        )
    return images


def _read_classes(index):
    try:
        classes = json.loads(index.read_text(encoding="utf-8"))["classes"]
        names = [*classes, *(house for houses in classes.values() for house in houses)]
        if not names or not all(isinstance(name, str) and name and "/" not in name for name in names):
            raise ValueError("names must be text without a slash")
        return classes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"Damaged index of {emoji_files.TITLE}. Received: {index} ({error}). Run tfdml-prepare again."
        ) from error
