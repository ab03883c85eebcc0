"""Time and memory of the exact retrieval metrics beside those of the bare matrix product, in one run.

python benchmarks/retrieval.py                      # the size of Stanford Online Products' test set
python benchmarks/retrieval.py --samples 10000 --classes 10 --dim 2
python benchmarks/retrieval.py --samples 20000 --classes 4 --dim 64 --sort   # few large classes, beside sorted products
python benchmarks/retrieval.py --samples 1000000 --classes 187000 --part 4000 --product-rows 64
python benchmarks/retrieval.py --probes 0.05 0.25 --intrinsic-dim 16 --noise 0.5   # Faiss beside the exact search

With --part so many queries, evenly spread, are compared with all references; the time of all of them is reckoned from
that: what one query takes, which is the preparation of the references, and the rest as many times more. With --profile
it says instead what the time goes to, by Python's functions and, within TensorFlow, by its operations.
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
    parser.add_argument("--samples", type=int, default=60_502)
    parser.add_argument("--classes", type=int, default=11_316)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument(
        "--noise", type=float, default=1.4, help="how far samples are from their class, relative to classes"
    )
    parser.add_argument(
        "--intrinsic-dim", type=int, help="directions that classes and samples differ along; --dim by default"
    )
    parser.add_argument(
        "--duplicates", type=float, default=0.0, help="share of samples that equal another one"
    )
    parser.add_argument("--giant", type=float, default=0.0, help="share of samples that belong to one class")
    parser.add_argument("--block-mib", type=float, default=BLOCK_BYTES / 2**20)
    parser.add_argument(
        "--product-rows", type=int, default=512, help="rows of a block of the bare matrix product"
    )
    parser.add_argument("--sort", action="store_true", help="compare with the matrix product and a sort of each row")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", type=int, help="judge about so many queries only, and reckon the time of all")
    parser.add_argument(
        "--probes", type=float, nargs="+", default=[], help="shares of the lists that an approximate search looks into"
    )
    parser.add_argument("--profile", action="store_true", help="says what the time goes to, and no ratios")
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
    """Prints time and memory of the metrics beside the product's, and gives the metrics."""
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
            print(f"{'peak memory':28s} {peak:8.0f} MiB ({copies:.1f} times the references more)")
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
        # Of a part that is too small, the time beyond the preparation is noise.
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
    """Approximate search, the measure of its recall included, beside the exact one in turns."""
    given = {"block_bytes": block_bytes, "part": (0, _step(options))}
    times, exact_times = [], []
    for _ in range(options.repeats):
        seconds, found = _timed(retrieval_metrics, embeddings, labels, neighbors="faiss", probes=probes, **given)
        times.append(seconds)
        exact_times.append(_timed(retrieval_metrics, embeddings, labels, **given)[0])
    _print_ratios(f"faiss / exact, probes {probes:g}", times, exact_times)
    print(f"{'':28s} recall {found['neighbor_recall']:.4f}, MAP@R {found['map_at_r']:.4f} for {exact['map_at_r']:.4f}, "
          f"precision at 1 {found['precision_at_1']:.4f} for {exact['precision_at_1']:.4f}")  # fmt: skip


def _step(options):
    """Every how many-th query is judged."""
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
    # Networks do not fill all dimensions of their embeddings, and approximate search lives on that.
    inner = options.intrinsic_dim or options.dim
    turn = np.linalg.qr(generator.normal(size=(options.dim, inner)))[0].T if options.intrinsic_dim else None
    centers = generator.normal(size=(options.classes, inner))
    embeddings = np.empty((options.samples, options.dim), np.float32)
    # In parts, so that the peak is the metrics' and not that of making the samples.
    for start in range(0, options.samples, 10_000):
        some = embeddings[start : start + 10_000]
        noise = options.noise * generator.normal(size=(len(some), inner))
        vectors = centers[labels[start : start + len(some)]] + noise
        vectors = vectors if turn is None else vectors @ turn
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
    """Seconds, and what the function gives."""
    start = time.perf_counter()
    result = function(*args, **kwargs)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
