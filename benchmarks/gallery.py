"""Measure recall and time of each index of a gallery, relative to Faiss used directly in the same run.

python benchmarks/gallery.py                                 # size of the test set of Stanford Online Products
python benchmarks/gallery.py --count 1000000 --repeats 1
python benchmarks/gallery.py --only hnsw --queries 100

Vectors lie in clusters: `--per-cluster` vectors around each of the centers, in `--intrinsic-dim` of the dimensions.
Recall is the share of the true nearest vectors, by exact search in float32. Faiss searches
the same index with the same parameters; for "ivfpq" it orders as many candidates by whole vectors (IndexRefine), for
"binary" it only finds them, and for exact search it runs IndexFlatL2. Turns alternate, because other work on the
machine slows down both. CPU times are less affected by it, but include the waiting of the threads of Faiss for each
other: compare them with `--threads 1`.
"""

import argparse
import functools
import os
import pathlib
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import faiss  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks import children  # noqa: E402
from tfdml import Gallery  # noqa: E402

VARIANTS = {
    "exact": {},
    "exact, float16": {"storage": "float16"},
    "exact, int8": {"storage": "int8"},
    "hnsw": {"index": "hnsw"},
    "hnsw, int8": {"index": "hnsw", "storage": "int8"},
    "ivfpq": {"index": "ivfpq"},
    "ivfpq, int8": {"index": "ivfpq", "storage": "int8"},
    "binary": {"index": "binary"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60_502, help="number of vectors (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=128, help="size of a vector (default: %(default)s)")
    parser.add_argument("--queries", type=int, default=1000, help="queries per search (default: %(default)s)")
    parser.add_argument("-k", type=int, default=10, help="neighbors per query (default: %(default)s)")
    parser.add_argument("--per-cluster", type=int, default=10, help="vectors per cluster (default: %(default)s)")
    parser.add_argument("--intrinsic-dim", type=int, default=32, help="dimensions that vary (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.5, help="spread of vectors relative to centers (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds of timing (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads of Faiss (default: all cores)")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="variants to measure")
    options = parser.parse_args()
    if options.threads is not None:
        faiss.omp_set_num_threads(options.threads)

    vectors, queries = _vectors(options)
    print(f"{options.count} vectors x {options.dim}, {options.queries} queries, k={options.k}; "
          f"faiss {faiss.__version__}, {os.cpu_count()} cores, "
          f"{faiss.omp_get_max_threads()} threads of faiss")  # fmt: skip
    print("time per query in ms; ratio: of the shortest wall times (and of the CPU times) to those of Faiss")
    print(f"{'index':16s}{'recall':>8s}{'time':>8s}{'faiss':>8s}{'ratio':>7s}{'(CPU)':>8s}{'one query':>11s}"
          f"{'faiss':>8s}{'build s':>9s}{'bytes':>7s}{'index':>7s}{'load s':>8s}")  # fmt: skip
    truth = _flat(vectors).search(queries, options.k)[1]
    for name in options.only:
        _measure(name, vectors, queries, truth, options)
    print(f"peak memory {children.high_water_mark():.0f} MiB, data {vectors.nbytes / 2**20:.0f} MiB")


def _measure(name, vectors, queries, truth, options):
    given, k = VARIANTS[name], options.k
    gallery = Gallery(**given)
    gallery.add(vectors)
    search = functools.partial(gallery.search, k=k)
    (build, _), found = _timed(search, queries)
    direct = _direct(given.get("index", "exact"), vectors, gallery, options)
    direct(queries)
    rounds = [(_timed(search, queries)[0], _timed(direct, queries)[0]) for _ in range(options.repeats)]
    # Of the rounds, the shortest wall time and the shortest CPU time: `(2, 2)`, of the gallery and of Faiss.
    seconds = np.min(rounds, axis=0)
    one, other_one = (_seconds_of_one(function, queries) for function in (search, direct))
    recall = np.mean([np.isin(true, near).mean() for true, near in zip(truth, found.ids)])
    report = gallery.report(queries, k)
    with tempfile.TemporaryDirectory() as folder:
        gallery.save(folder)
        (load, _), _ = _timed(Gallery.load, folder)
    ratio, cpu_ratio = seconds[0] / seconds[1]
    times = 1e3 * seconds[:, 0] / len(queries)
    print(f"{name:16s}{recall:8.4f}{times[0]:8.3f}{times[1]:8.3f}{ratio:7.2f}{f'({cpu_ratio:.2f})':>8s}"
          f"{one * 1e3:11.2f}{other_one * 1e3:8.2f}{build:9.1f}"
          f"{report.vector_bytes:7.0f}{report.index_bytes:7.0f}{load:8.2f}", flush=True)  # fmt: skip


def _flat(vectors):
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    return index


def _direct(name, vectors, gallery, options):
    """Search by Faiss with the same number of candidates, as a function of queries."""
    if name == "exact":
        return functools.partial(_flat(vectors).search, k=options.k)
    search = gallery._search
    width = search.number_of_candidates(options.k)
    if name == "binary":
        center = vectors.mean(axis=0)
        index = faiss.IndexBinaryFlat(-(-vectors.shape[1] // 8) * 8)
        index.use_heap = False
        index.add(np.packbits(vectors > center, axis=1))
        return lambda queries: index.search(np.packbits(queries > center, axis=1), width)
    # The same graph or lists, which are in the coordinates of the gallery.
    if name == "hnsw":
        return lambda queries: search.index.search(search.frame(queries), options.k)
    whole = _flat(search.frame(vectors))
    refined = faiss.IndexRefine(search.index, whole)
    refined.k_factor = width / options.k

    def refined_search(queries):
        return refined.search(search.frame(queries), options.k)

    # Faiss does not keep references to the parts.
    refined_search.parts = whole
    return refined_search


def _timed(function, *args):
    """((wall time, CPU time), result) of a call."""
    start, cpu = time.perf_counter(), time.process_time()
    result = function(*args)
    return (time.perf_counter() - start, time.process_time() - cpu), result


def _seconds_of_one(function, queries):
    """Median time of a search for one query."""
    return float(np.median([_timed(function, queries[row : row + 1])[0][0] for row in range(min(20, len(queries)))]))


def _vectors(options):
    generator = np.random.default_rng(0)
    inner = min(options.intrinsic_dim, options.dim)
    total = options.count + options.queries
    centers = generator.normal(size=(max(1, options.count // options.per_cluster), inner)).astype(np.float32)
    rotation = np.linalg.qr(generator.normal(size=(options.dim, inner)))[0].T.astype(np.float32)
    vectors = np.empty((total, options.dim), np.float32)
    for start in range(0, total, 100_000):
        some = vectors[start : start + 100_000]
        noise = options.noise * generator.standard_normal((len(some), inner), np.float32)
        some[:] = (centers[generator.integers(len(centers), size=len(some))] + noise) @ rotation
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return vectors[: options.count], vectors[options.count :]


if __name__ == "__main__":
    main()
