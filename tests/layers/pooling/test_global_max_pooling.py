"""Global max pooling."""

import numpy as np
import tensorflow as tf

from tfdml.layers.pooling import GlobalMaxPooling


def test_formula():
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    np.testing.assert_array_equal(GlobalMaxPooling(dtype="float64")(features), features.max(axis=(1, 2)))


def test_places_that_share_the_maximum_share_its_gradient():
    features = tf.constant([[[2.0], [1.0], [2.0]]])
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = GlobalMaxPooling()(features)
    np.testing.assert_array_equal(tape.gradient(pooled, features), [[[0.5], [0.0], [0.5]]])
