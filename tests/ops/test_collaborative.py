"""WARP hinge and covariance penalty against loops and finite differences."""

import math

import numpy as np
import pytest
import tensorflow as tf

from tfdml import ops


def hinge_by_loop(positive, negatives, margin, item_count, pushed="closest"):
    values = []
    for distance, others in zip(positive, negatives):
        impostors = [other for other in others if margin + distance - other > 0]
        rank = len(impostors) / len(others) * item_count
        hinges = [max(0.0, margin + distance - other) for other in others]
        values.append(math.log(rank + 1) * (max(hinges) if pushed == "closest" else sum(hinges) / len(others)))
    return np.array(values)


@pytest.fixture(scope="module")
def distances():
    generator = np.random.default_rng(0)
    return generator.uniform(0, 3, 7), generator.uniform(0, 3, (7, 5))


@pytest.mark.parametrize(("margin", "pushed"), [(0.3, "closest"), (1.0, "closest"), (0.3, "all"), (1.0, "all")])
def test_the_hinge_equals_the_loop(distances, margin, pushed):
    value = ops.warp_hinge(*distances, margin=margin, item_count=40, impostors=pushed)
    np.testing.assert_allclose(value, hinge_by_loop(*distances, margin, 40, pushed), rtol=1e-12)
    assert value.dtype == tf.float64


def test_gradients_equal_finite_differences(distances):
    positive, negatives = map(tf.Variable, distances)
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(ops.warp_hinge(positive, negatives, 1.0, 40))
    of_positive, of_negatives = tape.gradient(value, [positive, negatives])
    step = 1e-6
    for row in range(7):
        changed = distances[0] + step * np.eye(7)[row]
        slope = (hinge_by_loop(changed, distances[1], 1.0, 40) - hinge_by_loop(*distances, 1.0, 40)).sum() / step
        np.testing.assert_allclose(of_positive[row], slope, rtol=1e-4, atol=1e-8)
    # Only the closest impostor has a gradient.
    assert np.count_nonzero(of_negatives) == np.count_nonzero(of_positive)
    np.testing.assert_allclose(np.sum(of_negatives, axis=1), -of_positive.numpy(), rtol=1e-12)


@pytest.mark.parametrize("options", [{"margin": 0.0, "item_count": 5}, {"margin": 1.0, "item_count": 0}])
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError, match=r"Expected: (margin > 0|an integer >= 1)"):
        ops.warp_hinge([1.0], [[1.0]], **options)


def test_unknown_impostors():
    with pytest.raises(ValueError, match="impostors='hardest'. Expected: one of"):
        ops.warp_hinge([1.0], [[1.0]], 1.0, 5, impostors="hardest")


def test_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"Distances do not match. Received: shapes \(2,\) and \(3, 4\)"):
        ops.warp_hinge(np.ones(2), np.ones((3, 4)), 1.0, 5)
    with pytest.raises(ValueError, match="Embeddings must be vectors"):
        ops.covariance_penalty(np.ones(3))


def test_the_penalty_is_that_of_numpy_s_covariance():
    embeddings = np.random.default_rng(1).normal(size=(9, 4))
    covariance = np.cov(embeddings, rowvar=False, bias=True)
    expected = (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 9
    np.testing.assert_allclose(ops.covariance_penalty(embeddings), expected, rtol=1e-12)
    uncorrelated = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert float(ops.covariance_penalty(uncorrelated)) == 0.0
