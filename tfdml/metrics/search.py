"""Blockwise search for the exact nearest neighbors."""

import numpy as np
import tensorflow as tf

BLOCK_BYTES = 2**26
# Extra candidates per query: with more of them, fewer queries need a second, more precise search.
_SLACK = 8
# Number of references in a cell at most, of which cells of 8 are reduced first.
_PADDING = 64
_INNER = 8
# References per candidate from which two selections are faster than one.
_TWICE = 256
_PART_BYTES = 2**24


class NeighborSearch:
    r"""Exact nearest references of queries in L2 distance; of equal distances, the lower index comes first.

    Distances from matrix products, $\lVert y \rVert^2 - 2 x^\top y$, are fast but rounded, and rounding must not affect
    the result. So products only propose candidates: each query gets the best ones by float32 products. They contain its
    neighbors for certain if the last candidate is farther than the last neighbor by more than twice the bound on the
    rounding error. Otherwise the query is searched again in float64, and then with more and more candidates. Candidates
    whose products differ by less than twice the bound are ordered by the sums of their squared differences in float64.
    Groups of many equal references are searched as one. If a query needs more than a sixteenth of all references, whole
    rows of products are sorted.

    The search runs on the CPU: GPUs multiply float32 matrices with a lower precision than the bound assumes.

    Args:
        references: Array `(m, d)`, float32 or float64, finite.
        block_bytes: int. Approximate memory of a block of queries, in bytes. A block has at least one query. Default:
            2**26.
    """

    def __init__(self, references, block_bytes=BLOCK_BYTES):
        self.block_bytes = block_bytes
        self.groups = _Duplicates(references)
        self.distinct = references if self.groups.none else references[self.groups.first]
        self.center = np.mean(references, axis=0, dtype=np.float64)
        self.products = {}

    def blocks(self, queries, counts, own=None):
        """Find the neighbors of all queries with a positive count.

        Args:
            queries: Array `(n, d)` in the type of the references.
            counts: int array `(n,)`. The number of neighbors of each query, at most the number of references (without
                its own).
            own: int array `(n,)` or `None`. The index of each query's own reference, which is not one of its neighbors;
                `None` if the queries are not among the references. Default: `None`.

        Yields:
            (rows, neighbors). Indices of queries, `(b,)`, and indices of references, `(b, k)`, nearest first. k is the
            largest count in the block.
        """
        # Queries with similar counts share a block, so that one huge class does not slow down all others.
        rows = np.argsort(counts, kind="stable")
        rows = rows[counts[rows] > 0]
        start = 0
        while start < len(rows):
            # The last query of the block has the largest count: guess its end from the first query, then correct it.
            stop = start + self._block_rows(counts[rows[start]] + 1 + _SLACK)
            stop = start + self._block_rows(counts[rows[min(stop, len(rows)) - 1]] + 1 + _SLACK)
            block = rows[start:stop]
            yield (
                block,
                self._neighbors(queries[block], counts[block[-1]], own if own is None else own[block]),
            )
            start = stop

    def _block_rows(self, width):
        width = min(width, len(self.distinct))
        return block_rows(len(self.distinct), width, self.block_bytes)

    def _neighbors(self, queries, count, own):
        if own is None:
            return self._nearest(queries, count)
        found = self._nearest(queries, count + 1)
        keep = found != own[:, None]
        # A query with many equal references of lower index may not find its own: drop the last one instead.
        keep[keep.all(axis=1), -1] = False
        return found[keep].reshape(len(queries), count)

    def _nearest(self, queries, count):
        """Find the `count` nearest references of each query, `(b, count)`."""
        found = np.empty((len(queries), count), np.int64)
        remaining = np.arange(len(queries))
        for width, dtype in self._attempts(count):
            uncertain = []
            size = block_rows(len(self.distinct), width, self.block_bytes, np.dtype(dtype).itemsize)
            for start in range(0, len(remaining), size):
                rows = remaining[start : start + size]
                candidates, groups, certain = self._ranked_candidates(queries[rows], count, width, dtype)
                found[rows[certain]] = self.groups.expand(candidates[certain], groups[certain], count, self.block_bytes)
                uncertain.append(rows[~certain])
            remaining = np.concatenate(uncertain)
            if not len(remaining):
                return found
        raise AssertionError("The last attempt has all references as candidates, so no query can remain uncertain.")

    def _attempts(self, count):
        everything = len(self.distinct)
        width = min(count + _SLACK, everything)
        # Float32 rarely separates many neighbors: float64 is cheaper than a second search.
        if 16 * count < everything:
            yield width, np.float32
        yield width, np.float64
        while width < everything:
            width = min(4 * width, everything)
            yield width, np.float64

    def _ranked_candidates(self, queries, count, width, dtype):
        """Rank candidates in their true order, find ties, and decide whether the first `count` are certainly correct.

        Returns:
            Candidates' positions in `distinct`, `(b, width)`; ranks that increase with the distance and are equal for
            ties, `(b, width)`; certainty, `(b,)`.
        """
        products = self._products(dtype)
        centered = products.center(queries)
        candidates, scores = products.best(centered, width)
        norms = np.einsum("ij,ij->i", centered, centered, dtype=np.float64)
        squared = np.maximum(norms[:, None] - scores, 0.0)
        # References at least as near as the last candidate have at most this norm, which bounds their error.
        farthest = np.sqrt(norms) + np.sqrt(squared[:, -1])
        # One rounding for each of the d + 1 sums; the remaining 7 cover the rounding of the vectors.
        extent = np.square(np.sqrt(norms) + farthest)
        error = (queries.shape[1] + 8) * (products.roundoff * extent + np.finfo(dtype).tiny)
        error += products.order_roundoff(width) * extent
        last = squared[:, min(count, width) - 1] + 2 * error
        certain = (squared[:, -1] > last) if width < len(self.distinct) else np.ones(len(queries), bool)

        apart = np.diff(squared, axis=1) > 2 * error[:, None]
        runs = np.zeros(candidates.shape, np.int64)
        np.cumsum(apart, axis=1, out=runs[:, 1:])
        close = np.zeros(candidates.shape, bool)
        close[:, 1:] |= ~apart
        close[:, :-1] |= ~apart
        close &= (squared <= last[:, None]) & certain[:, None]
        return self._order_runs(queries, candidates, runs, close) + (certain,)

    def _order_runs(self, queries, candidates, runs, close):
        """Order candidates within runs that products cannot separate."""
        rows, columns = np.nonzero(close)
        ties = np.zeros(candidates.shape, bool)
        if len(rows):
            places = candidates[rows, columns]
            exact = self._squared_distances(queries, rows, places)
            key = rows * candidates.shape[1] + runs[rows, columns]
            order = np.lexsort((places, exact, key))
            candidates[rows, columns] = places[order]
            exact, key = exact[order], key[order]
            tied = np.zeros(len(rows), bool)
            tied[1:] = (key[1:] == key[:-1]) & (exact[1:] == exact[:-1])
            ties[rows, columns] = tied
        return candidates, np.cumsum(~ties, axis=1)

    def _squared_distances(self, queries, rows, places):
        result = np.empty(len(rows))
        size = max(1, self.block_bytes // (32 * queries.shape[1]))
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            result[part] = squared_distances(queries[rows[part]], self.distinct[places[part]])
        return result

    def _products(self, dtype):
        if dtype not in self.products:
            self.products[dtype] = _Products(self.distinct, self.center, dtype)
        return self.products[dtype]


def squared_distances(vectors, others):
    """Squared L2 distances between paired vectors, `(…, d)` → `(…,)`, from differences in float64."""
    return np.square(np.subtract(vectors, others, dtype=np.float64)).sum(axis=-1)


def block_rows(references, width, block_bytes, itemsize=4):
    """Number of queries in a block that fits into its memory, at least one.

    Args:
        references: int. Number of references.
        width: int. Number of candidates per query.
        block_bytes: int. Bytes of the block.
        itemsize: int. Bytes of a product. Default: 4.

    Returns:
        int. The number of queries.

    Example:
        >>> block_rows(references=60_000, width=20, block_bytes=2**26)
        240
    """
    depth = _depth(references, width)
    # A sorted row needs four arrays: products, differences, keys and indices.
    members = depth // _INNER if depth == _PADDING else depth
    copies = 4 if _is_wide(references, width, itemsize) else 1 + 1.2 / members
    products = itemsize * (references + _PADDING) * copies
    proposals = (itemsize + 4) * members * width
    return max(1, int(block_bytes // (products + proposals + 80 * width)))


def _is_wide(references, width, itemsize):
    """Whether sorting whole rows is faster than selecting the candidates from them."""
    return itemsize == 8 and 16 * width >= references


def _depth(references, width):
    """Number of references that share a cell in the first selection: about √(references / width), a power of 2.

    With the largest depth there are two selections.
    """
    if references >= _TWICE * width:
        return _PADDING
    depth = 1
    while 4 * depth * depth * width <= references:
        depth *= 2
    return depth


class Frame:
    """Centers vectors at the mean of the references and scales them so that no square overflows.

    Args:
        references: Array `(m, d)`, float32 or float64.
        center: Array `(d,)`, float64. Mean of the references.
        dtype: The type of the products.
    """

    def __init__(self, references, center, dtype):
        self.dtype = dtype
        # Scale by a power of two, so that the references have length 1 at most.
        extent = np.maximum(references.max(axis=0) - center, center - references.min(axis=0)).max()
        extent *= references.shape[1] ** 0.5
        working = np.result_type(references, dtype)
        range_exponent = np.finfo(working).maxexp - 2
        exponent = np.clip(-np.ceil(np.log2(extent)), -range_exponent, range_exponent) if extent > 0 else 0
        self.scale = working.type(2.0**exponent)
        self.offset = (center * self.scale).astype(working)

    def __call__(self, vectors):
        scaled = np.multiply(vectors, self.scale, dtype=self.offset.dtype)
        return np.subtract(scaled, self.offset, out=scaled).astype(self.dtype, copy=False)


def parts(count, row_bytes):
    """Slices of `count` rows, each small enough that a copy of it is negligible."""
    size = max(1, _PART_BYTES // row_bytes)
    return [slice(start, start + size) for start in range(0, count, size)]


class _Products:
    """Computes scores 2xᵀy − ‖y‖² of centered and scaled vectors as one matrix product in one precision."""

    def __init__(self, references, center, dtype):
        self.dtype = dtype
        self.count, dim = references.shape
        self.roundoff = np.finfo(dtype).eps / 2
        self.center = Frame(references, center, dtype)
        columns = -(-self.count // _PADDING) * _PADDING
        # A constant rather than a variable, which a tf.distribute strategy would mirror.
        matrix = np.empty((dim + 1, columns), dtype)
        for part in parts(self.count, 8 * dim):
            centered = self.center(references[part])
            scores = matrix[:, part.start : part.start + len(centered)]
            np.multiply(centered.T, 2, out=scores[:-1])
            scores[-1] = -np.einsum("ij,ij->i", centered, centered, dtype=np.float64)
        # The padding of the last cells is farther away than any reference.
        matrix[:-1, self.count :] = 0
        matrix[-1, self.count :] = -1e30
        with tf.device("/CPU:0"):
            self.matrix = tf.constant(matrix)

    def order_roundoff(self, width):
        """The error of the order of `best`, relative to the largest squared distance; 0 if only the scores decide."""
        if not _is_wide(self.count, width, np.dtype(self.dtype).itemsize):
            return 0.0
        return 2.0 ** (_index_bits(self.count) - 51)

    def best(self, centered, width):
        """The best candidates, `(b, width)`, and their float64 scores, best first up to `order_roundoff`."""
        extended = np.ones((len(centered), centered.shape[1] + 1), self.dtype)
        extended[:, :-1] = centered
        if _is_wide(self.count, width, np.dtype(self.dtype).itemsize):
            with tf.device("/CPU:0"):
                scores = tf.matmul(tf.constant(extended), self.matrix).numpy()[:, : self.count]
            candidates = _first_of_sorted(scores, width)
            return candidates, np.take_along_axis(scores, candidates, axis=1)
        cells = self.matrix.shape[1] // _depth(self.count, width)
        with tf.device("/CPU:0"):
            candidates, scores = _BEST[self.dtype](tf.constant(extended), self.matrix, width, cells)
        return candidates.numpy().astype(np.int64), scores.numpy().astype(np.float64)


def _index_bits(count):
    """Number of bits of the indices below `count`."""
    return max(1, (count - 1).bit_length())


def _first_of_sorted(scores, width):
    """Indices of the `width` largest scores of each row, `(b, width)`, exact up to `_index_bits` of the mantissa.

    Sorting numbers is several times faster than an argsort. The distances to the best score of the row are not
    negative, so they sort like their bits, and the last bits are replaced by the index.
    """
    bits = _index_bits(scores.shape[1])
    keys = (scores.max(axis=1, keepdims=True) - scores).view(np.uint64)
    mask = np.uint64(2**bits - 1)
    keys &= ~mask
    keys |= np.arange(scores.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    return (keys[:, :width] & mask).astype(np.int64)


def _best(queries, references, width, cells):
    with tf.device("/CPU:0"):
        scores = tf.matmul(queries, references)
        depth = tf.shape(scores)[1] // cells
        values, places = tf.cond(
            depth > 1,
            lambda: _best_by_cells(scores, width, cells, depth),
            lambda: tuple(tf.math.top_k(scores, width)),
        )
        return places, values


def _best_by_cells(scores, width, cells, depth):
    # Selecting from whole rows would take longer than the product. Reduce a (depth, cells) arrangement of each row
    # to the maxima of its cells first: the best `width` scores are in the cells with the best maxima. Many maxima are
    # reduced once more, because reading the scattered members of cells takes longer than anything else here.
    twice = depth == _PADDING
    inner = tf.where(twice, _INNER, 1)
    maxima = _maxima(scores, cells * inner)
    best_cells = tf.cond(
        twice,
        lambda: _best_members(maxima, tf.math.top_k(_maxima(maxima, cells), width, sorted=False)[1], cells, width)[1],
        lambda: tf.math.top_k(maxima, width, sorted=False)[1],
    )
    return _best_members(scores, best_cells, cells * inner, width)


def _maxima(scores, cells):
    return tf.reduce_max(tf.reshape(scores, (-1, tf.shape(scores)[1] // cells, cells)), axis=1)


def _best_members(scores, best_cells, cells, width):
    """Select the best `width` scores in the given cells; return them and their places."""
    depth = tf.shape(scores)[1] // cells
    members = tf.reshape(best_cells[:, None, :] + cells * tf.range(depth)[None, :, None], (-1, depth * width))
    values, places = tf.math.top_k(tf.gather(scores, members, batch_dims=1), width)
    return values, tf.gather(members, places, batch_dims=1)


def _compiled(dtype):
    matrix, number = tf.TensorSpec((None, None), dtype), tf.TensorSpec((), tf.int32)
    return tf.function(_best, input_signature=[matrix, matrix, number, number])


_BEST = {dtype: _compiled(dtype) for dtype in (np.float32, np.float64)}


class _Duplicates:
    """Groups of equal references, unless there are only a few."""

    def __init__(self, references):
        # Compares bytes, so 0 and −0 differ. That only costs time, because equal distances are ordered by index anyway.
        groups = _equal_rows(references)
        self.none = groups is None
        if self.none:
            return
        _, self.first, group, self.sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        # A few equal references are cheaper to order by distance than to search as one.
        if self.sizes.max() <= _SLACK:
            self.none = True
            return
        # Members of a group are adjacent and ordered by index.
        self.members = np.argsort(group.reshape(-1), kind="stable")
        self.starts = np.cumsum(self.sizes) - self.sizes

    def expand(self, candidates, ranks, count, block_bytes):
        """Replace groups by their members and keep the first ones.

        Args:
            candidates: int array `(b, width)`. Groups, nearest first.
            ranks: int array `(b, width)`. Increasing ranks, equal for groups that tie.
            count: int. Number of members per query; the groups together have at least as many.
            block_bytes: int. Bytes for intermediate results.

        Returns:
            int array `(b, count)`. Indices of references, ordered by rank and then by index.
        """
        if self.none:
            return candidates[:, :count]
        sizes = np.minimum(self.sizes[candidates], count)
        before = np.cumsum(sizes, axis=1) - sizes
        opens = np.ones(ranks.shape, bool)
        opens[:, 1:] = ranks[:, 1:] != ranks[:, :-1]
        needed = np.maximum.accumulate(np.where(opens, before, 0), axis=1) < count
        totals = np.cumsum(np.where(needed, sizes, 0).sum(axis=1))
        result = np.empty((len(candidates), count), np.int64)
        start, done = 0, 0
        while start < len(candidates):
            stop = max(start + 1, np.searchsorted(totals, done + block_bytes // 64, side="right"))
            part = slice(start, stop)
            result[part] = self._expand(candidates[part], ranks[part], sizes[part], needed[part], count)
            start, done = stop, totals[stop - 1]
        return result

    def _expand(self, candidates, ranks, sizes, needed, count):
        rows, columns = np.nonzero(needed)
        repeats = sizes[rows, columns]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        members = self.members[np.repeat(self.starts[candidates[rows, columns]], repeats) + within]
        rows, ranks = np.repeat(rows, repeats), np.repeat(ranks[rows, columns], repeats)
        # Members of one group are already in order. Only groups that tie may need sorting.
        tied = (rows[1:] == rows[:-1]) & (ranks[1:] == ranks[:-1]) & (members[1:] < members[:-1])
        if tied.any():
            disordered = np.isin(rows, rows[1:][tied])
            some = members[disordered]
            members[disordered] = some[np.lexsort((some, ranks[disordered], rows[disordered]))]
        firsts = np.searchsorted(rows, np.arange(len(candidates)))
        return members[firsts[:, None] + np.arange(count)]


def _equal_rows(rows):
    """Assign equal rows a common number, `(m,)`; `None` if all rows differ.

    Rows with equal sums of their bits, under odd weights, are suspects, and only these are compared byte by byte:
    sorting all rows by their bytes would copy them twice.
    """
    sums = np.empty(len(rows), np.uint64)
    weights = np.random.default_rng(0).integers(2**63, size=rows.shape[1], dtype=np.uint64)
    weights = weights * np.uint64(2) + np.uint64(1)
    bits = np.dtype(f"u{rows.itemsize}")
    for part in parts(len(rows), 8 * rows.shape[1]):
        some = np.ascontiguousarray(rows[part]).view(bits)
        sums[part] = np.multiply(some, weights, dtype=np.uint64).sum(axis=1)
    _, number, sizes = np.unique(sums, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(sizes[number] > 1)
    if not len(suspects):
        return None
    suspicious = np.ascontiguousarray(rows[suspects])
    suspicious = suspicious.view(np.dtype((np.void, rows.shape[1] * rows.itemsize))).reshape(-1)
    first, group = np.unique(suspicious, return_index=True, return_inverse=True)[1:]
    if len(first) == len(suspects):
        return None
    # Each row gets the index of the first row equal to it.
    groups = np.arange(len(rows))
    groups[suspects] = suspects[first[group.reshape(-1)]]
    return groups
