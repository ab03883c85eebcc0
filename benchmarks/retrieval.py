"""Time and memory of the exact retrieval metrics beside those of the bare matrix product, in one run.

python benchmarks/retrieval.py                      # the size of Stanford Online Products' test set
python benchmarks/retrieval.py --samples 10000 --classes 10 --dim 2
"""

import argparse
import os
import pathlib
import resource
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

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
        "--duplicates", type=float, default=0.0, help="share of samples that equal another one"
    )
    parser.add_argument("--giant", type=float, default=0.0, help="share of samples that belong to one class")
    parser.add_argument("--block-mib", type=float, default=BLOCK_BYTES / 2**20)
    parser.add_argument(
        "--product-rows", type=int, default=512, help="rows of a block of the bare matrix product"
    )
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    embeddings, labels = _samples(options)
    print(f"{options.samples} samples x {options.dim}, {len(np.unique(labels))} classes; "
          f"TensorFlow {tf.__version__}, NumPy {np.__version__}, {os.cpu_count()} cores")  # fmt: skip
    _report_memory("start (data and TensorFlow)")
    _product(embeddings[:1024], options.product_rows)
    retrieval_metrics(embeddings[:1024], labels[:1024])
    # Alternating, as other work on the machine slows down both.
    products, metrics = [], []
    for _ in range(options.repeats):
        metrics.append(
            _seconds(retrieval_metrics, embeddings, labels, block_bytes=int(options.block_mib * 2**20))
        )
        if len(metrics) == 1:
            _report_memory("retrieval metrics")
        products.append(_seconds(_product, embeddings, options.product_rows))
    for name, seconds in (("bare matrix product", products), ("retrieval metrics", metrics)):
        print(f"{name:28s} {min(seconds):8.2f} s   (all runs: {', '.join(f'{s:.2f}' for s in seconds)})")
    print(f"{'ratio':28s} {min(metrics) / min(products):8.2f}     "
          f"(each run: {', '.join(f'{a / b:.2f}' for a, b in zip(metrics, products))})")  # fmt: skip
    print({name: round(value, 4) for name, value in retrieval_metrics(embeddings, labels).items()})


def _samples(options):
    generator = np.random.default_rng(0)
    labels = np.sort(generator.integers(options.classes, size=options.samples))
    labels[: int(options.giant * options.samples)] = labels[0]
    centers = generator.normal(size=(options.classes, options.dim))
    embeddings = centers[labels] + options.noise * generator.normal(size=(options.samples, options.dim))
    copies = int(options.duplicates * options.samples)
    embeddings[generator.permutation(options.samples)[:copies]] = embeddings[:copies]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings.astype(np.float32), labels


def _product(embeddings, rows):
    references = tf.constant(embeddings)
    for start in range(0, len(embeddings), rows):
        _blocked_product(tf.constant(embeddings[start : start + rows]), references)


@tf.function(input_signature=[tf.TensorSpec((None, None)), tf.TensorSpec((None, None))])
def _blocked_product(queries, references):
    return tf.matmul(queries, references, transpose_b=True)


def _seconds(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def _report_memory(when):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(f"peak memory, {when:26s} {peak:8.0f} MiB")


if __name__ == "__main__":
    main()
