"""Generalized mean pooling: formula, limits, range of the power, and options."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers.pooling import GeneralizedMeanPooling


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0, 7.5])
def test_formula(power):
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    pooled = GeneralizedMeanPooling(power, epsilon=0.01, dtype="float64")(features)
    expected = np.mean(np.maximum(features, 0.01) ** power, axis=(1, 2)) ** (1 / power)
    np.testing.assert_allclose(pooled, expected, rtol=1e-10)


def test_a_power_for_each_channel():
    features = np.random.default_rng(0).uniform(0.1, 2.0, size=(2, 9, 3))
    layer = GeneralizedMeanPooling(per_channel=True, dtype="float64")
    layer.build((None, 9, 3))
    np.testing.assert_array_equal(layer.get_weights()[0], [3.0, 3.0, 3.0])
    powers = np.array([1.0, 2.0, 5.0])
    layer.set_weights([powers])
    np.testing.assert_allclose(layer(features), np.mean(features**powers, axis=1) ** (1 / powers), rtol=1e-10)


def test_between_average_and_maximum():
    features = np.random.default_rng(0).uniform(0.1, 2.0, size=(2, 9, 3))
    layer = GeneralizedMeanPooling(1.0, dtype="float64")
    np.testing.assert_allclose(layer(features), features.mean(axis=1), rtol=1e-10)
    layer.set_weights([np.array(1000.0)])
    np.testing.assert_allclose(layer(features), features.max(axis=1), rtol=3e-3)


def test_great_powers_do_not_overflow():
    features = tf.constant([[[1e4, 1e-4], [1e3, 1e-5]]])
    pooled = GeneralizedMeanPooling(300.0)(features)
    np.testing.assert_allclose(pooled, [[1e4, 1e-4]], rtol=5e-3)


@pytest.mark.parametrize(("start", "sign", "end"), [(1.5, 1.0, 1.0), (999.0, -1.0, 1000.0)])
def test_training_keeps_the_power_in_its_range(start, sign, end):
    layer = GeneralizedMeanPooling(start)
    features = tf.random.uniform((2, 3, 3, 4), seed=1)
    optimizer = keras.optimizers.SGD(1e9)
    with tf.GradientTape() as tape:
        loss = sign * tf.reduce_sum(layer(features))
    optimizer.apply_gradients(zip(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables))
    assert layer.get_weights()[0] == end


def test_power_that_is_not_trained():
    layer = GeneralizedMeanPooling(trainable_power=False)
    layer(tf.ones((1, 2, 2, 3)))
    assert not layer.trainable_variables and len(layer.weights) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"power": 0.5}, "Received: power=0.5. Expected: 1 <= power <= 1000"),
        ({"power": "three"}, "Received: power='three'"),
        ({"epsilon": 0.0}, "Received: epsilon=0.0. Expected: epsilon > 0"),
        ({"trainable_power": "yes"}, "Received: trainable_power='yes'"),
        ({"per_channel": 3}, "Received: per_channel=3"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedMeanPooling(**options)
