"""Exact search in stored vectors."""

from __future__ import annotations

import numpy as np

from tfdml.gallery.candidates import squared_distances
from tfdml.metrics.search import NeighborSearch, parts

# The products of a block of about 64 queries with a shard take 16 MiB. They stay in the caches, and from 32 MiB on
# malloc maps new pages for each block, which takes as long as selecting the neighbors.
SHARD_ROWS = 2**16
_BLOCK_BYTES = 2**24


class ExactSearch:
    """Exact nearest stored vectors in L2 distance; of equal distances, the lower row comes first.

    The vectors are searched in shards of consecutive rows, whose prepared searches are kept, so memory beyond the
    stored vectors is at most one float32 matrix of products and, unless the storage is float32, one of vectors.

    Args:
        vectors: `StoredVectors`.
        shard_rows: int. Rows of a shard. Default 2**16.
    """

    def __init__(self, vectors, shard_rows=SHARD_ROWS):
        self.vectors, self.shard_rows = vectors, shard_rows
        self._searches = {}

    def forget(self, first_row=0):
        """Drop what was prepared for this row and later ones, because they have changed."""
        shard = first_row // self.shard_rows
        self._searches = {number: search for number, search in self._searches.items() if number < shard}

    def appended(self, first_row):
        """Vectors from this row on are new."""
        self.forget(first_row)

    def written(self, rows):
        """Vectors of these rows have changed."""
        self.forget(int(rows.min()))

    def kept(self, kept):
        """Only the rows of a boolean mask `(n,)` stay."""
        self.forget(int(np.argmin(kept)))

    def bytes(self):
        """Return the size of what was prepared, beyond the stored vectors, in bytes."""
        products = [product for _, search in self._searches.values() for product in search.products.values()]
        copies = [references for references, _ in self._searches.values() if self.vectors.storage != "float32"]
        return sum(product.matrix.shape.num_elements() * product.matrix.dtype.size for product in products) + sum(
            references.nbytes for references in copies
        )

    def __call__(self, queries, k):
        """Return rows, int64 `(n, k)`, and squared distances, float64 `(n, k)`, of float32 queries."""
        rows, squared = self._search_shard(queries, k, 0)
        for shard in range(1, -(-len(self.vectors) // self.shard_rows)):
            found, distances = self._search_shard(queries, k, shard)
            rows, squared = np.concatenate([rows, found], axis=1), np.concatenate([squared, distances], axis=1)
            order = np.lexsort((rows, squared))[:, :k]
            rows, squared = np.take_along_axis(rows, order, 1), np.take_along_axis(squared, order, 1)
        return rows, squared

    def _search_shard(self, queries, k, shard):
        start = shard * self.shard_rows
        if shard not in self._searches:
            references = self.vectors.read(slice(start, min(start + self.shard_rows, len(self.vectors))))
            self._searches[shard] = references, NeighborSearch(references, _BLOCK_BYTES)
        references, search = self._searches[shard]
        k = min(k, len(references))
        found = np.empty((len(queries), k), np.int64)
        squared = np.empty((len(queries), k))
        for block, neighbors in search.blocks(queries, np.full(len(queries), k)):
            found[block] = neighbors
            for part in parts(len(block), 8 * k * queries.shape[1]):
                squared[block[part]] = squared_distances(queries[block[part], None], references[neighbors[part]])
        return found + start, squared
