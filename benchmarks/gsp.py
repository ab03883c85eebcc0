"""Measure time, memory and error of generalized sum pooling, forward and backward.

Compares the default (Newton's method, gradient in closed form) with the 100 fixed-point iterations of the thesis,
with the gradient in closed form and unrolled, and with global average pooling. tfdml iterates on one number per
image, with row sums that are computed once. "As printed" follows Proposition 5.2.1 literally, with a product with the
kernel in each iteration.

"layer" is the whole pooling, including the distances and the weighted average, which all variants but the last share.
"transport" is the computation from the costs to the weights and back. The variants are timed alternately, so other work
on the machine slows all of them alike. Times are medians, and ratios are medians of the ratios of the rounds.

    python benchmarks/gsp.py
    python benchmarks/gsp.py --batch 128 --size 7 --channels 1024 --prototypes 128 --modes graph
    python benchmarks/gsp.py --size 7 8 14 --prototypes 16 64 256 --modes graph
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from studies.gradient_cost import (  # noqa: E402
    CLOSED_FORM,
    UNROLLED,
    PoolingSetting,
    make_inputs,
    make_layer,
    make_step,
    measure_errors,
    peaks,
    weights_as_printed,
)
from studies.measurement import MODES, in_fresh_process, in_mode, interleaved_times  # noqa: E402
from tfdml.ops import optimal_transport  # noqa: E402
from tfdml.ops.clipped_distances import clipped_distances  # noqa: E402

DEFAULT = "newton, closed form"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=32, help="feature maps in a batch (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs="+", default=[8], help="sides of the feature maps (default: 8)")
    parser.add_argument("--channels", type=int, default=128, help="channels of a feature (default: %(default)s)")
    parser.add_argument("--prototypes", type=int, nargs="+", default=[64], help="numbers of prototypes (default: 64)")
    parser.add_argument("--ratio", type=float, default=0.3, help="ratio μ (default: %(default)s)")
    parser.add_argument("--smoothing", type=float, default=5.0, help="smoothing ε (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=100, help="fixed-point iterations (default: %(default)s)")
    parser.add_argument("--attributes", action="store_true", help="include the attributes in the output")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=["graph", "xla"],
                        help="default: graph and xla")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=60, help="timing rounds (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the features (default: %(default)s)")
    return parser.parse_args()


def variants_of(iterations):
    iterated = {"iterations": iterations}
    return {
        DEFAULT: {"solver": "newton"},
        f"{iterations} iterations, closed form": {**CLOSED_FORM, **iterated},
        f"{iterations} iterations, unrolled": {**UNROLLED, **iterated},
        f"{iterations} as printed, closed form": {**CLOSED_FORM, **iterated, "as_printed": True},
        f"{iterations} as printed, unrolled": {**UNROLLED, **iterated, "as_printed": True},
        "global average": None,
    }


def make_transport(setting, options):
    """Make a function from costs to the gradient of a loss of the pooling weights."""

    def weights(costs):
        if "as_printed" in options:
            return weights_as_printed(
                costs, setting.ratio, setting.smoothing, options["iterations"], options.get("gradient", "implicit")
            )
        log_mass, _ = optimal_transport.soft_assignment(costs, setting.smoothing, axis=-1)
        return optimal_transport.transported_mass(log_mass, setting.ratio, **options).selected

    def step(costs):
        with tf.GradientTape() as tape:
            tape.watch(costs)
            loss = tf.reduce_sum(tf.square(weights(costs)))
        return [tape.gradient(loss, costs)]

    return step


def main():
    arguments = parse_arguments()
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} CPUs. Forward + backward.")
    print("Errors against float64: weights relative to 1/n, gradients relative to their largest entry.\n")
    for size in arguments.size:
        for prototypes in arguments.prototypes:
            given = {**vars(arguments), "size": size, "prototypes": prototypes}
            compare(PoolingSetting(**{key: given[key] for key in PoolingSetting._fields}), arguments)


def compare(setting, arguments):
    variants = variants_of(arguments.iterations)
    solved = {name: options for name, options in variants.items() if options is not None}
    features, prototypes, upstream = make_inputs(setting)
    errors = measure_errors(setting, solved, "float32")
    print(
        f"Batch {setting.batch}, {setting.size}x{setting.size} features of {setting.channels}, {setting.prototypes} "
        f"prototypes, ratio {setting.ratio}, smoothing {setting.smoothing}."
    )
    width = max(map(len, variants))
    features = tf.constant(features)
    costs = clipped_distances(tf.reshape(features, (setting.batch, -1, setting.channels)), tf.constant(prototypes))
    for mode in arguments.modes:
        steps = {
            name: in_mode(make_step(make_layer(setting, options, prototypes), upstream), mode, features)
            for name, options in variants.items()
        }
        layer_times = interleaved_times(steps, features, arguments.repeats)
        steps = {name: in_mode(make_transport(setting, options), mode, costs) for name, options in solved.items()}
        transport_times = interleaved_times(steps, costs, arguments.repeats)
        memory = in_fresh_process(peaks, setting, variants, mode) or dict.fromkeys(variants)
        print(
            f"{mode:<{width}} {'layer ms':>10} {'ratio':>7} {'transport ms':>14} {'ratio':>7} {'peak MB':>9} "
            f"{'weights':>9} {'gradients':>10}"
        )
        for name in variants:
            of_layer, of_transport = np.median(layer_times[name]), np.median(transport_times.get(name, np.nan))
            print(
                f"{name:<{width}}",
                f"{1e3 * of_layer:10.2f} {np.median(layer_times[name] / layer_times[DEFAULT]):7.2f}",
                f"{1e3 * of_transport:14.2f} {np.median(transport_times[name] / transport_times[DEFAULT]):7.2f}"
                if name in solved
                else f"{'-':>14} {'-':>7}",
                f"{'-':>9}" if memory[name] is None else f"{memory[name] / 2**20:9.1f}",
                "{:9.1e} {:10.1e}".format(*errors[name]) if name in errors else f"{'-':>9} {'-':>10}",
                flush=True,
            )
        print()


if __name__ == "__main__":
    main()
