"""What the index of a gallery costs and finds."""

from __future__ import annotations

import dataclasses
import time

import numpy as np

from tfdml.gallery.exact import ExactSearch

_SAMPLE = 1000


@dataclasses.dataclass(frozen=True)
class GalleryReport:
    """Recall, time and memory of the index of a gallery, compared with exact search in the same vectors.

    Args:
        index: str. The index.
        storage: str. Type of the stored vectors.
        count: int. Number of items.
        queries: int. Number of queries.
        k: int. Number of neighbors.
        candidates: int. Number of candidates per query.
        recall: float. Mean share of the true `k` nearest items that are found.
        milliseconds: float. Time of the search per query.
        exact_milliseconds: float. Time of exact search per query.
        build_seconds: float or `None`. Time in which the index was built; `None` if it was loaded.
        vector_bytes: float. Bytes per stored vector, which stay in their file after `Gallery.load`.
        index_bytes: float. Further bytes per vector, in memory.

    Example:
        >>> GalleryReport("hnsw", "float32", 60_502, 1000, 10, 18, 0.9934, 0.11, 0.19, 10.0, 512.0, 784.0).recall
        0.9934
    """

    index: str
    storage: str
    count: int
    queries: int
    k: int
    candidates: int
    recall: float
    milliseconds: float
    exact_milliseconds: float
    build_seconds: float | None
    vector_bytes: float
    index_bytes: float

    def __str__(self) -> str:
        """Return the report on a few lines."""
        build = "loaded" if self.build_seconds is None else f"built in {self.build_seconds:.1f} s"
        return (
            f"{self.index} on {self.count} {self.storage} vectors, {build}\n"
            f"recall at {self.k}: {self.recall:.4f} ({self.queries} queries, {self.candidates} candidates each)\n"
            f"time per query: {self.milliseconds:.3f} ms, exact search {self.exact_milliseconds:.3f} ms\n"
            f"bytes per vector: {self.vector_bytes:.0f} stored, {self.index_bytes:.0f} for the index"
        )


def measured(search, index, queries, k):
    """Return the report of a search.

    Args:
        search: `ExactSearch` or `ApproximateSearch`.
        index: str. Name of the index.
        queries: float32 array `(n, d)`; `None` uses a sample of the stored vectors, each without itself.
        k: int. Number of neighbors.
    """
    vectors, own = search.vectors, None
    if queries is None:
        own = np.sort(np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE])
        queries = vectors.read(own)
    width = k if own is None else k + 1
    search(queries[:1], width)
    start = time.perf_counter()
    found, _ = search(queries, width)
    seconds = exact_seconds = time.perf_counter() - start
    recall, candidates = 1.0, width
    is_exact = isinstance(search, ExactSearch)
    if not is_exact:
        candidates, exact = search.number_of_candidates(width), ExactSearch(vectors)
        exact(queries[:1], width)
        start = time.perf_counter()
        expected, _ = exact(queries, width)
        exact_seconds = time.perf_counter() - start
        shares = [
            np.isin(true[true != without], near).mean()
            for true, near, without in zip(expected, found, np.full(len(queries), -1) if own is None else own)
        ]
        recall = float(np.mean(shares))
    return GalleryReport(
        index=index,
        storage=vectors.storage,
        count=len(vectors),
        queries=len(queries),
        k=k,
        candidates=candidates,
        recall=recall,
        milliseconds=1e3 * seconds / len(queries),
        exact_milliseconds=1e3 * exact_seconds / len(queries),
        build_seconds=None if is_exact else search.build_seconds,
        vector_bytes=vectors.bytes() / len(vectors),
        index_bytes=search.bytes() / len(vectors),
    )
