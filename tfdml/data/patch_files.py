"""Patches around points of a scene: the files of Brown, Hua and Winder (UBC)."""

from __future__ import annotations

import pathlib

import numpy as np
from PIL import Image

from tfdml._utils.types import PathLike
from tfdml.data.labeled_images import LabeledImages

_SIDE = 64
_PER_ROW = 16
_PER_FILE = _PER_ROW**2


def brown_patches(path: PathLike) -> LabeledImages:
    """Load patches of Brown, Hua and Winder: `liberty`, `notredame`, `yosemite` or another one of their layout.

    The folder has `info.txt`, a line for each patch that begins with the number of its scene point, and files
    `patches0000.bmp`, `patches0001.bmp`, … of 16 × 16 patches of 64×64 pixels. A class is a scene point.

    Args:
        path: str or `os.PathLike`. Folder of the files.

    Returns:
        `LabeledImages`, uint8 of shape `(64, 64, 1)`. 450,092 patches (Liberty) occupy 1.8 GB.

    Raises:
        FileNotFoundError: If `info.txt` or a file of patches is missing.
        ValueError: If `info.txt` is damaged or a file has another size.

    Example:
        `train, test = brown_patches("~/datasets/notredame"), brown_patches("~/datasets/liberty")`

    Reference:
        Brown, Hua and Winder, "Discriminative learning of local image descriptors", TPAMI 2011.
    """
    folder = pathlib.Path(path).expanduser()
    info = folder / "info.txt"
    if not info.is_file():
        raise FileNotFoundError(f"Patches are missing. Received: {str(folder)!r}. Expected: a folder with info.txt.")
    points = _numbers(info, 1)[:, 0]
    patches = np.empty((len(points), _SIDE, _SIDE, 1), np.uint8)
    for number, start in enumerate(range(0, len(points), _PER_FILE)):
        file = folder / f"patches{number:04d}.bmp"
        if not file.is_file():
            raise FileNotFoundError(
                f"A file of patches is missing. Received: {info} with {len(points)} patches. Expected: {file}."
            )
        with Image.open(file) as image:
            sheet = np.asarray(image.convert("L"))
        if sheet.shape != (_PER_ROW * _SIDE, _PER_ROW * _SIDE):
            raise ValueError(f"A file has another size. Received: {file} of shape {sheet.shape}. Expected: 1024×1024.")
        tiles = sheet.reshape(_PER_ROW, _SIDE, _PER_ROW, _SIDE).swapaxes(1, 2).reshape(-1, _SIDE, _SIDE, 1)
        patches[start : start + _PER_FILE] = tiles[: len(points) - start]
    numbers, labels = np.unique(points, return_inverse=True)
    return LabeledImages(patches, labels.ravel(), [str(number) for number in numbers], name=folder.name)


def brown_pairs(path: PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Load the pairs of patches on which descriptors are compared, such as `m50_100000_100000_0.txt`.

    Args:
        path: str or `os.PathLike`. File of lines "patch point unused patch point unused …".

    Returns:
        Tuple of integers `(n, 2)`, indices of patches, and booleans `(n,)`, whether both show the same scene point: the
        arguments `pairs` and `same` of `metrics.verification_metrics`.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line is damaged.
    """
    file = pathlib.Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"The file of pairs is missing. Received: {str(file)!r}. Expected: an existing file.")
    columns = _numbers(file, 5)
    return columns[:, [0, 3]], columns[:, 1] == columns[:, 4]


def _numbers(file, count):
    """The first `count` integers of each line."""
    rows = []
    with open(file, encoding="ascii", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append([int(word) for word in line.split()[:count]])
                if len(rows[-1]) < count:
                    raise ValueError("too few numbers")
            except ValueError as error:
                raise ValueError(
                    f"Damaged list file. Received: {file}, line {number}: {line[:100]!r}. Expected: at least {count} "
                    "integers."
                ) from error
    if not rows:
        raise ValueError(f"Damaged list file. Received: {file} without entries. Expected: lines of integers.")
    return np.array(rows, np.int64)
