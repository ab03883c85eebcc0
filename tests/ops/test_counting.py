"""Counting by sorted search against a comparison of all pairs."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import ops


def brute_force(values, mask, thresholds, or_equal):
    below = np.less_equal if or_equal else np.less
    return np.sum(below(values[:, :, None], thresholds[:, None, :]) & mask[:, :, None], axis=1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), m=st.integers(1, 5), or_equal=st.booleans())
def test_equals_all_pairs(seed, n, m, or_equal):
    rng = np.random.default_rng(seed)
    # Few distinct numbers, so that there are ties.
    values, thresholds = rng.integers(0, 4, (3, n)) / 3, rng.integers(-1, 5, (3, m)) / 3
    mask = rng.random((3, n)) < 0.7
    counted = ops.count_below(values, mask, thresholds, or_equal)
    np.testing.assert_array_equal(counted, brute_force(values, mask, thresholds, or_equal))


@pytest.fixture(scope="module")
def count():
    """A graph of unknown sizes."""
    unknown = [tf.TensorSpec((None, None), dtype) for dtype in (tf.float64, tf.bool, tf.float64)]
    return tf.function(ops.count_below, input_signature=unknown)


@pytest.mark.parametrize(("n", "jit_compile"), [(1, False), (2, False), (63, False), (64, True), (65, True)])
def test_graph_and_xla(n, jit_compile, count):
    rng = np.random.default_rng(n)
    values, thresholds, mask = rng.normal(size=(4, n)), rng.normal(size=(4, n)), rng.random((4, n)) < 0.5
    function = tf.function(count, jit_compile=True) if jit_compile else count
    found = function(*map(tf.constant, (values, mask, thresholds)))
    np.testing.assert_array_equal(found, brute_force(values, mask, thresholds, False))
