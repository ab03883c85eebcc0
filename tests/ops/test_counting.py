"""Counting by sorted search against comparing all pairs."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import ops


def brute_force(values, mask, thresholds, or_equal):
    below = np.less_equal if or_equal else np.less
    return np.sum(below(values[:, :, None], thresholds[:, None, :]) & mask[:, :, None], axis=1)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), n=st.integers(1, 9), m=st.integers(1, 5), or_equal=st.booleans())
def test_equals_all_pairs(seed, n, m, or_equal):
    rng = np.random.default_rng(seed)
    # Few different numbers, so that there are ties.
    values, thresholds = rng.integers(0, 4, (3, n)) / 3, rng.integers(-1, 5, (3, m)) / 3
    mask = rng.random((3, n)) < 0.7
    counted = ops.count_below(values, mask, thresholds, or_equal)
    np.testing.assert_array_equal(counted, brute_force(values, mask, thresholds, or_equal))


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 512])
def test_graph_and_xla(n, jit_compile):
    rng = np.random.default_rng(n)
    values, thresholds, mask = rng.normal(size=(4, n)), rng.normal(size=(4, n)), rng.random((4, n)) < 0.5
    count = tf.function(ops.count_below, jit_compile=jit_compile)
    np.testing.assert_array_equal(count(values, mask, thresholds), brute_force(values, mask, thresholds, False))
