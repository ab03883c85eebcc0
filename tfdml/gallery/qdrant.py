"""Vectors of a gallery in Qdrant."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import numpy as np

from tfdml._utils.arguments import check_whole_number
from tfdml._utils.types import PathLike


class QdrantBackend:
    """Vectors in a collection of Qdrant (extra `qdrant`), for galleries that are too large for one machine.

    The collection is created with the first vectors. One that exists already, for example with its own quantization
    or number of shards, must have the distance Euclid. Each gallery needs a collection of its own.

    Args:
        location: str or `os.PathLike`. URL of a server; a folder, or `":memory:"`, for the embedded mode, which
            searches exactly and is meant for tests. Default `":memory:"`.
        collection: str. Name of the collection. Default `"tfdml"`.
        client: `qdrant_client.QdrantClient` that replaces `location`, with keys and certificates of your own. Default
            `None`.
        exact: bool. Whether the server searches exactly. Default `False`.
        batch_size: int. Vectors or queries per request. Default 256.

    Raises:
        ImportError: If `qdrant-client` is not installed.
        ConnectionError: If the server does not answer, here and in all methods.

    Example:
        >>> from tfdml import Gallery
        >>> gallery = Gallery(backend=QdrantBackend())
        >>> gallery.add([[0.0, 0.0], [3.0, 4.0]], labels=["cat", "dog"])
        [0, 1]
        >>> gallery.search([[0.0, 1.0]], k=1).labels.tolist()
        [['cat']]
    """

    def __init__(
        self,
        location: PathLike = ":memory:",
        collection: str = "tfdml",
        client: Any = None,
        exact: bool = False,
        batch_size: int = 256,
    ) -> None:
        try:
            from qdrant_client import QdrantClient, models
        except ImportError as error:
            raise ImportError(
                f"QdrantBackend requires qdrant-client, which cannot be imported ({error}). Received: QdrantBackend. "
                "Expected: qdrant-client. Run: pip install 'tfdml[qdrant]'."
            ) from error
        self.location = os.fspath(location) if client is None else "the given client"
        self.collection, self.exact = collection, exact
        self.batch_size = check_whole_number("batch_size", batch_size, 1)
        self._models = models
        with self._reported():
            if client is None and (self.location == ":memory:" or "://" in self.location):
                client = QdrantClient(self.location)
            elif client is None:
                client = QdrantClient(path=os.path.expanduser(self.location))
            self.client: Any = client
            self._dim = self._size() if client.collection_exists(collection) else None

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Store vectors; a vector that has one of the keys is replaced.

        Args:
            keys: int64 array `(n,)`, not negative.
            vectors: float32 array `(n, d)`.

        Raises:
            ValueError: If the collection has vectors of another size.
        """
        models = self._models
        with self._reported():
            if self._dim is None:
                config = models.VectorParams(size=vectors.shape[1], distance=models.Distance.EUCLID)
                self.client.create_collection(self.collection, config)
                self._dim = vectors.shape[1]
            if vectors.shape[1] != self._dim:
                raise ValueError(
                    f"The collection {self.collection!r} has vectors of another size. Received: {vectors.shape[1]}. "
                    f"Expected: {self._dim}. Name another collection."
                )
            for part in self._parts(len(keys)):
                points = models.Batch(ids=keys[part].tolist(), vectors=vectors[part].tolist())
                self.client.upsert(self.collection, points)

    def remove(self, keys: np.ndarray) -> None:
        """Remove vectors; keys without a vector are skipped.

        Args:
            keys: int64 array `(n,)`.
        """
        with self._reported():
            for part in self._parts(len(keys) if self._dim is not None else 0):
                self.client.delete(self.collection, self._models.PointIdsList(points=keys[part].tolist()))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest vectors of each query.

        Args:
            queries: float32 array `(n, d)`.
            k: int. Number of vectors.

        Returns:
            Keys, int64 `(n, k)`, -1 where nothing is found; and L2 distances, float64 `(n, k)`.
        """
        models = self._models
        keys, distances = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf)
        params = models.SearchParams(exact=self.exact)
        with self._reported():
            for part in self._parts(len(queries)):
                options = {"limit": k, "params": params}
                requests = [models.QueryRequest(query=query, **options) for query in queries[part].tolist()]
                for row, response in enumerate(self.client.query_batch_points(self.collection, requests), part.start):
                    keys[row, : len(response.points)] = [point.id for point in response.points]
                    distances[row, : len(response.points)] = [point.score for point in response.points]
        return keys, distances

    def vectors(self, keys: np.ndarray) -> np.ndarray:
        """Return the vectors of keys, float32 `(n, d)`.

        Args:
            keys: int64 array `(n,)`.

        Raises:
            KeyError: If a key has no vector.
        """
        found = {}
        with self._reported():
            for part in self._parts(len(keys)):
                points = self.client.retrieve(self.collection, keys[part].tolist(), False, True)
                found.update({point.id: point.vector for point in points})
        missing = [key for key in keys.tolist() if key not in found]
        if missing:
            raise KeyError(
                f"Vectors are missing in the collection {self.collection!r}. Received: {len(missing)} keys without a "
                "vector. Expected: the vectors that the gallery added. Build the gallery again."
            )
        return np.array([found[key] for key in keys.tolist()], np.float32).reshape(len(keys), self._dim or 0)

    def __len__(self) -> int:
        """Return the number of vectors."""
        if self._dim is None:
            return 0
        with self._reported():
            return self.client.count(self.collection, exact=True).count

    def _parts(self, count):
        return [slice(start, start + self.batch_size) for start in range(0, count, self.batch_size)]

    def _size(self):
        config: Any = self.client.get_collection(self.collection).config.params.vectors
        if getattr(config, "distance", None) != self._models.Distance.EUCLID:
            raise ValueError(
                f"The collection {self.collection!r} has another distance. Received: {config}. Expected: one unnamed "
                "vector per point with the distance Euclid. Name another collection."
            )
        return config.size

    @contextlib.contextmanager
    def _reported(self):
        from qdrant_client.http.exceptions import ApiException

        try:
            yield
        except ApiException as error:
            raise ConnectionError(
                f"Qdrant does not answer as expected. Received: {str(error).strip()!r} from {self.location!r}. "
                "Expected: a running server and its collection. Check the URL, the key and the server's log."
            ) from error
