"""The two gradients and the printed iteration against NumPy and finite differences, and a short run of the study."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logsumexp

from studies import gradient_cost as study
from studies.gradient_cost import (
    AVERAGE,
    CLOSED_FORM,
    DIRECT,
    ITERATED,
    NEWTON,
    UNROLLED,
    PoolingSetting,
    convergence_rate,
    gradient_cost,
    make_inputs,
    make_layer,
    make_step,
    measure_errors,
    weights_as_printed,
)
from tfdml.experiments import InputError

SMALL = PoolingSetting(batch=2, size=3, channels=5, prototypes=4, attributes=True)
RATIO, SMOOTHING = 0.6, 4.0


@pytest.fixture(scope="module")
def costs():
    return np.random.default_rng(0).uniform(0.0, 1.5, (2, 7, 3))


def printed(costs, iterations):
    """Proposition 5.2.1, one feature map at a time."""
    weights = []
    for kernel in np.exp(-SMOOTHING * costs):
        scale, count = 1.0, len(kernel)
        for _ in range(iterations):
            residual = 1.0 / count / (1.0 + scale * kernel.sum(axis=1))
            scale = RATIO / (kernel.T @ residual).sum()
        weights.append((1.0 / count - residual) / RATIO)
    return np.array(weights)


def newton_weights(costs, ratio, smoothing):
    """Pooling weights in float64 by bisection."""
    log_mass = logsumexp(-smoothing * costs, axis=-1)
    low, high = np.full((len(costs), 1), -100.0), np.full((len(costs), 1), 100.0)
    for _ in range(100):
        middle = 0.5 * (low + high)
        too_low = expit(middle + log_mass).mean(axis=1, keepdims=True) < ratio
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return expit(low + log_mass) / (log_mass.shape[1] * ratio)


def costs_of(setting):
    def clip(vectors):
        return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))

    features, prototypes, _ = (array.astype(np.float64) for array in make_inputs(setting))
    bags = clip(features).reshape(setting.batch, -1, setting.channels)
    return np.linalg.norm(bags[:, :, None] - clip(prototypes), axis=-1)


@pytest.mark.parametrize("gradient", ["unrolled", "implicit"])
@pytest.mark.parametrize("iterations", [1, 2, 5])
def test_iteration_as_printed(costs, iterations, gradient):
    found = weights_as_printed(tf.constant(costs), RATIO, SMOOTHING, iterations, gradient)
    np.testing.assert_allclose(found, printed(costs, iterations), rtol=1e-12)


def gradient_of(function, costs):
    costs = tf.constant(costs)
    with tf.GradientTape() as tape:
        tape.watch(costs)
        loss = tf.reduce_sum(tf.square(function(costs)))
    return tape.gradient(loss, costs).numpy()


def differences(function, costs, step=1e-6):
    result = np.zeros_like(costs)
    for index in np.ndindex(costs.shape):
        shift = np.zeros_like(costs)
        shift[index] = step
        result[index] = (np.square(function(costs + shift)).sum() - np.square(function(costs - shift)).sum()) / step / 2
    return result


def test_unrolled_gradient_is_that_of_the_truncated_iteration(costs):
    found = gradient_of(lambda x: weights_as_printed(x, RATIO, SMOOTHING, 3, "unrolled"), costs)
    np.testing.assert_allclose(found, differences(lambda x: printed(x, 3), costs), atol=1e-8)


def test_closed_form_is_that_of_the_solution(costs):
    found = gradient_of(lambda x: weights_as_printed(x, RATIO, SMOOTHING, 200, "implicit"), costs)
    expected = differences(lambda x: newton_weights(x, RATIO, SMOOTHING), costs)
    np.testing.assert_allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("gradient", [CLOSED_FORM, UNROLLED], ids=["closed form", "unrolled"])
def test_as_printed_is_the_layers_iteration(gradient):
    features, prototypes, upstream = make_inputs(SMALL)
    results = []
    for as_printed in (False, True):
        layer = make_layer(SMALL, {**gradient, "iterations": 4, "as_printed": as_printed}, prototypes, "float64")
        # The attributes of a truncated iteration belong to another iterate.
        layer.return_attributes = False
        results.append(make_step(layer, upstream)(tf.constant(features, tf.float64)))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_errors_against_bisection():
    features, prototypes, _ = make_inputs(SMALL)
    options = {**CLOSED_FORM, "iterations": 2}
    weights = make_layer(SMALL, options, prototypes, "float64").pooling_weights(features.astype(np.float64)).numpy()
    true = newton_weights(costs_of(SMALL), SMALL.ratio, SMALL.smoothing)
    errors = measure_errors(SMALL, {"two": options, NEWTON: DIRECT[NEWTON]}, "float64")
    assert errors["two"].weights == pytest.approx(9 * np.abs(weights.reshape(2, 9) - true).max(), rel=1e-9)
    assert errors[NEWTON] == (0.0, 0.0) and errors["two"].gradients > 1e-3


@pytest.mark.parametrize(("ratio", "late"), [(0.3, 8), (0.9, 60)])
def test_convergence_rate_is_the_errors_quotient(ratio, late):
    setting = SMALL._replace(batch=1, ratio=ratio)
    variants = {k: {**CLOSED_FORM, "iterations": k} for k in (late, late + 1)}
    errors = measure_errors(setting, variants, "float64")
    rate = convergence_rate(setting)
    assert rate == pytest.approx(errors[late + 1].weights / errors[late].weights, rel=0.01) and rate >= ratio


@pytest.mark.integration
def test_report(tmp_path, monkeypatch):
    asked = []

    def fresh_process(function, setting, variants, mode):
        asked.append((function, setting, mode))
        return dict.fromkeys(variants, 2**20)

    monkeypatch.setattr(study, "in_fresh_process", fresh_process)
    measured = gradient_cost(
        str(tmp_path), [3, 1, 3], 2, 3, 5, prototypes=4, other_ratios=[0.9], mode="eager", repeats=2
    )
    variants = {(name, k) for name in ITERATED for k in (1, 3)} | {NEWTON, AVERAGE}
    assert set(measured.times) == set(measured.memory) == variants
    assert all(times.shape == (2,) and (times > 0).all() for times in measured.times.values())
    assert asked == [(study.peaks, SMALL._replace(attributes=False), "eager")]
    assert set(measured.errors) == {(ratio, name, k) for ratio in (0.3, 0.9) for name in ("closed form", "unrolled")
                                    for k in (1, 3)}  # fmt: skip
    assert measured.errors[0.3, "unrolled", 3].weights == measured.errors[0.3, "closed form", 3].weights
    assert measured.rounding.weights < 1e-5
    time = (tmp_path / "time.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in time] == ["k", "1", "3", NEWTON, AVERAGE] and "(1.00)" in time[3]
    assert (tmp_path / "memory.csv").read_text().splitlines()[1] == "1,1.0,1.0,1.0,1.0"
    assert len((tmp_path / "accuracy.csv").read_text().splitlines()) == 3
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("cost", "accuracy"))


def test_memory_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "in_fresh_process", lambda *_: None)
    measured = gradient_cost(
        str(tmp_path), [2], batch=1, size=2, channels=3, prototypes=2, other_ratios=[], mode="eager", repeats=1
    )
    assert set(measured.memory.values()) == {None}
    assert "–" in (tmp_path / "memory.csv").read_text() and (tmp_path / "cost.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"iterations": []}, r"iterations=\[\]. Expected: at least one"),
        ({"iterations": [5, 0]}, "iterations=0. Expected: an integer >= 1"),
        ({"repeats": 0}, "repeats=0"),
        ({"smoothing": 0.0}, "smoothing=0.0"),
        ({"other_ratios": [1.0]}, "ratio=1.0. Expected: 0 < ratio < 1"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        gradient_cost(str(tmp_path / "out"), **arguments)
    assert not (tmp_path / "out").exists()
