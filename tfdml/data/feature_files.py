"""Write features to the files that `tfdml.data.features` reads."""

from __future__ import annotations

import contextlib
import errno
import os

import numpy as np

from tfdml._utils.files import LOCK, PARTIAL_PREFIX, lock_folder
from tfdml._utils.plain_files import write_json
from tfdml.data.class_files import CLASSES, SUPERCLASSES, write_class_names
from tfdml.data.datasets.features import FEATURES, LABELS, ROLES, SOURCE

_PARTIAL = f"{FEATURES}.partial"
_UNFINISHED = {_PARTIAL, LABELS, CLASSES, SUPERCLASSES, ROLES, SOURCE}


def write_features(folder, images, values, source, dtype):
    """Write the features of images and their labels batch by batch; `features.npy` appears last and complete.

    Files left by an interrupted call are replaced. If writing fails, no file is left.

    Args:
        folder: `pathlib.Path` of the folder, which is created.
        images: `LabeledImages` to which the features belong.
        values: Iterable of batches of features `(batch, dim)`, in the order of the images.
        source: dict. Content of `source.json`.
        dtype: str. Data type on disk.

    Raises:
        FolderInUseError: If another process is writing to the folder.
        OSError: If the files cannot be written.
        ValueError: If a feature is not finite; the message names the images.
    """
    with _whole_or_nothing(folder):
        np.save(folder / LABELS, images.labels)
        write_class_names(folder, images)
        if images.roles is not None:
            np.save(folder / ROLES, images.roles)
        feature_size = _write(folder / _PARTIAL, values, images, dtype)
        write_json(folder / SOURCE, {**source, "features": feature_size, "dtype": dtype})
        os.replace(folder / _PARTIAL, folder / FEATURES)


def holds_unfinished_features(folder):
    """Return whether a folder contains only files left by an interrupted `write_features`."""
    return folder.is_dir() and all(_is_unfinished(name) for name in os.listdir(folder))


def _is_unfinished(name):
    return name in {*_UNFINISHED, LOCK} or name.startswith(PARTIAL_PREFIX)


@contextlib.contextmanager
def _whole_or_nothing(folder):
    """Create the folder, and remove its content if the block fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_folder(folder):
            _clear(folder)
            try:
                yield
            except BaseException:
                _clear(folder)
                raise
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def _clear(folder):
    for name in os.listdir(folder):
        if _is_unfinished(name) and name != LOCK:
            (folder / name).unlink()


def _write(path, batches, images, dtype):
    """Write the features in NumPy's format batch by batch; return the feature size.

    This avoids a memory map: writing to one on a full disk kills the process with a signal instead of an error.
    """
    done = 0
    with open(path, "wb") as file:
        for batch in batches:
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(batch).astype(dtype)
            if done == 0:
                _begin(file, (len(images), values.shape[1]), values.dtype)
            _check_finite(values, images, done)
            file.write(values.tobytes())
            done += len(values)
        file.flush()
        os.fsync(file.fileno())
    return values.shape[1]


def _begin(file, shape, dtype):
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.flush()
    if hasattr(os, "posix_fallocate"):
        try:
            # Detect a full disk now rather than after hours.
            os.posix_fallocate(file.fileno(), 0, file.tell() + shape[0] * shape[1] * dtype.itemsize)
        except OSError as error:
            # Other errors mean that the file system does not support it.
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _check_finite(values, images, start):
    bad = start + np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        shown = [f"{index} ({images.images[index]})" if images.holds_paths else str(index) for index in bad[:10]]
        raise ValueError(
            f"The network's features are not finite, or too large for {values.dtype}. Received: NaN or infinity for "
            f"image {', '.join(shown)} (from 0). Check that images have the scale that the network expects."
        )
