"""Read untrusted files of arrays, with limits that depend on their size on disk."""

from __future__ import annotations

import math
import pathlib
import zipfile
import zlib

import numpy as np

# Weights compress badly: a file that claims more than this is damaged or designed to exhaust memory.
_FREE_BYTES = 64 * 2**20
_LARGEST_RATIO = 16
_LONGEST_MESSAGE = 200


def size_limit(path):
    """Return the number of bytes that reading a file may allocate: 64 MiB plus 16 times its size."""
    return _FREE_BYTES + _LARGEST_RATIO * pathlib.Path(path).stat().st_size


def check_size(path, claimed, what="It"):
    """Raise a ValueError if a file claims to contain more bytes than its size allows.

    Args:
        path: str or `os.PathLike`. File to check.
        claimed: int. Number of bytes that it claims to contain.
        what: str. Part of the file that makes the claim, for the message. Default `"It"`.
    """
    limit = size_limit(path)
    if claimed > limit:
        raise ValueError(
            f"The file claims to hold more than its size allows. Received: {path}. {what} claims {claimed:,} bytes. "
            f"Expected: at most {limit:,} (64 MiB plus 16 times the file's size)."
        )


def read_npz(path, names=None):
    """Read the arrays of an `.npz` without unpickling and without allocating more than the file can contain.

    Args:
        path: str or `os.PathLike`. File to read.
        names: Names of the arrays to read. `None` reads all. Default `None`.

    Returns:
        dict from names to arrays, in the file's order.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a readable `.npz`, lacks one of the names, or claims to hold more than its size allows.
    """
    path = pathlib.Path(path)
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
                if names is not None:
                    members = {name: members[name] for name in names}
                check_size(path, sum(info.file_size for info in members.values()))
                return {name: _read_member(archive, info) for name, info in members.items()}
        except KeyError as error:
            raise ValueError(f"An array is missing. Received: {path}. Expected: an array named {error}.") from error
        except Exception as error:  # A damaged file can fail in any way.
            raise ValueError(f"Not a readable .npz. Received: {path} ({short_reason(error)}).") from error


def _read_member(archive, info):
    """One array, after the size that its header claims is compared with what there is."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename} has version {version} of the format")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds pickled objects")
        count, present = math.prod(shape), info.file_size - file.tell()
        if min(shape, default=0) < 0 or count * dtype.itemsize > present or count > max(present, 1):
            raise ValueError(f"{info.filename} claims the shape {shape}, {present} bytes are there")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def check_h5(path):
    """Check that an HDF5 file does not claim more than its size allows or refer to other files.

    Datasets of HDF5 have a shape even if nothing was written to them, and can be stored in other files.

    Args:
        path: str or `os.PathLike`. File to check.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a readable HDF5 file, claims more than its size allows, or refers to other files.
    """
    import h5py

    path = pathlib.Path(path)
    size_limit(path)
    try:
        with h5py.File(path, "r") as file:
            claimed = sum(dataset.dtype.itemsize * math.prod(dataset.shape or ()) for dataset in _datasets(file))
    except Exception as error:  # h5py has no error class of its own.
        raise ValueError(f"Not a readable HDF5 file. Received: {path} ({short_reason(error)}).") from error
    check_size(path, claimed)


def check_zip(path):
    """Raise a ValueError unless a file is a ZIP archive whose members match their checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"Not a readable archive. Received: {path} ({short_reason(error)}).") from error
    if damaged is not None:
        raise ValueError(f"Not a readable archive. Received: {path} with the damaged member {damaged}.")


def check_not_empty(path):
    """Raise a ValueError if a file is empty."""
    if not path.stat().st_size:
        raise ValueError(f"The file is empty. Received: {path}.")


def passes(check, path):
    """Return whether a check of a file raises neither a ValueError nor an OSError."""
    try:
        check(path)
    except (OSError, ValueError):
        return False
    return True


def _datasets(root):
    """Yield all datasets below a group, each once."""
    import h5py

    waiting, seen = [root], set()
    while waiting:
        group = waiting.pop()
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name!r} is a link to another place")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.is_virtual or item.external:
                    raise ValueError(f"{name!r} lies in another file")
                yield item


def short_reason(error):
    """Return an error's class and message, shortened to fit into another message."""
    text = " ".join(str(error).split())
    text = f"{text[:_LONGEST_MESSAGE]}…" if len(text) > _LONGEST_MESSAGE else text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
