"""WARP hinge, logistic loss and covariance penalty against loops and finite differences."""

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


def logistic_by_loop(positive, negatives, scale):
    values = []
    for distance, others in zip(positive, negatives):
        probabilities = [1 / (1 + math.exp(-scale * (other - distance))) for other in others]
        values.append(-sum(map(math.log, probabilities)) / len(others))
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


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_logistic_loss_and_its_gradients_equal_loops(distances, scale):
    positive, negatives = map(tf.Variable, distances)
    with tf.GradientTape() as tape:
        value = ops.pairwise_logistic(positive, negatives, scale)
    np.testing.assert_allclose(value, logistic_by_loop(*distances, scale), rtol=1e-12)
    of_positive, of_negatives = tape.gradient(value, [positive, negatives])
    step = 1e-6

    def slope(positive_step, negative_step):
        ends = [logistic_by_loop(distances[0] + sign * positive_step, distances[1] + sign * negative_step, scale)
                for sign in (1, -1)]  # fmt: skip
        return (ends[0] - ends[1]) / (2 * step)

    # Rows are independent of each other.
    np.testing.assert_allclose(of_positive, slope(step, 0.0), rtol=1e-6, atol=1e-9)
    for column in range(5):
        np.testing.assert_allclose(of_negatives[:, column], slope(0.0, step * np.eye(5)[column]), rtol=1e-6, atol=1e-9)


def test_the_logistic_loss_of_distant_items_is_finite():
    assert ops.pairwise_logistic([1e6], [[0.0]]).numpy() == [1e6]
    assert ops.pairwise_logistic([0.0], [[1e6]]).numpy() == [0.0]
    assert ops.pairwise_logistic(np.float16([1.0]), np.float16([[1.0]])).dtype == tf.float32


@pytest.mark.parametrize("options", [{"margin": 0.0, "item_count": 5}, {"margin": 1.0, "item_count": 0}])
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError, match=r"Expected: (margin > 0|an integer >= 1)"):
        ops.warp_hinge([1.0], [[1.0]], **options)
    with pytest.raises(ValueError, match="Received: scale=0. Expected: scale > 0"):
        ops.pairwise_logistic([1.0], [[1.0]], scale=0)


def test_unknown_impostors():
    with pytest.raises(ValueError, match="impostors='hardest'. Expected: one of"):
        ops.warp_hinge([1.0], [[1.0]], 1.0, 5, impostors="hardest")


def test_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"Distances do not match. Received: shapes \(2,\) and \(3, 4\)"):
        ops.warp_hinge(np.ones(2), np.ones((3, 4)), 1.0, 5)
    with pytest.raises(ValueError, match=r"Distances do not match. Received: shapes \(2,\) and \(2,\)"):
        ops.pairwise_logistic(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="Embeddings must be vectors"):
        ops.covariance_penalty(np.ones(3))


def test_the_penalty_is_that_of_numpy_s_covariance():
    embeddings = np.random.default_rng(1).normal(size=(9, 4))
    covariance = np.cov(embeddings, rowvar=False, bias=True)
    expected = (np.sum(covariance**2) - np.sum(np.diag(covariance) ** 2)) / 9
    np.testing.assert_allclose(ops.covariance_penalty(embeddings), expected, rtol=1e-12)
    uncorrelated = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert float(ops.covariance_penalty(uncorrelated)) == 0.0
