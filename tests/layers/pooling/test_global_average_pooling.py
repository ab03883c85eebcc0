"""Global average pooling."""

import keras
import numpy as np
import tensorflow as tf

from tfdml.layers.pooling import GlobalAveragePooling


def test_formula():
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    layer = GlobalAveragePooling(dtype="float64")
    np.testing.assert_allclose(layer(features), features.mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(layer(features.reshape(3, 20, 6)), features.mean(axis=(1, 2)), atol=1e-12)
    np.testing.assert_allclose(layer.pooling_weights(features), np.full((3, 4, 5), 1 / 20))
    single = tf.constant(features, tf.float32)
    np.testing.assert_allclose(GlobalAveragePooling()(single), keras.layers.GlobalAveragePooling2D()(single), atol=1e-6)


def test_sum_does_not_overflow_in_half_precision():
    features = tf.fill((1, 64, 64, 2), tf.constant(1000.0, tf.float16))
    np.testing.assert_array_equal(GlobalAveragePooling(dtype="mixed_float16")(features), [[1000.0, 1000.0]])
