"""Read IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import pathlib
import zlib

import numpy as np

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path):
    """Read one IDX file, gzipped (`.gz`) or not.

    The file starts with two zero bytes, a byte for the type and a byte for the rank, followed by the sizes as
    big-endian 32-bit integers and the values.

    Args:
        path: str or `os.PathLike`. File to read.

    Returns:
        NumPy array with the file's shape and type.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not an IDX file, is truncated or is too long; the message names it.
    """
    path = pathlib.Path(path)
    try:
        contents = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"Damaged or truncated gzip file. Received: {path} ({error}).") from error
    if len(contents) < 4 or contents[:2] != b"\0\0" or contents[2] not in _TYPES or not contents[3]:
        raise ValueError(
            f"Not an IDX file. Received: {path}, starting with {contents[:4].hex() or 'nothing'}. "
            "Expected: two zero bytes, a type from 08 to 0e and a rank."
        )
    dtype, rank = np.dtype(_TYPES[contents[2]]), contents[3]
    header = 4 + 4 * rank
    if len(contents) < header:
        raise ValueError(
            f"Truncated IDX file. Received: {path} of {len(contents)} bytes. Expected: a header of {header}."
        )
    shape = tuple(np.frombuffer(contents, ">u4", count=rank, offset=4).tolist())
    expected = header + math.prod(shape) * dtype.itemsize
    if len(contents) != expected:
        problem = (
            "Truncated IDX file" if len(contents) < expected else "IDX file with extra bytes after its end"
        )
        raise ValueError(
            f"{problem}. Received: {path} of {len(contents)} bytes. Expected: {expected} for shape {shape}."
        )
    return np.frombuffer(contents, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))
