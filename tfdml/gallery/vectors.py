"""Vectors of a gallery as float32, float16 or int8."""

from __future__ import annotations

import numpy as np

STORAGES = ("float32", "float16", "int8")
_BLOCK_ROWS = 2**16


class StoredVectors:
    r"""Growable matrix of vectors in a storage type.

    int8 stores each vector $x$ as $\mathrm{round}(127\, x / s)$ with its own scale $s = \max_i |x_i|$. Vectors are read
    as float32. Arrays may be mapped from files; they are copied into memory when they change.

    Args:
        storage: `"float32"`, `"float16"` or `"int8"`.
        codes: Array `(n, d)` in the storage type.
        scales: float32 array `(n,)` for int8, else `None`. Default `None`.
    """

    def __init__(self, storage, codes, scales=None):
        self.storage, self._codes, self._scales = storage, codes, scales
        self._count = len(codes)

    @classmethod
    def empty(cls, storage, dim):
        """Return a store without vectors."""
        scales = np.empty(0, np.float32) if storage == "int8" else None
        return cls(storage, np.empty((0, dim), storage), scales)

    def __len__(self):
        return self._count

    @property
    def dim(self):
        """Size of a vector."""
        return self._codes.shape[1]

    @property
    def codes(self):
        """Array `(n, d)` in the storage type."""
        return self._codes[: self._count]

    @property
    def scales(self):
        """float32 array `(n,)` for int8, else `None`."""
        return None if self._scales is None else self._scales[: self._count]

    def arrays(self):
        """Return the arrays that a folder keeps, by name."""
        return {"vectors": self.codes} if self.scales is None else {"vectors": self.codes, "scales": self.scales}

    def bytes(self):
        """Return the size of the vectors in bytes."""
        return sum(array.nbytes for array in self.arrays().values())

    def read(self, rows):
        """Return float32 vectors of a slice or an array of rows; of float32 storage, slices are views."""
        # Faster than an index in brackets.
        codes = np.asarray(self.codes[rows] if isinstance(rows, slice) else self.codes.take(rows, axis=0))
        if self.storage == "int8":
            return codes * (self.scales[rows] / np.float32(127))[..., None]
        return codes.astype(np.float32, copy=False)

    def append(self, vectors):
        """Add float32 vectors `(n, d)` at the end."""
        codes, scales = self.encode(vectors)
        count = self._count + len(codes)
        self._codes = _grown(self._codes, self._count, count)
        self._codes[self._count : count] = codes
        if scales is not None:
            self._scales = _grown(self._scales, self._count, count)
            self._scales[self._count : count] = scales
        self._count = count

    def write(self, rows, vectors):
        """Replace the vectors of an int array of rows."""
        codes, scales = self.encode(vectors)
        self._codes = _writable(self._codes)
        self._codes[rows] = codes
        if scales is not None:
            self._scales = _writable(self._scales)
            self._scales[rows] = scales

    def keep(self, kept):
        """Keep only the rows of a boolean mask `(n,)`, in order."""
        self._codes = _kept(_writable(self._codes), kept)
        if self._scales is not None:
            self._scales = _kept(_writable(self._scales), kept)
        self._count = int(np.count_nonzero(kept))

    def encode(self, vectors):
        """Return codes and scales of float32 vectors, or raise a ValueError if the storage cannot hold them."""
        if self.storage == "int8":
            scales = np.abs(vectors).max(axis=1)
            safe = np.where(scales > 0, scales, 1)[:, None]
            return np.rint(vectors / safe * 127).astype(np.int8), scales.astype(np.float32)
        with np.errstate(over="ignore"):
            codes = vectors.astype(self.storage)
        if not np.isfinite(codes).all():
            raise ValueError(
                f"Vectors exceed the range of the storage. Received: values up to {np.abs(vectors).max():g} with "
                f"storage={self.storage!r}. Expected: values up to {np.finfo(self.storage).max:g}. Pass "
                "storage='float32'."
            )
        return codes, None


def _writable(array):
    return array if array.flags.writeable else np.array(array)


def _grown(array, used, count):
    if count <= len(array) and array.flags.writeable:
        return array
    grown = np.empty((max(count, used + used // 2), *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown


def _kept(array, kept):
    """Move the rows of the mask to the front, block by block."""
    end = 0
    for start in range(0, len(kept), _BLOCK_ROWS):
        mask = kept[start : start + _BLOCK_ROWS]
        some = array[start : start + len(mask)][mask]
        array[end : end + len(some)] = some
        end += len(some)
    return array
