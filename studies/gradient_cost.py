"""What does the gradient of generalized sum pooling cost? Closed form and unrolled iterations of the thesis.

python -m studies.gradient_cost --out DIR
"""

from typing import Literal, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from studies import plots
from studies.measurement import in_fresh_process, in_mode, interleaved_times, peak_memory
from studies.report import Report, command
from tfdml._utils.arguments import check_positive, check_whole_number
from tfdml.experiments import InputError
from tfdml.layers.pooling import GeneralizedSumPooling
from tfdml.ops.clipped_distances import clipped_distances
from tfdml.ops.optimal_transport import soft_assignment

# tfdml iterates on one number per image, with row sums that are computed once. "As printed" follows Proposition 5.2.1
# literally, with a product with the kernel in each iteration.
CLOSED_FORM = {"solver": "bregman"}
UNROLLED = {"solver": "bregman", "gradient": "unrolled"}
ITERATED = {
    "closed form": CLOSED_FORM,
    "unrolled": UNROLLED,
    "as printed, closed form": {**CLOSED_FORM, "as_printed": True},
    "as printed, unrolled": {**UNROLLED, "as_printed": True},
}
NEWTON, AVERAGE = "Newton", "average pooling"
DIRECT = {NEWTON: {"solver": "newton"}, AVERAGE: None}


class PoolingSetting(NamedTuple):
    """Input and hyperparameters of the pooling.

    Attributes:
        batch: int. Feature maps in a batch.
        size: int. Their height and width.
        channels: int. Channels of a local feature.
        prototypes: int. Number of prototypes, m.
        ratio: float. μ.
        smoothing: float. ε, in units of 1 / cost.
        attributes: bool. Whether the attributes are part of the output and of the gradient.
        seed: int. Seed of the features and prototypes.
    """

    batch: int = 32
    size: int = 8
    channels: int = 128
    prototypes: int = 64
    ratio: float = 0.3
    smoothing: float = 5.0
    attributes: bool = False
    seed: int = 0


class Errors(NamedTuple):
    """Errors of a variant relative to Newton's method in float64.

    Attributes:
        weights: float. Largest error of a pooling weight in units of 1/n, the weight of average pooling.
        gradients: float. Largest error of an entry of the gradient relative to its largest entry, for the features or
            for the prototypes, whichever is greater.
    """

    weights: float
    gradients: float


class Measured(NamedTuple):
    """Results of the study.

    Attributes:
        times: dict from a name of `DIRECT`, or a name of `ITERATED` and k, to the seconds of each round, `(repeats,)`.
        memory: dict from the same keys to the peak in bytes; None if the system does not report it.
        errors: dict from (μ, `"closed form"` or `"unrolled"`, k) to `Errors`, all in float64.
        rates: dict from μ to the factor by which an iteration asymptotically shrinks the error.
        rounding: `Errors` of Newton's method in float32.
    """

    times: dict
    memory: dict
    errors: dict
    rates: dict
    rounding: Errors


def gradient_cost(
    out: str,
    iterations: list[int] = (1, 2, 5, 10, 25, 50, 100, 200),
    batch: int = 32,
    size: int = 8,
    channels: int = 128,
    prototypes: int = 64,
    ratio: float = 0.3,
    smoothing: float = 5.0,
    other_ratios: list[float] = (0.7, 0.95),
    mode: Literal["eager", "graph", "xla"] = "graph",
    repeats: int = 40,
    seed: int = 0,
    quick: bool = False,
):
    """Run generalized sum pooling forward and backward with k iterations of the thesis and two gradients.

    The gradient in closed form needs only the last iterate; unrolled differentiation keeps all of them. Both are
    compared with the default, Newton's method with the gradient in closed form, which has no k, and with average
    pooling. Variants are timed alternately; memory is the peak of one step in a separate process. The error of the
    truncated iteration is measured in float64 relative to Newton's method, for several ratios, on which it depends.

    Args:
        out: Folder for tables and figures.
        iterations: Numbers of iterations, k.
        batch: Number of feature maps in a batch.
        size: Height and width of the feature maps.
        channels: Channels of a local feature.
        prototypes: Number of prototypes, m.
        ratio: Share of the mass that is pooled, μ, below 1.
        smoothing: ε, in units of 1 / cost.
        other_ratios: Further values of μ for the errors.
        mode: How TensorFlow runs a step.
        repeats: Number of timing rounds.
        seed: Seed of the features and prototypes.
        quick: Run k = 5, 25 and 100 with 10 rounds.

    Returns:
        `Measured`.

    Raises:
        InputError: If a number is out of range.
    """
    try:
        iterations = sorted({check_whole_number("iterations", k, 1) for k in iterations})
        for name, number in (("repeats", repeats), ("batch", batch), ("size", size), ("channels", channels)):
            check_whole_number(name, number, 1)
        check_whole_number("prototypes", prototypes, 1)
        check_positive("smoothing", smoothing)
        if not iterations:
            raise ValueError("Received: iterations=[]. Expected: at least one.")
        ratios = list(dict.fromkeys([ratio, *other_ratios]))
        for number in ratios:
            if not 0.0 < number < 1.0:
                raise ValueError(f"Received: ratio={number!r}. Expected: 0 < ratio < 1; 1 leaves nothing to solve.")
    except ValueError as error:
        raise InputError(str(error)) from error
    if quick:
        iterations, repeats = [5, 25, 100], min(repeats, 10)
    setting = PoolingSetting(batch, size, channels, prototypes, ratio, smoothing, seed=seed)
    variants = variants_of(iterations)

    features, prototype_vectors, upstream = make_inputs(setting)
    features = tf.constant(features)
    steps = {
        name: in_mode(make_step(make_layer(setting, options, prototype_vectors), upstream), mode, features)
        for name, options in variants.items()
    }
    times = interleaved_times(steps, features, repeats)
    memory = in_fresh_process(peaks, setting, variants, mode) or dict.fromkeys(variants)
    errors, rates = {}, {}
    for number in ratios:
        truncated = {
            (number, name, k): {**ITERATED[name], "iterations": k}
            for name in ("closed form", "unrolled")
            for k in iterations
        }
        errors.update(measure_errors(setting._replace(ratio=number), truncated, "float64"))
        rates[number] = convergence_rate(setting._replace(ratio=number))
    rounding = measure_errors(setting, {NEWTON: DIRECT[NEWTON]}, "float32")[NEWTON]
    measured = Measured(times, memory, errors, rates, rounding)
    _report(Report(out), setting, iterations, mode, measured)
    return measured


def variants_of(iterations):
    """dict from the names of `DIRECT` and of `ITERATED` with k to the options of `make_layer`."""
    iterated = {(name, k): {**options, "iterations": k} for name, options in ITERATED.items() for k in iterations}
    return {**DIRECT, **iterated}


def make_inputs(setting):
    """Make features `(b, h, w, d)`, prototypes `(m, d)` and upstream gradients `(b, d)`, float32.

    The features lie around a few directions and have lengths below and above 1, like those of a trained network.
    """
    generator = np.random.default_rng(setting.seed)
    shape = (setting.batch, setting.size, setting.size, setting.channels)
    directions = generator.normal(size=(16, setting.channels))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    features = directions[generator.integers(len(directions), size=shape[:-1])]
    features = features + 0.5 * generator.normal(size=shape) / np.sqrt(setting.channels)
    features *= generator.uniform(0.3, 1.5, size=(*shape[:-1], 1))
    prototypes = directions[np.arange(setting.prototypes) % len(directions)]
    prototypes = prototypes + 0.5 * generator.normal(size=prototypes.shape) / np.sqrt(setting.channels)
    upstream = generator.normal(size=(setting.batch, setting.channels))
    return features.astype(np.float32), prototypes.astype(np.float32), upstream.astype(np.float32)


class PooledAsPrinted(GeneralizedSumPooling):
    """Pooling that follows Proposition 5.2.1 literally."""

    def _solve(self, bags, mask, shape=None):
        costs = clipped_distances(bags, tf.cast(tf.convert_to_tensor(self.prototype_embeddings), bags.dtype))
        weights = weights_as_printed(costs, self.ratio, self.smoothing, self.iterations, self.gradient)
        if not self.return_attributes:
            return weights, None
        _, assignment = soft_assignment(costs, self.smoothing, axis=-1)
        return weights, tf.linalg.matvec(assignment, weights, transpose_a=True)


def weights_as_printed(costs, ratio, smoothing, iterations, gradient):
    r"""Compute pooling weights with Proposition 5.2.1 literally, with a product with the kernel in each iteration.

    Args:
        costs: float tensor `(b, n, m)`.
        ratio, smoothing, iterations: μ, ε and k.
        gradient: `"unrolled"`, by automatic differentiation, or `"implicit"`, in closed form.

    Returns:
        float tensor `(b, n)`.
    """
    kernel = tf.exp(-smoothing * costs)
    # The closed form must not keep the iterations for the gradient.
    iterated = kernel if gradient == "unrolled" else tf.stop_gradient(kernel)
    share = 1.0 / costs.shape[-2]

    def residual(scale):
        return share / (1.0 + scale * tf.reduce_sum(iterated, axis=-1))

    def project(step, scale):
        received = tf.linalg.matvec(iterated, residual(scale), transpose_a=True)
        return step + 1, ratio / tf.reduce_sum(received, axis=-1, keepdims=True)

    _, scale = tf.while_loop(
        lambda step, _: step < iterations - 1,
        project,
        (0, tf.ones_like(iterated[..., 0, :1])),
        maximum_iterations=max(1, iterations - 1),
    )
    if gradient == "unrolled":
        return (share - residual(scale)) / ratio
    log_mass = tf.math.log(tf.reduce_sum(kernel, axis=-1))
    odds = tf.math.log(scale) + log_mass
    # u = log t depends on the costs such that the mass stays μ: by the implicit function theorem
    # du = -dmass / slope. The subtracted term is 0 and has that derivative.
    mass = tf.reduce_sum(tf.sigmoid(odds), axis=-1, keepdims=True)
    slope = tf.reduce_sum(tf.sigmoid(odds) * tf.sigmoid(-odds), axis=-1, keepdims=True)
    odds -= (mass - tf.stop_gradient(mass)) / tf.stop_gradient(slope)
    return share / ratio * tf.sigmoid(odds)


def make_layer(setting, options, prototypes, dtype="float32"):
    """Make the pooling layer of a variant with given prototypes.

    Args:
        setting: A `PoolingSetting`.
        options: Arguments of `GeneralizedSumPooling`, and `"as_printed"` for `PooledAsPrinted`. None stands for average
            pooling.
        prototypes: float array `(m, d)`.
        dtype: Dtype of the layer. Default: `"float32"`.
    """
    if options is None:
        return keras.layers.GlobalAveragePooling2D(data_format="channels_last", dtype=dtype)
    options = dict(options)
    layer_class = PooledAsPrinted if options.pop("as_printed", False) else GeneralizedSumPooling
    layer = layer_class(
        prototypes=setting.prototypes,
        ratio=setting.ratio,
        smoothing=setting.smoothing,
        return_attributes=setting.attributes,
        dtype=dtype,
        **options,
    )
    layer.build((None, None, None, setting.channels))
    layer.prototype_embeddings.assign(prototypes)
    return layer


def make_step(layer, upstream):
    """Make a function from features to the gradients of a loss, that of the features first."""
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


def peaks(setting, variants, mode):
    """Measure the peak memory of each variant in bytes, in this process; for `in_fresh_process`."""
    features, prototypes, upstream = make_inputs(setting)
    features = tf.constant(features)
    measured = {}
    for name, options in variants.items():
        step = in_mode(make_step(make_layer(setting, options, prototypes), upstream), mode, features)
        measured[name] = peak_memory(step, features)
    return measured


def measure_errors(setting, variants, dtype):
    """Measure the errors of variants relative to Newton's method in float64.

    Args:
        setting: A `PoolingSetting`.
        variants: dict from names to options of `make_layer`.
        dtype: Dtype of the variants.

    Returns:
        dict from names to `Errors`.
    """
    features, prototypes, upstream = make_inputs(setting)

    def outcome(options, dtype):
        layer = make_layer(setting, options, prototypes, dtype)
        inputs = tf.constant(features, dtype)
        weights = layer.pooling_weights(inputs).numpy()
        return weights, [gradient.numpy() for gradient in make_step(layer, upstream)(inputs)]

    true_weights, true_gradients = outcome(DIRECT[NEWTON], "float64")
    errors = {}
    for name, options in variants.items():
        weights, gradients = outcome(options, dtype)
        errors[name] = Errors(
            float(np.abs(weights - true_weights).max() * setting.size**2),
            float(max(np.abs(got - true).max() / np.abs(true).max() for got, true in zip(gradients, true_gradients))),
        )
    return errors


def convergence_rate(setting):
    r"""Asymptotic factor by which an iteration shrinks the error, for the slowest feature map of the batch.

    In $u = \log t$ the iteration is $u \leftarrow u + \log \mu - \log \frac{1}{n} \sum_j \sigma_j$ with
    $\sigma_j = \sigma(u + a_j) = n \mu p_j$, whose derivative at the solution is

    $$\frac{\sum_j \sigma_j^2}{\sum_j \sigma_j} \ge \frac{1}{n} \sum_j \sigma_j = \mu$$

    by the Cauchy–Schwarz inequality, so k iterations gain no more than the factor $\mu^k$.
    """
    features, prototypes, _ = make_inputs(setting)
    layer = make_layer(setting, DIRECT[NEWTON], prototypes, "float64")
    weights = layer.pooling_weights(features.astype(np.float64)).numpy().reshape(setting.batch, -1)
    moved = weights * weights.shape[1] * setting.ratio
    return float((np.square(moved).sum(axis=1) / moved.sum(axis=1)).max())


def _report(report, setting, iterations, mode, measured):
    described = (
        f"forward + backward of {setting.batch}×({setting.size}×{setting.size})×{setting.channels}, "
        f"{setting.prototypes} prototypes, μ = {setting.ratio:g}, ε = {setting.smoothing:g}; TensorFlow "
        f"{tf.__version__}, {mode} mode"
    )
    of_newton = measured.times[NEWTON]

    def time_cell(key):
        times = measured.times[key]
        return f"{1e3 * np.median(times):.2f} ({np.median(times / of_newton):.2f})"

    def memory_cell(key):
        return "–" if measured.memory[key] is None else f"{measured.memory[key] / 2**20:.1f}"

    tables = {
        "time": (time_cell, "Milliseconds (in parentheses relative to Newton's method), medians of the rounds"),
        "memory": (memory_cell, "Peak memory in MiB"),
    }
    for name, (cell, what) in tables.items():
        report.table(
            name,
            ["k", *ITERATED],
            [
                *([k, *(cell((variant, k)) for variant in ITERATED)] for k in iterations),
                *([direct, cell(direct), *["–"] * (len(ITERATED) - 1)] for direct in DIRECT),
            ],
            f"{what}; {described}.",
        )
    ratios = list(measured.rates)
    kinds = ("closed form", "unrolled")
    report.table(
        "accuracy",
        [
            "k",
            *(f"weights, μ = {ratio:g}" for ratio in ratios),
            *(f"gradient {kind}, μ = {ratio:g}" for ratio in ratios for kind in kinds),
        ],
        [
            [
                k,
                *(f"{measured.errors[ratio, 'closed form', k].weights:.0e}" for ratio in ratios),
                *(f"{measured.errors[ratio, kind, k].gradients:.0e}" for ratio in ratios for kind in kinds),
            ]
            for k in iterations
        ],
        "Errors of the truncated iteration in float64: weights in units of 1/n, gradients relative to the largest "
        f"entry. An iteration asymptotically shrinks them by {_listed(measured.rates)}. Newton's method in float32: "
        f"{measured.rounding.weights:.1e} and {measured.rounding.gradients:.1e}.",
    )
    report.figure("cost", _cost_figure(iterations, measured))
    report.figure("accuracy", _accuracy_figure(iterations, measured))


def _listed(rates):
    return ", ".join(f"{rate:.2f} (μ = {ratio:g})" for ratio, rate in rates.items())


def _cost_figure(iterations, measured):
    def multiple(key, quantile):
        return np.quantile(measured.times[key] / measured.times[NEWTON], quantile)

    # Ratios are computed round by round, because the load of the machine varies.
    times = plots.LinePanel(
        f"time of forward + backward\n(relative to {NEWTON})",
        {name: (iterations, [multiple((name, k), 0.5) for k in iterations]) for name in ITERATED},
        bands={
            name: [[multiple((name, k), quantile) for k in iterations] for quantile in (0.25, 0.75)]
            for name in ITERATED
        },
        levels={name: multiple(name, 0.5) for name in DIRECT},
        y_log=True,
    )
    panels = [times]
    if None not in measured.memory.values():
        of = {key: value / 2**20 for key, value in measured.memory.items()}
        panels.append(
            plots.LinePanel(
                "peak memory (MiB)",
                {name: (iterations, [of[name, k] for k in iterations]) for name in ITERATED},
                levels={NEWTON: of[NEWTON]},
            )
        )
    return plots.line_panels(panels, "iterations k", x_log=True)


def _accuracy_figure(iterations, measured):
    panels = []
    for field, label in (("weights", "error of the weights (1/n)"), ("gradients", "error of the gradient (relative)")):
        series = {
            f"μ = {ratio:g}": (
                iterations,
                [getattr(measured.errors[ratio, "closed form", k], field) for k in iterations],
            )
            for ratio in measured.rates
        }
        levels = {"Newton, float32": getattr(measured.rounding, field)}
        panels.append(plots.LinePanel(label, series, levels=levels, y_log=True))
    return plots.line_panels(panels, "iterations k", x_log=True)


if __name__ == "__main__":
    command(gradient_cost)
