"""Times generalized sum pooling, forward and backward, and measures its memory and its error.

Compares the default (Newton's method, gradient in closed form) with the 100 fixed-point iterations of the thesis,
with the gradient in closed form and unrolled, and with global average pooling. tfdml iterates on one number per
image and on row sums that it takes once; "as printed" is Proposition 5.2.1 to the letter, with a product with the
kernel in each iteration.

"layer" is the whole pooling, with the distances and the weighted average, which all variants but the last share;
"transport" goes from the costs to the weights and back. The variants take turns, so a busy machine slows all of them
alike; times are medians.

    python benchmarks/gsp.py
    python benchmarks/gsp.py --batch 128 --size 7 --channels 1024 --prototypes 128 --modes graph
"""

import argparse
import ctypes
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfdml.layers.pooling import GeneralizedSumPooling  # noqa: E402
from tfdml.ops import optimal_transport  # noqa: E402
from tfdml.ops.clipped_distances import clipped_distances  # noqa: E402

VARIANTS = {
    "newton, closed form": {"solver": "newton"},
    "{iterations} iterations, closed form": {"solver": "bregman"},
    "{iterations} iterations, unrolled": {"solver": "bregman", "gradient": "unrolled"},
    "{iterations} as printed, unrolled": {"as_printed": True},
    "global average": None,
}
DEFAULT = "newton, closed form"
MODES = {"eager": None, "graph": False, "xla": True}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=8, help="height and width of the feature map")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--prototypes", type=int, default=64)
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--smoothing", type=float, default=5.0)
    parser.add_argument("--iterations", type=int, default=100, help="of the fixed-point iteration")
    parser.add_argument("--attributes", action="store_true", help="return the attributes, too")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=["graph", "xla"])
    parser.add_argument("--repeats", type=int, default=60, help="turns of each variant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-of", nargs=2, metavar=("VARIANT", "MODE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_inputs(arguments):
    generator = np.random.default_rng(arguments.seed)
    shape = (arguments.batch, arguments.size, arguments.size, arguments.channels)
    # Features around a few directions, of lengths on both sides of 1, as a trained network's are.
    directions = generator.normal(size=(16, arguments.channels))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    features = directions[generator.integers(len(directions), size=shape[:-1])]
    features = features + 0.5 * generator.normal(size=shape) / np.sqrt(arguments.channels)
    features *= generator.uniform(0.3, 1.5, size=(*shape[:-1], 1))
    prototypes = directions[np.arange(arguments.prototypes) % len(directions)]
    prototypes = prototypes + 0.5 * generator.normal(size=prototypes.shape) / np.sqrt(arguments.channels)
    upstream = generator.normal(size=(arguments.batch, arguments.channels))
    return features.astype(np.float32), prototypes.astype(np.float32), upstream.astype(np.float32)


class AsPrinted(GeneralizedSumPooling):
    """Proposition 5.2.1 to the letter, by automatic differentiation."""

    def _solve(self, bags, mask):
        costs = clipped_distances(bags, tf.convert_to_tensor(self.prototype_embeddings))
        return weights_as_printed(costs, self.ratio, self.smoothing, self.iterations), None


def weights_as_printed(costs, ratio, smoothing, iterations):
    kernel = tf.exp(-smoothing * costs)
    share = 1.0 / costs.shape[-2]

    def residual(scale):
        return share / (1.0 + scale * tf.reduce_sum(kernel, axis=-1))

    def project(step, scale):
        received = tf.linalg.matvec(kernel, residual(scale), transpose_a=True)
        return step + 1, ratio / tf.reduce_sum(received, axis=-1, keepdims=True)

    _, scale = tf.while_loop(
        lambda step, _: step < iterations - 1,
        project,
        (0, tf.ones_like(kernel[..., 0, :1])),
        maximum_iterations=iterations - 1,
    )
    return (share - residual(scale)) / ratio


def make_transport(arguments, options):
    """A function of the costs that gives the gradient of a loss of the pooling weights."""

    def weights(costs):
        if "as_printed" in options:
            return weights_as_printed(costs, arguments.ratio, arguments.smoothing, arguments.iterations)
        iterations = arguments.iterations if options["solver"] == "bregman" else None
        log_mass, _ = optimal_transport.soft_assignment(costs, arguments.smoothing, axis=-1)
        return optimal_transport.transported_mass(log_mass, arguments.ratio, iterations=iterations, **options).selected

    def step(costs):
        with tf.GradientTape() as tape:
            tape.watch(costs)
            loss = tf.reduce_sum(tf.square(weights(costs)))
        return [tape.gradient(loss, costs)]

    return step


def make_layer(arguments, options, prototypes, dtype="float32"):
    if options is None:
        return keras.layers.GlobalAveragePooling2D(dtype=dtype)
    shared = {"prototypes": arguments.prototypes, "ratio": arguments.ratio, "smoothing": arguments.smoothing}
    if "as_printed" in options:
        layer = AsPrinted(**shared, iterations=arguments.iterations, dtype=dtype)
    else:
        iterations = arguments.iterations if options["solver"] == "bregman" else None
        layer = GeneralizedSumPooling(
            **shared, iterations=iterations, return_attributes=arguments.attributes, dtype=dtype, **options
        )
    layer.build((None, None, None, arguments.channels))
    layer.prototype_embeddings.assign(prototypes)
    return layer


def make_step(layer, upstream):
    """A function of the features that gives the gradients of a loss of the pooled features."""
    variables = layer.trainable_variables

    def step(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = layer(features)
            pooled, *attributes = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = tf.reduce_sum(pooled * tf.cast(upstream, pooled.dtype))
            for attribute in attributes:
                loss += tf.reduce_sum(tf.square(attribute))
        return tape.gradient(loss, [features, *variables])

    return step


def in_mode(step, mode):
    return step if mode == "eager" else tf.function(step, jit_compile=MODES[mode])


def measure_times(steps, features, repeats):
    for step in steps.values():
        for _ in range(3):
            step(features)
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, step in steps.items():
            step(features)[0].numpy()  # Not timed: brings the caches back after the variant before.
            start = time.perf_counter()
            for _ in range(3):
                step(features)[0].numpy()
            times[name].append((time.perf_counter() - start) / 3)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(arguments):
    """Peak of the extra memory of one step in bytes, in this process; Linux alone can tell."""
    name, mode = arguments.memory_of
    features, prototypes, upstream = make_inputs(arguments)
    step = in_mode(make_step(make_layer(arguments, VARIANTS[name], prototypes), upstream), mode)
    features = tf.constant(features)
    for _ in range(3):
        step(features)
    peaks = []
    for _ in range(5):
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
        before = _status("VmRSS")
        step(features)
        peaks.append(_status("VmHWM") - before)
    return max(0, statistics.median(peaks))


def _status(key):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def peak_memory_in_child(name, mode):
    # With these, TensorFlow and malloc give back what is freed, so a step's allocations show.
    switches = {"TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    environment = {**os.environ, **switches}
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name, mode]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    return json.loads(child.stdout) if child.returncode == 0 else None


def reference_weights(costs, ratio, smoothing):
    """Pooling weights for costs `(b, m, n)` by bisection in float64."""
    kernel = -smoothing * costs.astype(np.float64)
    log_mass = np.logaddexp.reduce(kernel, axis=-2)
    target = np.log(ratio) - np.log1p(-ratio)
    low = target - log_mass.max(axis=-1, keepdims=True) - 1.0
    high = target - log_mass.min(axis=-1, keepdims=True) + 1.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        too_low = _sigmoid(middle + log_mass).mean(axis=-1, keepdims=True) < ratio
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return _sigmoid(low + log_mass) / (log_mass.shape[-1] * ratio)


def _sigmoid(values):
    return 0.5 * (1.0 + np.tanh(0.5 * values))


def measure_errors(arguments, features, prototypes, upstream):
    """Largest errors of the weights, relative to 1/n, and of the gradients, relative to their largest entry."""

    def clip(vectors):
        return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))

    bags = clip(features.astype(np.float64)).reshape(len(features), -1, features.shape[-1])
    anchors = clip(prototypes.astype(np.float64))
    costs = np.stack([np.linalg.norm(anchors[:, None] - bag[None], axis=-1) for bag in bags])
    weights = reference_weights(costs, arguments.ratio, arguments.smoothing)
    exact = make_step(make_layer(arguments, VARIANTS[DEFAULT], prototypes, "float64"), upstream)
    exact = [gradient.numpy() for gradient in exact(tf.constant(features, tf.float64))]
    errors = {}
    for name, options in VARIANTS.items():
        if options is None:
            continue
        layer = make_layer(arguments, options, prototypes)
        found = layer.pooling_weights(features).numpy().reshape(weights.shape)
        gradients = make_step(layer, upstream)(tf.constant(features))
        errors[name] = (
            np.abs(found - weights).max() * weights.shape[-1] * arguments.ratio,
            max(np.abs(got - true).max() / np.abs(true).max() for got, true in zip(gradients, exact)),
        )
    return errors


def main():
    arguments = parse_arguments()
    if arguments.memory_of:
        print(json.dumps(peak_memory(arguments)))
        return
    features, prototypes, upstream = make_inputs(arguments)
    errors = measure_errors(arguments, features, prototypes, upstream)
    print(
        f"TensorFlow {tf.__version__}, {os.cpu_count()} CPUs. Batch {arguments.batch}, {arguments.size}x"
        f"{arguments.size} features of {arguments.channels}, {arguments.prototypes} prototypes, ratio "
        f"{arguments.ratio}, smoothing {arguments.smoothing}. Forward + backward."
    )
    print("Errors against float64: weights relative to 1/n, gradients relative to their largest entry.\n")
    labels = {name: name.format(iterations=arguments.iterations) for name in VARIANTS}
    width = max(map(len, labels.values()))
    costs = clipped_distances(tf.reshape(features, (arguments.batch, -1, arguments.channels)), tf.constant(prototypes))
    for mode in arguments.modes:
        layers = {name: make_layer(arguments, options, prototypes) for name, options in VARIANTS.items()}
        steps = {name: in_mode(make_step(layer, upstream), mode) for name, layer in layers.items()}
        layer_times = measure_times(steps, tf.constant(features), arguments.repeats)
        steps = {
            name: in_mode(make_transport(arguments, options), mode)
            for name, options in VARIANTS.items()
            if options is not None
        }
        transport_times = measure_times(steps, costs, arguments.repeats)
        print(
            f"{mode:<{width}} {'layer ms':>10} {'ratio':>7} {'transport ms':>14} {'ratio':>7} {'peak MB':>9} "
            f"{'weights':>9} {'gradients':>10}"
        )
        for name, label in labels.items():
            memory = peak_memory_in_child(name, mode)
            print(
                f"{label:<{width}}",
                f"{1e3 * layer_times[name]:10.2f} {layer_times[name] / layer_times[DEFAULT]:7.2f}",
                f"{1e3 * transport_times[name]:14.2f} {transport_times[name] / transport_times[DEFAULT]:7.2f}"
                if name in transport_times
                else f"{'-':>14} {'-':>7}",
                f"{'-':>9}" if memory is None else f"{memory / 2**20:9.1f}",
                "{:9.1e} {:10.1e}".format(*errors[name]) if name in errors else f"{'-':>9} {'-':>10}",
                flush=True,
            )
        print()


if __name__ == "__main__":
    main()
