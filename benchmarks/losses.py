"""Measure time and memory of each loss, forward and backward, on large batches.

Each loss runs in a separate process. Ratios are relative to the distances alone (one matrix product, its square root
and their gradient), timed alternately in the same process. Memory is the peak of the process beyond its memory after
TensorFlow was loaded, in MiB and in float32 matrices of (batch, batch): if memory grows with the square of the batch,
the number of matrices becomes constant. "memory grows" is the power of the last doubling. "triplet_all, dense" is the
triplet loss with all triplets of the batch in one array, measured on a batch that is small enough for such an array
(--dense-batch).

    python benchmarks/losses.py
    python benchmarks/losses.py triplet_all multi_similarity --batch 512 1024 2048 4096 --modes graph xla
"""

import argparse
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import children  # noqa: E402
from tfdml import losses, ops  # noqa: E402

DENSE = "triplet_all, dense"
MODES = {"graph": False, "xla": True}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("losses", nargs="*", default=losses.names(), metavar="LOSS", help="default: all")
    parser.add_argument("--batch", type=int, nargs="+", default=[2048], help="batch sizes (default: %(default)s)")
    parser.add_argument("--dense-batch", type=int, default=512, help="batch of dense triplets (default: 512)")
    parser.add_argument("--dim", type=int, default=128, help="embedding size (default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=4, help="samples per class (default: %(default)s)")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=["graph"], help="default: graph")
    parser.add_argument("--repeats", type=int, default=5, help="timed steps (default: %(default)s)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options)))
        return
    print(
        f"TensorFlow {tf.__version__}, {options.dim} dimensions, {options.per_class} per class, {os.cpu_count()} cores"
    )
    print(f"{'loss':28s} {'mode':6s} {'batch':>6s} {'seconds':>8s} {'ratio':>7s} {'peak MiB':>9s} {'matrices':>9s}")
    jobs = [(name, options.batch) for name in options.losses]
    jobs += [(name, [options.dense_batch]) for name in (DENSE, "triplet_all") if options.dense_batch]
    for name, batches in jobs:
        for mode in options.modes:
            peaks = [report(name, batch, mode, options) for batch in batches]
            if len(batches) > 1:
                power = np.log(peaks[-1] / peaks[-2]) / np.log(batches[-1] / batches[-2])
                print(f"{name:28s} {mode:6s} memory grows with the batch to the power {power:.2f}", flush=True)


def report(name, batch, mode, options):
    """Measure a loss and print its line; returns its peak memory in MiB."""
    seconds, ratio, mebibytes = run_in_child(name, batch, mode, options)
    matrices = mebibytes * 2**20 / (4 * batch**2)
    print(
        f"{name:28s} {mode:6s} {batch:6d} {seconds:8.3f} {ratio:7.1f} {mebibytes:9.0f} {matrices:9.1f}", flush=True
    )
    return mebibytes


def run_in_child(name, batch, mode, options):
    given = [f"--{option}={getattr(options, option)}" for option in ("dim", "repeats")]
    return children.result_of(
        __file__, "--child", name, "--batch", batch, "--modes", mode, "--per-class", options.per_class, *given
    )


def measure(options):
    rng, (batch,) = np.random.default_rng(0), options.batch
    embeddings = rng.normal(size=(batch, options.dim)).astype("float32")
    embeddings = tf.constant(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    labels = tf.constant(np.arange(batch) // options.per_class)
    formula = dense_triplets if options.child == DENSE else losses.get(options.child).call
    jit_compile = MODES[options.modes[0]]
    step, bare = make_step(formula, jit_compile), make_step(distances_alone, jit_compile)
    before = children.high_water_mark()
    step(labels, embeddings)
    memory = children.high_water_mark() - before
    bare(labels, embeddings)
    times = [(seconds(step, labels, embeddings), seconds(bare, labels, embeddings)) for _ in range(options.repeats)]
    fastest, fastest_bare = (min(column) for column in zip(*times))
    return fastest, fastest / fastest_bare, memory


def make_step(formula, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def step(labels, embeddings):
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            value = tf.reduce_mean(formula(labels, embeddings))
        return value, tape.gradient(value, embeddings)

    return step


def distances_alone(labels, embeddings):
    return tf.reduce_mean(ops.pairwise_distances(embeddings), axis=1)


def dense_triplets(labels, embeddings, margin=0.1):
    distances = ops.pairwise_distances(embeddings)
    positives, negatives = ops.pair_masks(labels)
    excess = distances[:, :, None] - distances[:, None, :] + margin
    counts = positives[:, :, None] & negatives[:, None, :]
    terms = tf.where(counts, tf.nn.relu(excess), tf.zeros_like(excess))
    return tf.reduce_sum(terms, axis=(1, 2)) / tf.reduce_mean(tf.reduce_sum(tf.cast(counts, tf.float32), axis=(1, 2)))


def seconds(step, *batch):
    start = time.perf_counter()
    step(*batch)[1].numpy()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
