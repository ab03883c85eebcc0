"""Approximate nearest neighbors with Faiss."""

import numpy as np

from tfdml.metrics.search import BLOCK_BYTES, Frame, parts, squared_distances

_SLACK = 8
# The number of references per list that Faiss recommends for finding the centers of the lists.
_TRAINED_PER_LIST = 64
_ITERATIONS = 10


class ApproximateSearch:
    r"""Approximate nearest neighbors of queries in L2 distance, with the interface of `NeighborSearch`.

    The references are divided into $\sqrt m$ lists, each around a center from k-means. A query is compared with the
    references in the lists of the nearest centers. Results are ordered by the sums of squared differences in float64;
    of equal distances, the lower index comes first. If all lists are searched, the result is that of `NeighborSearch`,
    unless more than eight further references are almost as near as the last neighbor: then rounding in float32 decides
    between these. The same references always result in the same lists.

    Args:
        references: Array `(m, d)`, float32 or float64, finite.
        probes: float, 0 < probes <= 1. Share of the lists that a query is compared with. Default: 0.1.
        block_bytes: int. Approximate memory of a block of queries, in bytes. Default: 2**26.

    Raises:
        ImportError: If Faiss is not installed.
    """

    def __init__(self, references, probes=0.1, block_bytes=BLOCK_BYTES):
        faiss = import_faiss()
        self.references, self.block_bytes = references, block_bytes
        count, dim = references.shape
        self.frame = Frame(references, np.mean(references, axis=0, dtype=np.float64), np.float32)
        lists = max(1, round(count**0.5))
        # Faiss does not keep a reference to the index of the centers.
        self.centers = faiss.IndexFlatL2(dim)
        self.index = faiss.IndexIVFFlat(self.centers, dim, lists)
        self.index.cp.seed, self.index.cp.niter = 0, _ITERATIONS
        # Suppresses the warning about few references.
        self.index.cp.min_points_per_centroid = 1
        sample = np.random.default_rng(0).permutation(count)[: _TRAINED_PER_LIST * lists]
        self.index.train(self.frame(references[np.sort(sample)]))
        for part in parts(count, 8 * dim):
            self.index.add(self.frame(references[part]))
        self.index.nprobe = max(1, round(probes * lists))

    def blocks(self, queries, counts, own=None):
        """Find neighbors as `NeighborSearch.blocks`, but with -1 for those that the lists searched do not contain."""
        rows = np.argsort(counts, kind="stable")
        rows = rows[counts[rows] > 0]
        start = 0
        while start < len(rows):
            # The last query of the block has the largest count: guess its end from the first query, then correct it.
            stop = start + self._block_rows(counts[rows[start]])
            stop = start + self._block_rows(counts[rows[min(stop, len(rows)) - 1]])
            block = rows[start:stop]
            count = counts[block[-1]]
            yield block, self._neighbors(queries[block], count, None if own is None else own[block])
            start = stop

    def _block_rows(self, count):
        return max(1, int(self.block_bytes // ((count + _SLACK) * (64 + 32 * self.references.shape[1]))))

    def _neighbors(self, queries, count, own):
        width = int(min(count + (own is not None) + _SLACK, len(self.references)))
        _, found = self.index.search(self.frame(queries), width)
        distances = squared_distances(queries[:, None], self.references[found])
        missing = found < 0 if own is None else (found < 0) | (found == own[:, None])
        distances[missing] = np.inf
        order = np.lexsort((found, distances))[:, :count]
        return np.where(np.take_along_axis(missing, order, 1), -1, np.take_along_axis(found, order, 1))


def neighbor_recall(search, exact, queries, counts, own=None, sample=1000):
    r"""Measure the share of the true nearest references that an approximate search finds.

    $$\frac{1}{|Q|} \sum_{q \in Q} \frac{|A_q \cap E_q|}{k_q}$$

    over a sample $Q$ of the queries with $k_q > 0$, where $A_q$ and $E_q$ are the $k_q$ neighbors of query $q$ from the
    two searches.

    Args:
        search: `ApproximateSearch`.
        exact: `NeighborSearch` with the same references.
        queries: Array `(n, d)`.
        counts: int array, `(n,)`. $k_q$. Queries with a count of 0 are skipped.
        own: int array or `None`, as for both searches. Default: `None`.
        sample: int. The maximum number of queries, drawn with a fixed seed. Default: 1000.

    Returns:
        float from 0 to 1; NaN if all counts are 0.
    """
    rows = np.flatnonzero(counts)
    if not len(rows):
        return float("nan")
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:sample])
    arguments = queries[rows], counts[rows], None if own is None else own[rows]
    found = {row: near for block, nears in search.blocks(*arguments) for row, near in zip(block, nears)}
    shares = np.empty(len(rows))
    for block, nears in exact.blocks(*arguments):
        for row, near in zip(block, nears):
            count = counts[rows[row]]
            shares[row] = np.isin(near[:count], found[row][:count]).mean()
    return float(shares.mean())


def import_faiss(option="neighbors='faiss'", exact="neighbors='exact'"):
    """Import Faiss, or raise an ImportError that says how to install it, or which option does without."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"Approximate search requires Faiss, which cannot be imported ({error}). Received: {option}. "
            f"Expected: Faiss, or {exact}. Run: pip install 'tfdml[faiss]'."
        ) from error
    return faiss
