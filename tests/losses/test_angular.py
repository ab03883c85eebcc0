"""The angular loss against a loop over positive pairs and their negatives."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values

from tfdml.layers import References
from tfdml.losses.angular import AngularLoss


def unit(vectors):
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def loop_of(angle):
    squared = np.tan(np.deg2rad(angle)) ** 2

    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            x, negatives = unit(anchor.x), unit(anchor.negatives)
            terms = []
            for positive in unit(anchor.positives):
                exponents = 4 * squared * negatives @ (x + positive) - 2 * (1 + squared) * x @ positive
                terms.append(np.log(1.0 + np.sum(np.exp(exponents))))
            total += np.mean(terms) if terms else 0.0
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("angle", [5.0, 40.0, 60.0])
def test_equals_the_loop(angle):
    check_values(AngularLoss(angle), loop_of(angle))
    check_gradients(AngularLoss(angle), loop_of(angle), atol=1e-5 if angle == 60.0 else 1e-6)


@pytest.mark.parametrize("angle", [40.0, 60.0])
def test_the_sums_of_products_keep_their_precision_in_float32(angle):
    """Extreme negatives: opposite to both ends of a pair, equal to both, and equal to one of two opposite ends."""
    for x in ([[1.0], [1.0], [-1.0]], [[1.0], [1.0], [1.0]], [[1.0], [-1.0], [1.0]]):
        x, labels = np.array(x), np.array([0, 0, 1])
        values = AngularLoss(angle).call(labels, x.astype("float32"))
        squared = np.tan(np.deg2rad(angle)) ** 2
        exponent = 4 * squared * (x[0] + x[1]) * x[2] - 2 * (1 + squared) * x[0] * x[1]
        np.testing.assert_allclose(values[0], np.log1p(np.exp(exponent[0])), rtol=1e-5)


def test_zero_vectors_in_a_memory_do_no_harm():
    x, labels = tf.Variable(np.array([[1.0, 0.0], [0.0, 0.0]])), np.array([0, 1])
    references = References(tf.zeros((3, 2), tf.float64), np.array([0, 1, 1]), np.array([True, True, False]))
    with tf.GradientTape() as tape:
        values = AngularLoss().against(labels, x, references)
    np.testing.assert_allclose(values, np.log(2.0))
    assert np.all(np.isfinite(tape.gradient(values, x)))


@pytest.mark.parametrize("angle", [0.0, -10.0])
def test_no_angle(angle):
    with pytest.raises(ValueError, match="angle=.*. Expected: angle > 0"):
        AngularLoss(angle)


@pytest.mark.parametrize("angle", [60.1, 90.0])
def test_too_large_an_angle(angle):
    with pytest.raises(ValueError, match="angle=.*. Expected: 0 < angle <= 60 degrees"):
        AngularLoss(angle)
