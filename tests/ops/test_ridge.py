"""ridge_regression against scikit-learn, finite differences, and itself on fewer samples."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from tfdml import ops


def problem(seed=0, samples=7, inputs=3, targets=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, inputs)), rng.normal(size=(samples, targets)), rng.uniform(0, 2, samples)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    samples=st.integers(1, 9),
    inputs=st.integers(1, 9),
    targets=st.integers(1, 3),
    penalty=st.floats(1e-3, 1e3),
)
def test_equals_scikit_learn(seed, samples, inputs, targets, penalty):
    z, y, weights = problem(seed, samples, inputs, targets)
    for sample_weight in (None, weights):
        expected = Ridge(penalty, fit_intercept=False).fit(z, y, sample_weight).coef_.reshape(targets, inputs)
        np.testing.assert_allclose(ops.ridge_regression(z, y, penalty, sample_weight), expected, atol=1e-10)


def test_no_small_change_is_better():
    z, y, weights = problem()

    def cost(coefficients):
        errors = np.sum((z @ coefficients.T - y) ** 2, axis=-1)
        return weights @ errors + 0.3 * np.sum(coefficients**2)

    best = ops.ridge_regression(z, y, 0.3, weights).numpy()
    for index in np.ndindex(best.shape):
        for step in (-1e-3, 1e-3):
            other = best.copy()
            other[index] += step
            assert cost(other) > cost(best)


def test_weight_zero_leaves_a_sample_out():
    z, y, _ = problem()
    keep = np.array([True, False, True, True, False, True, False])
    np.testing.assert_allclose(ops.ridge_regression(z, y, 0.1, keep), ops.ridge_regression(z[keep], y[keep], 0.1))
    np.testing.assert_array_equal(ops.ridge_regression(z, y, 0.1, np.zeros(7)), np.zeros((2, 3)))


def test_leading_axes_are_broadcast():
    z, y, weights = problem()
    single = ops.ridge_regression(z, y, 0.1).numpy()
    stacked = ops.ridge_regression(np.stack([z, 2 * z]), y, 0.1)
    np.testing.assert_allclose(stacked, [single, ops.ridge_regression(2 * z, y, 0.1)])
    stacked = ops.ridge_regression(z, np.stack([y, y + 1, 3 * y]), 0.1)
    np.testing.assert_allclose(stacked[0], single)
    np.testing.assert_allclose(stacked[2], 3 * single)
    stacked = ops.ridge_regression(z, y, 0.1, np.stack([weights, np.ones(7)]))
    np.testing.assert_allclose(stacked, [ops.ridge_regression(z, y, 0.1, weights), single])


def test_gradients_equal_finite_differences():
    values, upstream = problem(), np.random.default_rng(1).normal(size=(2, 3))

    def loss(z, y, weights):
        return tf.reduce_sum(ops.ridge_regression(z, y, 0.2, weights) * upstream)

    variables = [tf.Variable(value) for value in values]
    with tf.GradientTape() as tape:
        result = loss(*variables)
    for position, gradient in enumerate(tape.gradient(result, variables)):
        for index in np.ndindex(values[position].shape):
            sides = []
            for step in (1e-6, -1e-6):
                shifted = [value.copy() for value in values]
                shifted[position][index] += step
                sides.append(float(loss(*shifted)))
            assert gradient.numpy()[index] == pytest.approx((sides[0] - sides[1]) / 2e-6, abs=1e-6)


@pytest.mark.parametrize("mode", ["unknown shapes", "xla"])
def test_graph_modes_agree_with_eager(mode):
    def run(z, y, weights):
        with tf.GradientTape() as tape:
            tape.watch(z)
            coefficients = ops.ridge_regression(z, y, 0.05, weights)
            loss = tf.reduce_sum(coefficients**2)
        return coefficients, tape.gradient(loss, z)

    arguments = [tf.constant(value, tf.float32) for value in problem(samples=20, inputs=6)]
    if mode == "xla":
        function = tf.function(run, jit_compile=True)
    else:
        signature = [tf.TensorSpec((None, None)), tf.TensorSpec((None, None)), tf.TensorSpec((None,))]
        function = tf.function(run, input_signature=signature)
    for got, wanted in zip(function(*arguments), run(*arguments)):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_computed_in_float32(dtype):
    z, y, weights = (tf.cast(value, dtype) for value in problem())
    coefficients = ops.ridge_regression(z, y, 1e-3, weights)
    assert coefficients.dtype == tf.float32
    precise = ops.ridge_regression(*(tf.cast(value, tf.float64) for value in (z, y)), 1e-3, weights)
    np.testing.assert_allclose(coefficients, precise, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, -1.0, float("nan"), float("inf"), True, "1"])
def test_bad_penalty(penalty):
    with pytest.raises(ValueError, match="Received: penalty="):
        ops.ridge_regression(*problem()[:2], penalty)


@pytest.mark.parametrize(
    ("z", "y", "weights", "message"),
    [
        ((7,), (7, 2), None, r"Received: inputs of shape \(7,\), targets of shape \(7, 2\)"),
        ((7, 3), (7,), None, r"Received: inputs of shape \(7, 3\), targets of shape \(7,\)"),
        ((7, 3), (6, 2), None, "Inputs and targets do not match. Received: inputs of shape"),
        ((7, 3), (7, 2), (6,), r"Received: weights of shape \(6,\) and inputs of shape \(7, 3\)"),
    ],
)
def test_bad_shapes(z, y, weights, message):
    with pytest.raises(ValueError, match=message):
        ops.ridge_regression(np.ones(z), np.ones(y), 0.1, None if weights is None else np.ones(weights))
