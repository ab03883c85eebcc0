"""Masked reductions against NumPy on the masked entries."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from tfdml import ops

VALUES = np.array([[1.0, -2.0, 300.0], [-400.0, -500.0, 7.0], [0.0, 1.0, 2.0], [9.0, 9.0, 9.0]])
MASK = np.array([[True, True, True], [True, True, False], [False, True, False], [False, False, False]])


@pytest.mark.parametrize(
    ("function", "expected", "of_nothing"),
    [
        (ops.masked_sum, np.sum, 0.0),
        (ops.masked_mean, np.mean, 0.0),
        (ops.masked_max, np.max, -np.inf),
        (ops.masked_min, np.min, np.inf),
        (ops.masked_logsumexp, logsumexp, ops.LOG_OF_NOTHING),
    ],
    ids=["sum", "mean", "max", "min", "logsumexp"],
)
def test_equals_numpy(function, expected, of_nothing):
    result = function(tf.constant(VALUES), tf.constant(MASK)).numpy()
    np.testing.assert_allclose(result[:3], [expected(row[mask]) for row, mask in zip(VALUES[:3], MASK[:3])])
    assert result[3] == np.float64(of_nothing)


def test_logsumexp_gradient_is_softmax_and_0_of_nothing():
    values = tf.Variable(VALUES, dtype=tf.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.nn.softplus(ops.masked_logsumexp(values, MASK)))
    gradient = tape.gradient(total, values).numpy()
    np.testing.assert_allclose(gradient[0], [0.0, 0.0, 1.0])
    np.testing.assert_allclose(gradient[2], [0.0, 1 / (1 + np.exp(-1)), 0.0], rtol=1e-6)
    np.testing.assert_array_equal(gradient[3], 0.0)


def test_default_of_an_extreme_is_no_bound():
    values, mask = tf.constant([[-3.0, 5.0], [4.0, 5.0]]), tf.constant([[True, False], [False, False]])
    np.testing.assert_array_equal(ops.masked_max(values, mask, default=0.0), [-3.0, 0.0])
    np.testing.assert_array_equal(ops.masked_min(-values, mask, default=0.0), [3.0, 0.0])
