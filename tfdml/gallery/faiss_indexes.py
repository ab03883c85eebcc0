"""Indexes of Faiss by name or factory string."""

from __future__ import annotations

import re

import numpy as np

from tfdml.metrics.approximate import import_faiss

# With a list for each √n / 4 vectors, a sample of 64 per list finds the centers; a center needs at least 39 vectors.
_LISTS = 4
_TRAINED_PER_CENTER = 64
_FEWEST_PER_LIST = 39
_ITERATIONS = 10
_DEFAULT_SAMPLE = 2**16
_EF_SEARCH = 64
_PROBED_SHARE = 1 / 32
_WHOLE_VECTORS = re.compile(r"((IVF\w+|HNSW\d+),)?Flat|HNSW\d+")


class IndexKind:
    r"""Index that candidates come from.

    `"hnsw"` is `HNSW32,Flat`; `"ivfpq"` has $4 \sqrt n$ lists and a byte for four values; `"binary"` compares the signs
    of the centered values by the Hamming distance.

    Args:
        name: One of these names, or a factory string of Faiss.
        parameters: Parameters as for `faiss.ParameterSpace`, such as `"nprobe=32"`; `None` sets `efSearch=64` and
            probes a share of 1/32 of the lists.

    Raises:
        ImportError: If Faiss is not installed.
        ValueError: If Faiss does not know the factory string.
    """

    def __init__(self, name, parameters=None):
        self.name, self.parameters = name, parameters
        self.faiss = import_faiss(f"index={name!r}", "index='exact'")
        if name not in ("hnsw", "ivfpq", "binary"):
            try:
                self.faiss.index_factory(64, name)
            except RuntimeError as error:
                # Other errors depend on the size of the vectors, which is not known yet.
                if "parse" in str(error):
                    raise self._error("is unknown", repr(name), error) from error

    def factory_string(self, dim, count):
        """Return the factory string for `count` vectors of `dim` values."""
        if self.name == "hnsw":
            return "HNSW32,Flat"
        if self.name != "ivfpq":
            return self.name
        codes = -(-dim // 4)
        lists = max(1, min(round(_LISTS * count**0.5), count // _FEWEST_PER_LIST))
        # "np" leaves out the slow search for codes that also work with Hamming distances.
        return f"{'' if dim == 4 * codes else f'Pad{4 * codes},'}IVF{lists},PQ{codes}np"

    def candidates(self, k):
        """Return the default number of candidates for `k` neighbors."""
        if self.name == "binary":
            return 40 * k
        return k + 8 if _WHOLE_VECTORS.fullmatch(self.factory_string(4, 1)) else 4 * k

    def make(self, dim, count):
        """Return an empty index, or raise a ValueError that names what Faiss objects to."""
        faiss = self.faiss
        if self.name == "binary":
            if self.parameters:
                raise self._error("has no parameters", repr(self.parameters))
            return SignBits(faiss.IndexBinaryFlat(-(-dim // 8) * 8))
        try:
            index = faiss.index_factory(dim, self.factory_string(dim, max(count, 1)))
        except RuntimeError as error:
            raise self._error("does not fit the vectors", f"{self.name!r} with {dim} values", error) from error
        self._set_training(index)
        return index

    def set_parameters(self, index):
        """Set the effort of a search."""
        if self.name == "binary":
            return
        space = self.faiss.ParameterSpace()
        ivf = self.faiss.try_extract_index_ivf(index)
        probes = 1 if ivf is None else max(1, round(_PROBED_SHARE * ivf.nlist))
        for default in (f"nprobe={probes}", f"efSearch={_EF_SEARCH}"):
            try:
                space.set_index_parameters(index, default)
            except RuntimeError:
                continue
        if self.parameters is not None:
            try:
                space.set_index_parameters(index, self.parameters)
            except RuntimeError as error:
                raise self._error("has other parameters", repr(self.parameters), error) from error

    def sample_size(self, index):
        """Return the number of vectors with which an index is trained; 0 if it needs none."""
        if index.is_trained:
            return 0
        ivf = self.faiss.try_extract_index_ivf(index)
        return max(_DEFAULT_SAMPLE, 0 if ivf is None else _TRAINED_PER_CENTER * ivf.nlist)

    def train(self, index, sample, count):
        """Train an index, or raise a ValueError if there are too few vectors."""
        try:
            index.train(sample)
        except RuntimeError as error:
            raise ValueError(
                f"The index cannot be trained. Received: {count} vectors for index={self.name!r} ({_reason(error)}). "
                "Expected: more vectors. Add them before you search, or pass index='exact'."
            ) from error

    def write(self, index, path):
        """Write an index to a file."""
        if self.name == "binary":
            self.faiss.write_index_binary(index.index, str(path))
        else:
            self.faiss.write_index(index, str(path))

    def read(self, path):
        """Read an index from a file; a RuntimeError means that this version of Faiss cannot."""
        if self.name == "binary":
            return SignBits(self.faiss.read_index_binary(str(path)))
        return self.faiss.read_index(str(path))

    def bytes(self, index):
        """Return the size of an index in bytes."""
        sizes = []
        writer = self.faiss.PyCallbackIOWriter(lambda block: sizes.append(len(block)))
        if self.name == "binary":
            self.faiss.write_index_binary(index.index, writer)
        else:
            self.faiss.write_index(index, writer)
        return sum(sizes)

    def _set_training(self, index):
        ivf = self.faiss.try_extract_index_ivf(index)
        if ivf is not None:
            ivf.cp.niter = _ITERATIONS
            # Suppresses a warning about few vectors.
            ivf.cp.min_points_per_centroid = 1
        if self.name == "ivfpq":
            codes = self.faiss.downcast_index(ivf).pq.cp
            codes.niter, codes.min_points_per_centroid = _ITERATIONS, 1
            codes.max_points_per_centroid = _TRAINED_PER_CENTER

    def _error(self, what, received, error=None):
        reason = "" if error is None else f" ({_reason(error)})"
        return ValueError(
            f"The index {what}. Received: {received}{reason}. Expected: 'exact', 'hnsw', 'ivfpq', 'binary' or a "
            "factory string of Faiss that fits the vectors, such as 'IVF256,PQ16', and parameters such as 'nprobe=32'."
        )


class SignBits:
    """Binary index of the signs of values.

    Args:
        index: `faiss.IndexBinaryFlat`.
    """

    is_trained = True

    def __init__(self, index):
        self.index = index
        # Counting distances is faster than a heap for hundreds of candidates.
        index.use_heap = False

    @property
    def ntotal(self):
        """Number of vectors."""
        return self.index.ntotal

    def add(self, vectors):
        """Add vectors `(n, d)`."""
        self.index.add(np.packbits(vectors > 0, axis=1))

    def search(self, queries, k):
        """Return Hamming distances and positions, `(n, k)`."""
        return self.index.search(np.packbits(queries > 0, axis=1), k)


def _reason(error):
    """Return what is wrong from a message of Faiss, without the place in its code."""
    return str(error).rpartition("failed: ")[2].rpartition("Error: ")[2].strip()
