"""Times what chance constrained programming adds: to a training step, and for drawing new proxies.

The step: ResNet-20 and a proxy loss, with the pull towards the last solution (CCPModel in its second problem) and
without (MetricModel with the same proxies). Batches of both take turns, so that a busy machine slows both alike; the
ratio is the median of the turns' quotients.

The choice: greedy k-center of all classes at once against the same in NumPy, class by class; the cost of embedding the
pictures of the pool is what the network takes for them.

    python benchmarks/ccp.py
    python benchmarks/ccp.py --batch 64 --side 64 --jit-compile
"""

import argparse
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfdml import layers, models, ops  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32, help="of the pictures, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=300, help="of the training step")
    parser.add_argument("--per-class", type=int, default=4, help="proxies of a class")
    parser.add_argument("--losses", nargs="+", default=["c2", "multi_similarity"])
    parser.add_argument("--jit-compile", action="store_true", help="compile the step by XLA")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--pool-classes", type=int, default=11318, help="of the choice: Stanford Online Products")
    parser.add_argument("--pool-size", type=int, default=7)
    parser.add_argument("--skip", choices=("step", "choice"), nargs="*", default=())
    options = parser.parse_args()
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, {os.cpu_count()} cores")
    if "step" not in options.skip:
        for loss in options.losses:
            step(loss, options)
    if "choice" not in options.skip:
        choice(options)


def step(loss, options):
    rng = np.random.default_rng(0)
    images = rng.random((options.batch, options.side, options.side, 1)).astype("float32")
    labels = rng.integers(options.classes, size=options.batch)
    batches = tf.data.Dataset.from_tensors((images, labels)).cache().repeat()
    plain = Training(make_model(loss, options, with_pull=False), batches)
    pulled = Training(make_model(loss, options, with_pull=True), batches)
    of_plain, of_pulled = np.array([(plain.seconds(), pulled.seconds()) for _ in range(options.turns)]).T
    print(
        f"training step, {loss:18s} batch {options.batch} of {options.side}x{options.side}, "
        f"{'XLA' if options.jit_compile else 'graph'}: plain proxies {1e3 * np.median(of_plain):7.1f} ms, "
        f"CCP {np.median(of_pulled / of_plain):.3f} x that",
        flush=True,
    )


def make_model(loss, options, with_pull):
    keras.utils.set_random_seed(0)
    embedder = models.build_embedder("resnet20v2", "gap", 128, "clip", (options.side, options.side, 1))
    proxies = layers.ClassProxies(options.classes, options.per_class, dim=128)
    model = models.CCPModel(embedder, proxies) if with_pull else models.MetricModel(embedder, proxies)
    model.compile(
        keras.optimizers.Adam(1e-4, global_clipnorm=10.0), loss, weight_decay=1e-4, jit_compile=options.jit_compile
    )
    if with_pull:
        model.begin_projection(np.asarray(proxies.proxies))
    return model


class Training:
    """A model's training step, as `fit` runs it."""

    def __init__(self, model, batches):
        self.model, self.batches = model, iter(batches)
        # Keras 3 keeps it, Keras 2 gives it.
        self.step = model.make_train_function() or model.train_function
        for _ in range(3):
            self.seconds()

    def seconds(self, steps=2):
        start = time.perf_counter()
        for _ in range(steps):
            self.step(self.batches)
        _ = float(tf.convert_to_tensor(self.model.loss_tracker.result()))
        return (time.perf_counter() - start) / steps


def choice(options):
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(options.pool_classes, options.pool_size, 128)).astype("float32")
    given = rng.normal(size=(options.pool_classes, options.per_class, 128)).astype("float32")
    times, loop_times = [], []
    for _ in range(5):
        start = time.perf_counter()
        chosen = np.asarray(ops.greedy_k_center(pool, options.per_class, initial=given))
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
        by_loop = np.array([k_center(*of_class, options.per_class) for of_class in zip(pool, given)])
        loop_times.append(time.perf_counter() - start)
    print(
        f"choice of {options.per_class} of {options.pool_size} x 128 in {options.pool_classes} classes: "
        f"{np.median(times[1:]):.2f} s (first call {times[0]:.2f} s); class by class in NumPy "
        f"{np.median(np.divide(loop_times, times)[1:]):.1f} x that; the same choice in "
        f"{(chosen == by_loop).all(axis=1).mean():.1%} of the classes"
    )


def k_center(points, centres, count):
    chosen = []
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).min(axis=1)
    for _ in range(count):
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return chosen


if __name__ == "__main__":
    main()
