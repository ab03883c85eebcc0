"""pairwise_distances against scipy, and its gradients against finite differences."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from tfdml import ops

SCIPY_NAMES = {"l2": "euclidean", "squared_l2": "sqeuclidean", "cosine": "cosine"}


@pytest.mark.parametrize("distance", SCIPY_NAMES)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), m=st.integers(1, 9), d=st.integers(1, 6))
def test_equals_scipy(distance, seed, n, m, d):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    expected = cdist(x, y, SCIPY_NAMES[distance])
    np.testing.assert_allclose(ops.pairwise_distances(x, y, distance), expected, atol=1e-6)
    np.testing.assert_allclose(ops.pairwise_distances(x.astype("float32"), y, distance), expected, atol=1e-3)


@pytest.mark.parametrize("distance", SCIPY_NAMES)
def test_gradient_equals_finite_differences(distance):
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=(4, 3)), rng.normal(size=(5, 3)), rng.normal(size=(4, 5))
    with tf.GradientTape() as tape:
        variable = tf.Variable(x)
        loss = tf.reduce_sum(weights * ops.pairwise_distances(variable, y, distance))
    numerical = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        change = cdist(x + step, y, SCIPY_NAMES[distance]) - cdist(x - step, y, SCIPY_NAMES[distance])
        numerical[index] = (weights * change).sum() / 2e-6
    np.testing.assert_allclose(tape.gradient(loss, variable), numerical, atol=1e-7)


@pytest.mark.parametrize("distance", SCIPY_NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_duplicates_are_at_zero_with_finite_gradients(distance, dtype):
    x = np.random.default_rng(1).normal(size=(3, 8)).astype(dtype)
    variable = tf.Variable(np.concatenate([x, x, np.zeros((2, 8), dtype)]))
    with tf.GradientTape() as tape:
        distances = ops.pairwise_distances(variable, distance=distance)
        loss = tf.reduce_sum(distances)
    assert np.abs(np.diag(distances[:3, 3:6])).max() == 0.0
    if distance != "cosine":
        assert np.abs(np.diag(distances)).max() == 0.0
        assert distances[6, 7] == 0.0
    assert np.isfinite(tape.gradient(loss, variable)).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("distance", SCIPY_NAMES)
def test_duplicates_of_any_size_are_at_zero(distance, compiled):
    rng = np.random.default_rng(0)
    function = tf.function(ops.pairwise_distances, jit_compile=True) if compiled else ops.pairwise_distances
    for dimension in (3, 64) if compiled else (2, 3, 64, 512, 2048):
        x = (rng.normal(size=(64, dimension)) + rng.uniform(-1, 1)).astype("float32")
        np.testing.assert_array_equal(np.diag(function(tf.constant(x), tf.constant(x), distance)), 0.0)


def test_leading_axes_unknown_sizes_and_xla():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3, 5)), rng.normal(size=(4, 5))
    expected = np.stack([cdist(row, y) for row in x])
    np.testing.assert_allclose(ops.pairwise_distances(x, y), expected, atol=1e-10)
    signature = [tf.TensorSpec((None, None, 5)), tf.TensorSpec((4, 5))]
    unknown = tf.function(ops.pairwise_distances, input_signature=signature)
    np.testing.assert_allclose(unknown(x.astype("f"), y.astype("f")), expected, atol=1e-4)
    compiled = tf.function(ops.pairwise_distances, jit_compile=True)
    np.testing.assert_allclose(compiled(x, y), expected, atol=1e-10)


def test_half_precision_is_computed_in_float32():
    x = tf.cast(np.random.default_rng(3).normal(size=(4, 6)), tf.float16)
    distances = ops.pairwise_distances(x)
    assert distances.dtype == tf.float32
    np.testing.assert_allclose(distances, cdist(x.numpy().astype(float), x.numpy().astype(float)), atol=1e-3)


@pytest.mark.parametrize("distance", SCIPY_NAMES)
def test_nan_is_not_hidden(distance):
    x = np.array([[np.nan, 1.0], [1.0, 2.0], [0.0, 1.0]])
    distances = ops.pairwise_distances(x, distance=distance).numpy()
    assert np.isnan(distances[0, 1:]).all()
    assert np.isfinite(distances[1:, 1:]).all()


def test_unknown_metric():
    with pytest.raises(ValueError, match="Received: distance='manhattan'. Expected: one of"):
        ops.pairwise_distances(np.eye(2), distance="manhattan")
