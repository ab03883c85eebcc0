"""Measure time and memory of the exact retrieval metrics relative to the bare matrix product, in one run.

python benchmarks/retrieval.py                      # size of the test set of Stanford Online Products
python benchmarks/retrieval.py --samples 10000 --classes 10 --dim 2
python benchmarks/retrieval.py --samples 20000 --classes 4 --dim 64 --sort   # few large classes, sorted products
python benchmarks/retrieval.py --samples 1000000 --classes 187000 --part 4000 --product-rows 64
python benchmarks/retrieval.py --probes 0.05 0.25 --intrinsic-dim 16 --noise 0.5   # Faiss and the exact search

With --part, that number of queries, evenly spread, is compared with all references, and the time of all queries is
extrapolated: the time of one query, which is the preparation of the references, plus the rest times the number of
parts. With --profile, it prints where the time is spent instead, by Python functions and by TensorFlow operations.
"""

import argparse
import collections
import cProfile
import os
import pathlib
import pstats
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import children, profiles  # noqa: E402
from studies.measurement import process_memory  # noqa: E402
from tfdml.metrics import retrieval_metrics  # noqa: E402
from tfdml.metrics.search import BLOCK_BYTES  # noqa: E402


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=60_502, help="number of embeddings (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=11_316, help="number of classes (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=128, help="embedding size (default: %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=1.4, help="spread of samples relative to classes (default: %(default)s)"
    )
    parser.add_argument(
        "--intrinsic-dim", type=int, help="directions in which classes and samples vary (default: --dim)"
    )
    parser.add_argument(
        "--duplicates", type=float, default=0.0, help="share of duplicates (default: %(default)s)"
    )
    parser.add_argument("--giant", type=float, default=0.0, help="share of samples in one class")
    parser.add_argument("--block-mib", type=float, default=BLOCK_BYTES / 2**20, help="memory of a block in MiB")
    parser.add_argument(
        "--product-rows", type=int, default=512, help="rows per block of the bare matrix product (default: %(default)s)"
    )
    parser.add_argument("--sort", action="store_true", help="compare with the matrix product and a sort of each row")
    parser.add_argument("--repeats", type=int, default=3, help="timing rounds (default: %(default)s)")
    parser.add_argument("--part", type=int, help="evaluate about this number of queries, and extrapolate")
    parser.add_argument(
        "--probes", type=float, nargs="+", default=[], help="shares of the lists that the approximate search visits"
    )
    parser.add_argument("--profile", action="store_true", help="print a profile instead of ratios")
    options = parser.parse_args()

    embeddings, labels = _samples(options)
    print(f"{options.samples} samples x {options.dim}, {len(np.unique(labels))} classes; "
          f"TensorFlow {tf.__version__}, NumPy {np.__version__}, {os.cpu_count()} cores")  # fmt: skip
    block_bytes = int(options.block_mib * 2**20)
    _product(embeddings[:1024], embeddings[:1024], options.product_rows)
    retrieval_metrics(embeddings[:1024], labels[:1024])
    if options.profile:
        _profile(embeddings, labels, block_bytes)
        return
    exact = _compare(embeddings, labels, block_bytes, options)
    for probes in options.probes:
        _compare_approximate(embeddings, labels, block_bytes, probes, exact, options)


def _compare(embeddings, labels, block_bytes, options):
    """Print time and memory of the metrics and of the product; returns the metrics."""
    before = process_memory("VmRSS") / 2**20
    print(f"{'memory at the start':28s} {before:8.0f} MiB (data {embeddings.nbytes / 2**20:.0f} MiB, TensorFlow)")
    step = _step(options)
    # Alternating, as other work on the machine slows down both.
    products, metrics, preparations = [], [], []
    for _ in range(options.repeats):
        seconds, found = _timed(retrieval_metrics, embeddings, labels, block_bytes=block_bytes, part=(0, step))
        metrics.append(seconds)
        if len(metrics) == 1:
            peak = children.high_water_mark()
            copies = (peak - before) * 2**20 / embeddings.nbytes
            print(f"{'peak memory':28s} {peak:8.0f} MiB (start + {copies:.1f} times the references)")
        products.append(_timed(_product, embeddings[::step], embeddings, options.product_rows, options.sort)[0])
        if options.part:
            one = (0, options.samples)
            preparations.append(_timed(retrieval_metrics, embeddings, labels, block_bytes=block_bytes, part=one)[0])
    _print_times("product and sorted rows" if options.sort else "bare matrix product", products)
    _print_times("retrieval metrics", metrics)
    _print_ratios("ratio", metrics, products)
    if options.part:
        _print_times("retrieval metrics, one query", preparations)
        queries = len(embeddings[::step])
        spent, share = np.subtract(metrics, preparations), options.samples / queries
        # If the part is too small, the time beyond the preparation is noise.
        minutes = np.median([preparations, spent * share, np.multiply(products, share)], axis=1) / 60
        print(f"{queries} queries of {options.samples}; all would take {minutes[0]:.1f} + {minutes[1]:.1f} minutes, "
              f"the bare matrix product {minutes[2]:.1f}")  # fmt: skip
        _print_ratios("ratio without preparation", spent, products)
    print({name: round(value, 4) for name, value in found.items()})
    return found


def _profile(embeddings, labels, block_bytes):
    profiler = cProfile.Profile()
    profiler.runcall(retrieval_metrics, embeddings, labels, block_bytes=block_bytes)
    stats = pstats.Stats(profiler).stats.items()
    own = {f"{name} ({pathlib.Path(file).name})": times[2] for (file, _, name), times in stats}
    _print_shares("functions, their own time", own)
    kinds = collections.Counter()
    found = profiles.operations(lambda: retrieval_metrics(embeddings, labels, block_bytes=block_bytes))
    for _, kind, milliseconds in found:
        kinds[kind] += milliseconds / 1e3
    _print_shares("operations, summed over the cores", kinds)


def _print_shares(title, seconds):
    total = sum(seconds.values())
    print(f"{title}: {total:.2f} s")
    for name, value in sorted(seconds.items(), key=lambda item: -item[1])[:8]:
        print(f"{value:10.2f} s {value / total:6.1%}  {name}")


def _compare_approximate(embeddings, labels, block_bytes, probes, exact, options):
    """Time approximate search, including the measurement of its recall, and exact search alternately."""
    given = {"block_bytes": block_bytes, "part": (0, _step(options))}
    times, exact_times = [], []
    for _ in range(options.repeats):
        seconds, found = _timed(retrieval_metrics, embeddings, labels, neighbors="faiss", probes=probes, **given)
        times.append(seconds)
        exact_times.append(_timed(retrieval_metrics, embeddings, labels, **given)[0])
    _print_ratios(f"faiss / exact, probes {probes:g}", times, exact_times)
    print(f"{'':28s} recall {found['neighbor_recall']:.4f}, "
          f"MAP@R {found['map_at_r']:.4f} (exact {exact['map_at_r']:.4f}), "
          f"precision at 1 {found['precision_at_1']:.4f} (exact {exact['precision_at_1']:.4f})")  # fmt: skip


def _step(options):
    """Step between the evaluated queries."""
    return max(1, options.samples // options.part) if options.part else 1


def _print_times(name, times):
    print(f"{name:28s} {min(times):8.2f} s   (all runs: {', '.join(f'{s:.2f}' for s in times)})")


def _print_ratios(name, times, others):
    ratios = np.divide(times, others)
    print(f"{name:28s} {np.median(ratios):8.2f}     (each run: {', '.join(f'{r:.2f}' for r in ratios)})", flush=True)


def _samples(options):
    generator = np.random.default_rng(0)
    labels = np.sort(generator.integers(options.classes, size=options.samples))
    labels[: int(options.giant * options.samples)] = labels[0]
    # Networks do not fill all dimensions of their embeddings, and approximate search depends on that.
    inner = options.intrinsic_dim or options.dim
    rotation = np.linalg.qr(generator.normal(size=(options.dim, inner)))[0].T if options.intrinsic_dim else None
    centers = generator.normal(size=(options.classes, inner))
    embeddings = np.empty((options.samples, options.dim), np.float32)
    # In parts, so that the peak memory is that of the metrics rather than of the samples.
    for start in range(0, options.samples, 10_000):
        some = embeddings[start : start + 10_000]
        noise = options.noise * generator.normal(size=(len(some), inner))
        vectors = centers[labels[start : start + len(some)]] + noise
        vectors = vectors if rotation is None else vectors @ rotation
        some[:] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    copies = int(options.duplicates * options.samples)
    embeddings[generator.permutation(options.samples)[:copies]] = embeddings[:copies]
    return embeddings, labels


def _product(queries, embeddings, rows, sort=False):
    references = tf.constant(embeddings)
    for start in range(0, len(queries), rows):
        products = _blocked_product(tf.constant(queries[start : start + rows]), references)
        if sort:
            np.sort(products.numpy(), axis=1)


@tf.function(input_signature=[tf.TensorSpec((None, None)), tf.TensorSpec((None, None))])
def _blocked_product(queries, references):
    return tf.matmul(queries, references, transpose_b=True)


def _timed(function, *args, **kwargs):
    """Seconds and the result of a call."""
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
