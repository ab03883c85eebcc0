"""Clipped distances against NumPy and against the two ops that they combine."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml import ops
from tfdml.ops.clipped_distances import clipped_distances


@pytest.fixture
def vectors():
    """Vectors (2, 6, 5) and (4, 5), short and long ones, with duplicates and a zero vector."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 6, 5)) * generator.uniform(0.1, 1.5, size=(2, 6, 1))
    y = generator.normal(size=(4, 5)) * np.array([[0.2], [0.4], [1.5], [0.7]])
    x[0, 1] = 0.0
    x[1, 2] = x[1, 3]
    x[1, 4] = y[1]
    return x, y


def _gradients(function, x, y, upstream):
    x, y = tf.constant(x), tf.constant(y)
    with tf.GradientTape() as tape:
        tape.watch([x, y])
        loss = tf.reduce_sum(function(x, y) * tf.constant(upstream))
    return tape.gradient(loss, [x, y])


def test_against_numpy(vectors):
    def clip(values):
        return values / np.maximum(1.0, np.linalg.norm(values, axis=-1, keepdims=True))

    x, y = vectors
    expected = np.linalg.norm(clip(x)[:, :, None] - clip(y), axis=-1)
    np.testing.assert_allclose(clipped_distances(x, y), expected, atol=1e-7)
    np.testing.assert_allclose(clipped_distances(x.astype("float32"), y.astype("float32")), expected, atol=1e-3)


def test_gradient_is_that_of_the_ops_it_joins(vectors):
    x, y = vectors
    upstream = np.random.default_rng(1).normal(size=(2, 6, 4))
    found = _gradients(clipped_distances, x, y, upstream)
    expected = _gradients(lambda x, y: ops.pairwise_distances(ops.l2_clip(x), ops.l2_clip(y)), x, y, upstream)
    for got, wanted in zip(found, expected):
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_equal_vectors_have_distance_zero_and_no_gradient():
    x = tf.constant([[0.3, 0.4], [0.0, 0.0], [3.0, 4.0]])
    found = clipped_distances(x, x)
    np.testing.assert_array_equal(tf.linalg.diag_part(found), np.zeros(3))
    for gradient in _gradients(clipped_distances, x, x, np.eye(3, dtype="float32")):
        np.testing.assert_array_equal(gradient, np.zeros((3, 2)))


@pytest.mark.parametrize(("size", "compiled"), [(1e15, False), (1e20, True), (1e30, False)])
def test_vectors_whose_squares_overflow_lie_on_the_sphere(size, compiled):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(6, 5)), generator.normal(size=(4, 5))
    upstream = generator.normal(size=(6, 4))
    # Scaled by ten, they are also outside of the ball.
    factors_of_x, factors_of_y = np.ones((6, 1)), np.ones((4, 1))
    factors_of_x[[0, 3, 4]], factors_of_y[3] = size / 10, size / 10
    x *= [[10], [3], [0.1], [10], [10], [1e-3]]
    y *= [[0.1], [0.2], [1], [10]]
    great = (factors_of_x * x).astype("float32"), (factors_of_y * y).astype("float32")
    function = tf.function(clipped_distances, jit_compile=compiled)
    np.testing.assert_allclose(function(*great), clipped_distances(x, y), atol=2e-6)
    of_x, of_y = _gradients(function, *great, upstream.astype("float32"))
    wanted_of_x, wanted_of_y = _gradients(clipped_distances, x, y, upstream)
    np.testing.assert_allclose(factors_of_x * of_x, wanted_of_x, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(factors_of_y * of_y, wanted_of_y, rtol=2e-5, atol=2e-6)


def test_not_a_number_stays_visible():
    x, y = np.ones((2, 3), "float32"), np.zeros((4, 3), "float32")
    x[1, 0] = y[2, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(clipped_distances(x, y)), [[0, 0, 1, 0], [1, 1, 1, 1]])


@pytest.mark.parametrize("compiled", [False, True])
def test_unknown_sizes_and_half_precision(vectors, compiled):
    x, y = (tf.cast(values, tf.bfloat16) for values in vectors)
    signature = [tf.TensorSpec((None, None, 5), tf.bfloat16), tf.TensorSpec((4, 5), tf.bfloat16)]
    function = tf.function(clipped_distances, input_signature=signature, jit_compile=compiled)
    found = function(x, y)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, clipped_distances(tf.cast(x, tf.float64), tf.cast(y, tf.float64)), atol=1e-3)
