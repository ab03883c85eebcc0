"""greedy_k_center against a loop in NumPy, and its covering guarantee against brute force."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import ops


def greedy_loop(points, k, initial=None, mask=None):
    allowed = [i for i in range(len(points)) if mask is None or mask[i]]
    centers = [] if initial is None else list(initial)
    chosen = []
    while len(chosen) < k and len(chosen) < len(allowed):
        best, best_distance = None, -1.0
        for i in allowed:
            if i in chosen:
                continue
            distance = min((np.sum((points[i] - c) ** 2) for c in centers), default=np.inf)
            if distance > best_distance:
                best, best_distance = i, distance
        chosen.append(best)
        centers.append(points[best])
    return chosen + [-1] * (k - len(chosen))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6), classes=st.integers(1, 3), n=st.integers(1, 7), data=st.data(),
    with_initial=st.booleans(), with_mask=st.booleans(),
)  # fmt: skip
def test_equals_the_loop(seed, classes, n, data, with_initial, with_mask):
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(1, n))
    points = rng.normal(size=(classes, n, 2))
    points[:, -1] = points[:, 0]  # duplicates
    initial = rng.normal(size=(classes, 2, 2)) if with_initial else None
    mask = rng.random((classes, n)) < 0.6 if with_mask else None
    expected = [
        greedy_loop(points[c], k, None if initial is None else initial[c], None if mask is None else mask[c])
        for c in range(classes)
    ]
    np.testing.assert_array_equal(ops.greedy_k_center(points, k, initial, mask), expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 7), data=st.data())
def test_radius_is_at_most_twice_the_optimum(seed, n, data):
    k = data.draw(st.integers(1, n))
    points = np.random.default_rng(seed).normal(size=(n, 2))

    def radius(chosen):
        return np.linalg.norm(points[:, None] - points[list(chosen)][None], axis=-1).min(axis=1).max()

    optimum = min(radius(chosen) for chosen in itertools.combinations(range(n), k))
    assert radius(ops.greedy_k_center(points, k).numpy()) <= 2 * optimum + 1e-9


def test_graph_and_xla_agree():
    points = np.random.default_rng(0).normal(size=(3, 9, 4)).astype("float32")
    expected = ops.greedy_k_center(points, 4, points[:, :2]).numpy()
    for jit_compile in (False, True):
        function = tf.function(lambda p, i: ops.greedy_k_center(p, 4, i), jit_compile=jit_compile)
        np.testing.assert_array_equal(function(points, points[:, :2]), expected)


@pytest.mark.parametrize("k", [0, 4])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"Received: k={k}, n=3"):
        ops.greedy_k_center(np.eye(3), k)


def test_wrong_rank():
    with pytest.raises(ValueError, match="points of shape"):
        ops.greedy_k_center(np.zeros((2, 2, 2, 2)), 1)
