"""The N-pairs loss against a loop over anchors and TensorFlow Addons."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values

from tfdml.layers import References
from tfdml.losses.n_pairs import NPairsLoss


def loop_of(l2_weight):
    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            total += l2_weight * np.sum(anchor.x**2)
            products = np.concatenate([anchor.positives @ anchor.x, anchor.negatives @ anchor.x])
            if len(anchor.positives):
                chances = np.exp(products) / np.sum(np.exp(products))
                total -= np.mean(np.log(chances[: len(anchor.positives)]))
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("l2_weight", [0.0, 0.02])
def test_equals_the_loop(l2_weight):
    check_values(NPairsLoss(l2_weight), loop_of(l2_weight))
    check_gradients(NPairsLoss(l2_weight), loop_of(l2_weight))


@pytest.mark.parametrize("labels", [np.arange(8), np.repeat(np.arange(4), 2)])
def test_equals_tensorflow_addons(labels):
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    queries, positives = np.random.default_rng(0).normal(size=(2, 8, 5)).astype("float32")
    ours = tf.reduce_mean(NPairsLoss(l2_weight=0.0).against(labels, queries, References(positives, labels)))
    np.testing.assert_allclose(ours, addons.NpairsLoss()(labels, queries @ positives.T), rtol=1e-5)


def test_without_a_positive_pair_the_l2_term_stays():
    x = np.array([[1.0, 2.0], [3.0, 0.0]])
    np.testing.assert_allclose(NPairsLoss(l2_weight=0.1).call([0, 1], x), [0.5, 0.9])
    np.testing.assert_allclose(NPairsLoss(l2_weight=0.0).call([0, 1], x), [0.0, 0.0])


def test_large_products_do_not_overflow():
    x = np.array([[1e3, 0.0], [1e3, 1.0], [-1e3, 0.0]], "float32")
    np.testing.assert_allclose(NPairsLoss(l2_weight=0.0).call([0, 0, 1], x), 0.0, atol=1e-6)
    np.testing.assert_allclose(NPairsLoss(l2_weight=0.0).call([0, 1, 0], x)[0], 2e6, rtol=1e-6)


def test_bad_options():
    with pytest.raises(ValueError, match="l2_weight=-0.1. Expected: l2_weight >= 0"):
        NPairsLoss(l2_weight=-0.1)
