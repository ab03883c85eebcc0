"""Approximate nearest neighbours by Faiss."""

import numpy as np

from tfdml.metrics.search import BLOCK_BYTES, Frame, parts, squared_distances

_SLACK = 8
# Faiss wants about so many references of each list to find the lists' centres.
_TRAINED_PER_LIST = 64
_ITERATIONS = 10


class ApproximateSearch:
    r"""Finds near references of queries under L2, most of them the nearest, with the interface of `NeighborSearch`.

    The references lie in $\sqrt m$ lists, each about a centre of k-means; a query is compared with those in the lists
    of the nearest centres. What is found is ordered by the sums of squared differences in float64, and of equally near
    ones the lower index is first. All lists probed, it finds what `NeighborSearch` finds, but where more than eight
    references beyond the count are nearly as near as the last: then rounding in float32 may choose among these. The
    same references give the same lists.

    Args:
        references: `(m, d)` float32 or float64, finite.
        probes: Share of the lists that a query is compared with, above 0 and up to 1.
        block_bytes: About how much memory a block of queries may take.

    Raises:
        ImportError: If Faiss is not installed.
    """

    def __init__(self, references, probes=0.1, block_bytes=BLOCK_BYTES):
        faiss = import_faiss()
        self.references, self.block_bytes = references, block_bytes
        count, dim = references.shape
        self.frame = Frame(references, np.mean(references, axis=0, dtype=np.float64), np.float32)
        lists = max(1, round(count**0.5))
        # Faiss does not hold on to the index of the centres.
        self.centers = faiss.IndexFlatL2(dim)
        self.index = faiss.IndexIVFFlat(self.centers, dim, lists)
        self.index.cp.seed, self.index.cp.niter = 0, _ITERATIONS
        # Else it says for small sets that it would like more.
        self.index.cp.min_points_per_centroid = 1
        sample = np.random.default_rng(0).permutation(count)[: _TRAINED_PER_LIST * lists]
        self.index.train(self.frame(references[np.sort(sample)]))
        for part in parts(count, 8 * dim):
            self.index.add(self.frame(references[part]))
        self.index.nprobe = max(1, round(probes * lists))

    def blocks(self, queries, counts, own=None):
        """As `NeighborSearch.blocks`; where the probed lists hold too few references the last neighbours are -1."""
        rows = np.argsort(counts, kind="stable")
        rows = rows[counts[rows] > 0]
        start = 0
        while start < len(rows):
            # The block's last query wants most: its end is guessed by the first query and then corrected.
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
    r"""How many of the true nearest references an approximate search finds.

    $$\frac{1}{|Q|} \sum_{q \in Q} \frac{|A_q \cap E_q|}{k_q}$$

    over a sample $Q$ of the queries that want neighbours, with $A_q$ and $E_q$ the $k_q$ neighbours of query $q$ by the
    two searches.

    Args:
        search: The `ApproximateSearch`.
        exact: The `NeighborSearch` of the same references.
        queries: `(n, d)`.
        counts: $k_q$, `(n,)`; queries of count 0 want none.
        own: As for both searches.
        sample: The most queries it is measured on, drawn by a fixed seed.

    Returns:
        A float from 0 to 1; NaN if no query wants neighbours.
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


def import_faiss():
    """Gives the module, which is imported only when it is needed, or raises an ImportError that says how to have it."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            f"Approximate search needs Faiss, which cannot be imported ({error}). "
            "Received: neighbors='faiss'; install it by pip install 'tfdml[faiss]', or take neighbors='exact'."
        ) from error
    return faiss
