"""Vectors of a gallery in a database."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

_FACTOR = 4


@runtime_checkable
class Backend(Protocol):
    """What keeps vectors under integer keys and finds the nearest ones in L2 distance; any object with four methods.

    A gallery keeps ids, labels and metadata itself and gives each vector a key, which it does not give again.

    Example:
        >>> class Lists:
        ...     def __init__(self):
        ...         self.vectors = {}
        ...     def add(self, keys, vectors):
        ...         self.vectors.update(zip(keys.tolist(), vectors))
        ...     def remove(self, keys):
        ...         for key in keys.tolist():
        ...             self.vectors.pop(key, None)
        ...     def search(self, queries, k):
        ...         keys, stored = np.array(list(self.vectors)), np.stack(list(self.vectors.values()))
        ...         distances = np.linalg.norm(queries[:, None] - stored, axis=-1)
        ...         order = np.argsort(distances)[:, :k]
        ...         return keys[order], np.take_along_axis(distances, order, 1)
        ...     def __len__(self):
        ...         return len(self.vectors)
        >>> from tfdml import Gallery
        >>> gallery = Gallery(backend=Lists())
        >>> gallery.add([[0.0, 0.0], [3.0, 4.0]], ids=["a", "b"])
        ['a', 'b']
        >>> gallery.search([[3.0, 4.0]], k=2).ids.tolist()
        [['b', 'a']]
    """

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Store vectors; a vector that has one of the keys is replaced.

        Args:
            keys: int64 array `(n,)`, not negative.
            vectors: float32 array `(n, d)`.
        """

    def remove(self, keys: np.ndarray) -> None:
        """Remove vectors; keys without a vector are skipped.

        Args:
            keys: int64 array `(n,)`.
        """

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors of each query, exactly or approximately.

        Args:
            queries: float32 array `(n, d)`.
            k: int. Number of vectors, at most the number of stored ones.

        Returns:
            Keys, int64 `(n, k)`, -1 where nothing is found; and unsquared L2 distances, `(n, k)`.
        """
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of vectors."""
        raise NotImplementedError


class BackendVectors:
    """Vectors in a backend, with the interfaces of `StoredVectors` and of `ExactSearch`.

    Args:
        backend: `Backend`.
        dim: int. Size of a vector.
        keys: int64 array `(n,)`. Keys of the rows, increasing. Default: none.
        next_key: int. Lowest key that was never given. Default 0.
    """

    def __init__(self, backend, dim, keys=(), next_key=0):
        self.backend, self.dim, self.next_key = backend, dim, next_key
        self.keys = np.array(keys, np.int64)

    def __len__(self):
        return len(self.keys)

    def arrays(self):
        """Return the arrays that a folder keeps, by name."""
        return {"keys": self.keys}

    def encode(self, vectors):
        """Accept all vectors."""

    def append(self, vectors):
        """Add float32 vectors `(n, d)` at the end."""
        if len(vectors):
            keys = np.arange(self.next_key, self.next_key + len(vectors))
            self.backend.add(keys, vectors)
            self.keys, self.next_key = np.concatenate([self.keys, keys]), self.next_key + len(vectors)

    def write(self, rows, vectors):
        """Replace the vectors of an int array of rows."""
        self.backend.add(self.keys[rows], vectors)

    def keep(self, kept):
        """Keep only the rows of a boolean mask `(n,)`, in order."""
        self.backend.remove(self.keys[~kept])
        self.keys = self.keys[kept]

    def read(self, rows):
        """Return float32 vectors of an array of rows, if the backend has a method `vectors` for that."""
        if not callable(getattr(self.backend, "vectors", None)):
            raise ValueError(
                f"The backend does not return vectors. Received: {type(self.backend).__name__} without a method "
                "vectors(keys). Expected: a backend that has one."
            )
        return np.asarray(self.backend.vectors(self.keys[rows]), np.float32)

    def appended(self, first_row):
        """Do nothing: the backend knows."""

    written = kept = appended

    def __call__(self, queries, k):
        """Return rows, int64 `(n, k)`, and squared distances, float64 `(n, k)`, of float32 queries."""
        width, stored = k, None
        while True:
            keys, distances = (np.asarray(array) for array in self.backend.search(queries, width))
            if keys.shape != (len(queries), width) or distances.shape != keys.shape or keys.dtype.kind not in "iu":
                raise ValueError(
                    f"The result of the backend is wrong. Received: keys {keys.dtype} {keys.shape} and distances "
                    f"{distances.shape}. Expected: integers and distances of shape {(len(queries), width)}."
                )
            rows = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
            # Vectors of an addition that was interrupted have keys that the gallery does not know.
            known = self.keys[rows] == keys
            rows, squared = np.where(known, rows, -1), np.where(known, np.square(distances, dtype=np.float64), np.inf)
            order = np.lexsort((rows, squared))[:, :k]
            rows, squared = np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)
            if (rows >= 0).all():
                return rows, squared
            stored = len(self.backend) if stored is None else stored
            if width >= stored:
                raise ValueError(
                    f"The backend found too few vectors. Received: {(rows >= 0).sum(axis=1).min()} for a query. "
                    f"Expected: k={k}. Pass a smaller k, or build the gallery again if vectors are missing in the "
                    "backend."
                )
            width = min(_FACTOR * width, stored)
