"""Folder of images with one subfolder per class."""

from __future__ import annotations

import logging
import os
import pathlib

import numpy as np

from tfdml._utils.arguments import check_choice, check_whole_number
from tfdml._utils.types import PathLike
from tfdml.data.image_files import ENDINGS, check_reading_options, listed, unreadable
from tfdml.data.labeled_images import LabeledImages
from tfdml.ops import MAX_PIXELS

_LOGGER = logging.getLogger(__name__)
_NESTED = (None, "same_class", "own_class")
# Files that Windows leaves next to images.
_NOT_MENTIONED = ("thumbs.db", "desktop.ini")


def folder(
    path: PathLike,
    verify: bool = True,
    on_unreadable: str = "error",
    nested: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> LabeledImages:
    """Load images from a folder with one subfolder per class.

    Use it for your own images. Classes are the subfolders, sorted by name; images are the files with an extension of
    JPEG, PNG, GIF (first frame), BMP, WebP or TIFF. They are decoded when batches are made, and turned upright
    according to their EXIF orientation. Hidden files and folders are ignored; a warning counts and names all other
    files that are skipped.

    Args:
        path: str or `os.PathLike`. Folder with one subfolder per class.
        verify: bool. Decode each file once (JPEGs at an eighth of their size) to find unreadable files before training.
            A file that becomes unreadable later causes an error that names it. Default `True`.
        on_unreadable: `"error"` raises a ValueError that names unreadable files; `"skip"` omits them with a warning.
            Requires `verify`. Default `"error"`.
        nested: How to treat images in folders below the class folders. `None` skips them with a warning;
            `"same_class"` assigns them to the class of the folder directly below `path`; `"own_class"` makes each
            folder that contains images a class, named by its path (`"dog/beagle"`), and the folders directly below
            `path` superclasses (`"dog"`). Default `None`.
        max_pixels: int. Largest height · width of an image; larger files count as unreadable, here and when they are
            decoded later.

    Returns:
        `LabeledImages` of paths; the class names are the names of the subfolders. There are superclasses if
        `nested="own_class"` finds nested folders.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If the folder has no subfolders, a class has no images, an image is unreadable (the message names
            its path), or an argument is invalid.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> with tempfile.TemporaryDirectory() as photos:
        ...     for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        ...         os.makedirs(os.path.join(photos, os.path.dirname(name)), exist_ok=True)
        ...         tf.io.write_file(os.path.join(photos, name), tf.io.encode_png(np.zeros((8, 8, 3), "uint8")))
        ...     images = folder(photos)
        >>> images.class_names, images.labels.tolist()
        (('cat', 'dog'), [0, 0, 1])
    """
    check_choice("nested", nested, _NESTED)
    max_pixels = check_whole_number("max_pixels", max_pixels, minimum=1)
    check_reading_options(verify, on_unreadable)
    root = pathlib.Path(os.fsdecode(path)).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"The folder does not exist. Received: path={str(root)!r}.")
    found, skipped = find_images(root, nested)
    if not found:
        raise ValueError(
            f"The folder has no classes. Received: path={str(root)!r}. "
            "Expected: one subfolder per class, with images in it."
        )
    if skipped:
        advice = _advice_on_nested(skipped, root) if nested is None else ""
        _LOGGER.warning(
            "Skipped %d files in %s that are not images of a class: %s.%s", len(skipped), root, listed(skipped), advice
        )
    if verify:
        problems = unreadable([path for paths in found.values() for path in paths], on_unreadable, max_pixels)
        for paths in found.values():
            paths[:] = [path for path in paths if path not in problems]
    empty = {str(root / name): None for name, paths in found.items() if not paths}
    if empty:
        advice = _advice_on_nested(skipped, root) if nested is None else ""
        raise ValueError(
            f"Classes without images. Received: {listed(empty)}. Expected: files with the extensions "
            f"{', '.join(ENDINGS)} in each of them.{advice}"
        )
    paths = [path for of_class in found.values() for path in of_class]
    labels = np.repeat(np.arange(len(found)), [len(of_class) for of_class in found.values()])
    superclasses = [name.partition("/")[0] for name in found] if any("/" in name for name in found) else None
    return LabeledImages(
        np.array(paths), labels, tuple(found), root.resolve().name, max_pixels=max_pixels, superclasses=superclasses
    )


def find_images(root, nested=None):
    """Find the image files of a folder.

    Args:
        root: `pathlib.Path`.
        nested: As for `folder`.

    Returns:
        Pair of dicts: from each class to its sorted paths, and from the paths of other files that are not hidden, among
        them images outside of classes, to `None`.
    """
    found: dict[str, list[str]] = {}
    skipped: dict[str, None] = {}
    for place, names, files in os.walk(root, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith(".") and not _leads_back(place, name))
        parts = pathlib.Path(place).relative_to(root).parts
        if len(parts) == 1 and nested != "own_class":
            found.setdefault(parts[0], [])
        for name in sorted(files):
            if name.startswith(".") or name.lower() in _NOT_MENTIONED:
                continue
            path = os.path.join(place, name)
            is_image = name.lower().endswith(ENDINGS)
            if is_image and len(parts) >= 1 and (len(parts) == 1 or nested is not None):
                found.setdefault("/".join(parts) if nested == "own_class" else parts[0], []).append(path)
            # Files next to the class folders, such as a README, are not reported.
            elif is_image or parts:
                skipped[path] = None
    return dict(sorted(found.items())), skipped


def _leads_back(place, name):
    """Return whether a folder is a link to one of its parent folders."""
    target, place = os.path.realpath(os.path.join(place, name)), os.path.realpath(place)
    return place == target or place.startswith(os.path.join(target, ""))


def _advice_on_nested(skipped, root):
    nested = [path for path in skipped if len(pathlib.Path(path).relative_to(root).parts) > 2]
    count = sum(path.lower().endswith(ENDINGS) for path in nested)
    return f" {count} of them are images in nested folders: pass nested='same_class' or 'own_class'." if count else ""
