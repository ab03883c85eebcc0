"""Time the choice of new proxies: greedy k-center of all classes at once, and class by class in NumPy.

    python benchmarks/k_center.py                       # Stanford Online Products: 11,318 classes, 4 of 7 images
    python benchmarks/k_center.py --classes 100 --pool-size 50
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks import children  # noqa: E402
from tfdml import ops  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=11_318, help="number of classes (default: %(default)s)")
    parser.add_argument("--pool-size", type=int, default=7, help="images per class in the pool (default: %(default)s)")
    parser.add_argument("--per-class", type=int, default=4, help="proxies per class (default: %(default)s)")
    parser.add_argument("--dim", type=int, default=128, help="embedding size (default: %(default)s)")
    choose(parser.parse_args())


def choose(options):
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(options.classes, options.pool_size, options.dim)).astype("float32")
    given = rng.normal(size=(options.classes, options.per_class, options.dim)).astype("float32")
    times, loop_times = [], []
    before = children.high_water_mark()
    for _ in range(5):
        start = time.perf_counter()
        chosen = np.asarray(ops.greedy_k_center(pool, options.per_class, initial=given))
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            mebibytes = children.high_water_mark() - before
        start = time.perf_counter()
        by_loop = np.array([k_center(*of_class, options.per_class) for of_class in zip(pool, given)])
        loop_times.append(time.perf_counter() - start)
    print(
        f"TensorFlow {tf.__version__}, {os.cpu_count()} cores: choice of {options.per_class} of {options.pool_size} x "
        f"{options.dim} in {options.classes} classes: "
        f"{np.median(times[1:]):.2f} s (first call {times[0]:.2f} s); class by class in NumPy "
        f"{np.median(np.divide(loop_times, times)[1:]):.1f} x that; the same choice in "
        f"{(chosen == by_loop).all(axis=1).mean():.1%} of the classes; {mebibytes:.0f} MiB more at its peak "
        f"(the vectors given are {(pool.nbytes + given.nbytes) / 2**20:.0f} MiB)"
    )


def k_center(points, centers, count):
    chosen = []
    nearest = np.linalg.norm(points[:, None] - centers, axis=2).min(axis=1)
    for _ in range(count):
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


if __name__ == "__main__":
    main()
