"""Search in stored vectors whose candidates come from an index of Faiss."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np

from tfdml.gallery.candidates import nearest_candidates
from tfdml.gallery.exact import ExactSearch
from tfdml.metrics.search import Frame, parts

# An index with a larger share of removed vectors is built again.
_DEAD_SHARE = 0.25
# An index that was trained with fewer than a quarter of the vectors is built again.
_GROWTH = 4
# Values relative to those at the time of building, beyond which squares lose their meaning.
_FAR = 2.0**20


class ApproximateSearch:
    """Approximate nearest stored vectors in L2 distance, with the interface of `ExactSearch`.

    An index proposes candidates, and their distances to the stored vectors decide. A query for which the index finds
    fewer than `k` of them is searched exactly. The index is built when it is first needed, and vectors added later are
    added to it before the next search. Removed vectors stay in the index and are skipped, until they are a quarter of
    it; then it is built again.

    Args:
        vectors: `StoredVectors`.
        kind: `IndexKind`.
        candidates: int, the number of candidates; float, the number relative to `k`; `None` uses that of the kind.

    Raises:
        ValueError: If the index does not fit the size of the vectors.
    """

    def __init__(self, vectors, kind, candidates=None):
        self.vectors, self.kind, self.candidates = vectors, kind, candidates
        self.index: Any = None
        self.frame: Any = None
        self.bounds: Any = None
        self.build_seconds: float | None = None
        # Rows of the positions in the index, and the positions of rows; -1 for none.
        self._rows, self._positions = np.empty(0, np.int64), np.empty(0, np.int64)
        self._live = self._built_count = 0
        empty = kind.make(vectors.dim, 1)
        kind.set_parameters(empty)
        self._learns = kind.name == "binary" or not empty.is_trained

    def appended(self, first_row):
        """Vectors from this row on are new."""

    def written(self, rows):
        """Vectors of these rows have changed."""
        self._drop(rows[rows < len(self._positions)])

    def kept(self, kept):
        """Only the rows of a boolean mask `(n,)` stay."""
        kept = kept[: len(self._positions)]
        self._drop(np.flatnonzero(~kept))
        moved = np.cumsum(kept) - 1
        live = self._rows >= 0
        self._rows[live] = moved[self._rows[live]]
        self._positions = self._positions[kept]

    def _drop(self, rows):
        positions = self._positions[rows]
        self._rows[positions[positions >= 0]] = -1
        self._positions[rows] = -1
        self._live = int(np.count_nonzero(self._rows >= 0))

    def number_of_candidates(self, k):
        """Return the number of candidates for `k` neighbors."""
        number = self.kind.candidates(k) if self.candidates is None else self.candidates
        if isinstance(number, float):
            number = int(np.ceil(number * k))
        return min(max(k, number), len(self.vectors))

    def __call__(self, queries, k):
        """Return rows, int64 `(n, k)`, and squared distances, float64 `(n, k)`, of float32 queries."""
        self.synchronize()
        rows, squared = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        todo, width = np.arange(len(queries)), self.number_of_candidates(k)
        # As many more as there are removed ones in proportion.
        width = min(-(-width * len(self._rows) // self._live), len(self._rows))
        while len(todo):
            found, exhausted = self._candidates(queries[todo], width)
            rows[todo], squared[todo] = nearest_candidates(self.vectors, queries[todo], found, k)
            missing = (rows[todo] < 0).any(axis=1)
            hopeless = todo[missing & (exhausted | (width == len(self._rows)))]
            if len(hopeless):
                rows[hopeless], squared[hopeless] = ExactSearch(self.vectors)(queries[hopeless], k)
            todo, width = todo[missing & (rows[todo] < 0).any(axis=1)], min(4 * width, len(self._rows))
        return rows, squared

    def _candidates(self, queries, width):
        _, found = self.index.search(self.frame(queries), width)
        none = found < 0
        rows = self._rows[found]
        rows[none] = -1
        return rows, none.any(axis=1)

    def synchronize(self):
        """Bring the index up to date.

        Raises:
            ValueError: If there are too few vectors to train the index.
        """
        count = len(self.vectors)
        if self.index is None:
            self._build()
        elif self._is_outdated(count):
            # An index that lost most of its vectors still works if the rest are too few to train another.
            with contextlib.suppress(ValueError):
                self._build()
        if self._live < count:
            pending = np.flatnonzero(self._positions < 0)
            pending = np.concatenate([pending, np.arange(len(self._positions), count)])
            if not self._add(pending):
                self._build()

    def _is_outdated(self, count):
        if len(self._rows) - self._live > _DEAD_SHARE * len(self._rows):
            return True
        return self._learns and count >= _GROWTH * self._built_count

    def _build(self):
        start = time.perf_counter()
        count = len(self.vectors)
        index = self.kind.make(self.vectors.dim, count)
        bounds = _bounds(self.vectors)
        frame = _frame(bounds)
        size = min(count, self.kind.sample_size(index))
        if size:
            sample = np.sort(np.random.default_rng(0).permutation(count)[:size])
            self.kind.train(index, frame(self.vectors.read(sample)), count)
        self.index, self.frame, self.bounds = index, frame, bounds
        self._rows, self._positions, self._live = np.empty(0, np.int64), np.empty(0, np.int64), 0
        self._built_count = count
        if not self._add(np.arange(count)):
            self.index = None
            raise ValueError(
                f"The index cannot be filled. Received: index={self.kind.name!r}. Expected: an index to which vectors "
                "can be added without ids."
            )
        self.kind.set_parameters(index)
        self.build_seconds = time.perf_counter() - start

    def _add(self, pending):
        """Add rows to the index; return whether it could take them."""
        for part in parts(len(pending), 8 * self.vectors.dim):
            rows = pending[part]
            vectors = self.frame(self.vectors.read(rows))
            if np.abs(vectors).max() > _FAR:
                return False
            try:
                self.index.add(vectors)
            except RuntimeError:
                return False
            positions = np.arange(len(self._rows), len(self._rows) + len(rows))
            self._rows = np.concatenate([self._rows, rows])
            if rows[-1] >= len(self._positions):
                more = np.full(rows[-1] + 1 - len(self._positions), -1)
                self._positions = np.concatenate([self._positions, more])
            self._positions[rows] = positions
            self._live += len(rows)
        return True

    def state(self):
        """Return what a folder keeps of the index: a description that JSON holds, and the rows of its positions."""
        low, high, center = self.bounds
        description = {"built_count": self._built_count, "low": low.tolist(), "high": high.tolist()}
        return {**description, "center": center.tolist()}, self._rows

    def restore(self, index, description, rows):
        """Continue with an index from a folder.

        Raises:
            ValueError: If it does not belong to the vectors.
        """
        rows = np.array(rows, np.int64)
        live = np.flatnonzero(rows >= 0)
        distinct = len(np.unique(rows[live])) == len(live)
        if index.ntotal != len(rows) or not distinct or rows.max(initial=-1) >= len(self.vectors):
            raise ValueError(
                f"The index does not belong to the vectors. Received: {index.ntotal} vectors in the index, "
                f"{len(rows)} positions and {len(self.vectors)} vectors. Expected: the files that Gallery.save wrote."
            )
        self.bounds = tuple(np.array(description[name], np.float64) for name in ("low", "high", "center"))
        self.index, self.frame = index, _frame(self.bounds)
        self._rows, self._live, self._built_count = rows, len(live), description["built_count"]
        self._positions = np.full(rows.max(initial=-1) + 1, -1)
        self._positions[rows[live]] = live
        self.kind.set_parameters(index)

    def bytes(self):
        """Return the size of the index in bytes."""
        return self.kind.bytes(self.index) + self._rows.nbytes + self._positions.nbytes


def _bounds(vectors):
    """Return the smallest and the largest values and the mean of stored vectors, float64 `(d,)`."""
    blocks = [vectors.read(part) for part in parts(len(vectors), 8 * vectors.dim)]
    low = np.min([block.min(axis=0) for block in blocks], axis=0)
    high = np.max([block.max(axis=0) for block in blocks], axis=0)
    center = np.sum([block.sum(axis=0, dtype=np.float64) for block in blocks], axis=0) / len(vectors)
    return low.astype(np.float64), high.astype(np.float64), center


def _frame(bounds):
    low, high, center = bounds
    return Frame(np.stack([low, high]).astype(np.float32), center, np.float32)
