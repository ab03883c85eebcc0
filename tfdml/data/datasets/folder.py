"""Any folder of images with one sub-folder for each class."""

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
    """Images in files, one sub-folder for each class; they are decoded when batches are made.

    Classes are the sub-folders in the order of their names. Their images are the files with an ending of JPEG, PNG,
    GIF (the first frame counts), BMP, WebP or TIFF. Images are turned upright as their EXIF orientation says. Hidden
    files and folders are ignored; a warning counts and names all other files that are skipped.

    Args:
        path: The folder.
        verify: Whether to decode each file once (JPEGs at an eighth of their size), to find unreadable ones before
            training. A file that breaks later is named by the pipeline when it meets it.
        on_unreadable: What to do with files that `verify` finds unreadable: `"error"` names them in a ValueError;
            `"skip"` leaves them out and names them in a warning.
        nested: What images in folders below those of the classes are: `None` skips them, with a warning;
            `"same_class"` gives them the class of the folder right below `path`; `"own_class"` makes each folder that
            holds images a class of its own, named by its path (`"dog/beagle"`).
        max_pixels: Largest height · width of an image; a file that claims more is unreadable, here and wherever the
            images are decoded later.

    Returns:
        `LabeledImages` whose images are paths; a class is named by its sub-folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder has no sub-folder, a class has no image, an image is unreadable (the message names
            the path), or an argument is invalid.
    """
    check_choice("nested", nested, _NESTED)
    max_pixels = check_whole_number("max_pixels", max_pixels, minimum=1)
    check_reading_options(verify, on_unreadable)
    root = pathlib.Path(os.fsdecode(path)).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"There is no such folder. Received: path={str(root)!r}.")
    found, skipped = _find(root, nested)
    if not found:
        raise ValueError(
            f"The folder holds no classes. Received: path={str(root)!r}. "
            "Expected: one sub-folder for each class, with images in it."
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
            f"Classes without images. Received: {listed(empty)}. Expected: files with the endings "
            f"{', '.join(ENDINGS)} in them.{advice}"
        )
    paths = [path for of_class in found.values() for path in of_class]
    labels = np.repeat(np.arange(len(found)), [len(of_class) for of_class in found.values()])
    return LabeledImages(np.array(paths), labels, tuple(found), name=root.resolve().name, max_pixels=max_pixels)


def _find(root, nested):
    """The paths of the images of each class, sorted, and those of the other files that are not hidden."""
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
            # Files next to the classes, such as a README, do not look like lost images.
            elif is_image or parts:
                skipped[path] = None
    return dict(sorted(found.items())), skipped


def _leads_back(place, name):
    """Whether a folder is a link to one that it lies in."""
    target, place = os.path.realpath(os.path.join(place, name)), os.path.realpath(place)
    return place == target or place.startswith(os.path.join(target, ""))


def _advice_on_nested(skipped, root):
    nested = [path for path in skipped if len(pathlib.Path(path).relative_to(root).parts) > 2]
    count = sum(path.lower().endswith(ENDINGS) for path in nested)
    return f" {count} of them are images in nested folders: pass nested='same_class' or 'own_class'." if count else ""
