"""Normalization to the unit sphere and clipping to a ball."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml import ops


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(dtype):
    vectors = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype)
    np.testing.assert_allclose(ops.l2_normalize(vectors), [[0.6, 0.8], [0.6, 0.8], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(ops.l2_clip(vectors), [[0.6, 0.8], [0.3, 0.4], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(ops.l2_clip(vectors, 2.5), [[1.5, 2.0], [0.3, 0.4], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("length", [1e-14, 1e-9, 1e-6, 1.0, 1e15, 1e20, 1e30])
def test_short_and_long_vectors_are_normalized(length):
    vectors = tf.Variable(np.float32([[0.6 * length, 0.8 * length]]))
    with tf.GradientTape() as tape:
        unit = ops.l2_normalize(vectors)
        loss = unit[0, 0]
    np.testing.assert_allclose(unit, [[0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(length * tape.gradient(loss, vectors), [[0.64, -0.48]], rtol=1e-5)


@pytest.mark.parametrize("max_norm", [1.0, 2.5, 1e14])
def test_long_vectors_are_clipped(max_norm):
    clipped = ops.l2_clip(tf.constant([[6e25, 8e25], [6e30, 8e30], [0.3, 0.4]]), max_norm)
    np.testing.assert_allclose(clipped[:2], max_norm * np.array([[0.6, 0.8], [0.6, 0.8]]), rtol=1e-6)
    np.testing.assert_array_equal(clipped[2], np.float32([0.3, 0.4]))


@pytest.mark.parametrize("function", [ops.l2_normalize, ops.l2_clip])
def test_gradient_is_finite_at_zero_and_on_the_sphere(function):
    vectors = tf.Variable([[0.0, 0.0], [0.6, 0.8], [5.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(function(vectors) * [[1.0, 2.0]])
    assert np.isfinite(tape.gradient(loss, vectors)).all()


def test_clip_is_lipschitz():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 200, 3))
    clipped = np.linalg.norm(ops.l2_clip(x) - ops.l2_clip(y), axis=1)
    assert (clipped <= np.linalg.norm(x - y, axis=1) + 1e-12).all()
