"""Any folder of pictures with one sub-folder for each class."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib

import numpy as np
from tqdm import tqdm

from tfdml.data.labeled_images import LabeledImages

_ENDINGS = (".png", ".jpg", ".jpeg")
_FORMATS = ("PNG", "JPEG")


def folder(path, verify=True):
    """Pictures in files, one sub-folder for each class; they are decoded when batches are made.

    Classes are the sub-folders in the order of their names; their pictures are the PNG and JPEG files right
    in them. Other files and hidden ones are passed over. A JPEG's EXIF orientation is not applied.

    Args:
        path: The folder.
        verify: Whether every file is read once, to find unreadable ones before training rather than in it: a
            PNG's checksums, a JPEG's data from begin to end. Without it only a file that is neither PNG nor
            JPEG is named when the pipeline meets it.

    Returns:
        `LabeledImages` whose pictures are paths; a class is named by its sub-folder.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder has no sub-folder, a class has no picture, or a picture is unreadable; the
            message names the path.
    """
    root = pathlib.Path(path).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"There is no such folder. Received: path={str(root)!r}.")
    class_names = sorted(
        entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith(".")
    )
    if not class_names:
        raise ValueError(
            f"The folder holds no classes. Received: path={str(root)!r}; "
            "expected one sub-folder for each class."
        )
    paths, labels = [], []
    for label, class_name in enumerate(class_names):
        names = sorted(
            entry.name
            for entry in os.scandir(root / class_name)
            if entry.is_file() and not entry.name.startswith(".") and entry.name.lower().endswith(_ENDINGS)
        )
        if not names:
            raise ValueError(
                f"A class without pictures. Received: {str(root / class_name)!r}; "
                "expected PNG or JPEG files in it."
            )
        paths += [str(root / class_name / name) for name in names]
        labels += [label] * len(names)
    if verify:
        verify_pictures(paths)
    return LabeledImages(np.array(paths), np.array(labels), tuple(class_names), name=root.resolve().name)


def verify_pictures(paths, progress=False):
    """Reads files and raises a ValueError that names those which are no readable PNG or JPEG pictures.

    Args:
        paths: The files.
        progress: Whether a terminal shows how far it is.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        results = pool.map(_problem, paths)
        bar = tqdm(results, "reading", len(paths), unit=" pictures", disable=None if progress else True)
        problems = list(bar)
    unreadable = [f"{path} ({problem})" for path, problem in zip(paths, problems) if problem is not None]
    if unreadable:
        more = f", and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
        raise ValueError(f"Unreadable pictures. Received: {', '.join(unreadable[:10])}{more}.")


def _problem(path):
    from PIL import Image

    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.format == "JPEG":
                # Goes through the whole file, but decodes it at an eighth of its size.
                picture.draft(picture.mode, (1, 1))
                picture.load()
            else:
                picture.verify()
    except Exception as error:  # Pillow's plugins raise many kinds of error.
        return str(error) or type(error).__name__
    return None
