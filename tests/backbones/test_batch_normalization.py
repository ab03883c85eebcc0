"""Batch normalisation by one operation: the formula, its gradients, and Keras' own layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.backbones.batch_normalization import BatchNormalization

PARTS = ("gamma", "beta", "moving_mean", "moving_variance")
IS_KERAS_2 = keras.__version__.startswith("2.")


def inputs(shape=(5, 3, 4, 6), dtype="float32"):
    return (3.0 * np.random.default_rng(0).normal(size=shape) + 2.0).astype(dtype)


def built(layer, channels=6):
    layer.build((None, None, None, channels))
    layer.set_weights(np.random.default_rng(1).uniform(0.5, 2.0, (4, channels)).astype("float32"))
    return layer


def parts(layer):
    return [np.array(getattr(layer, name)) for name in PARTS]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_equals_its_formula(jit_compile):
    layer, x = built(BatchNormalization(momentum=0.7, epsilon=0.01)), inputs()
    gamma, beta, moving_mean, moving_variance = parts(layer)
    mean, variance = x.mean(axis=(0, 1, 2)), x.var(axis=(0, 1, 2))
    y = tf.function(lambda x: layer(x, training=True), jit_compile=jit_compile)(x)
    np.testing.assert_allclose(y, gamma * (x - mean) / np.sqrt(variance + 0.01) + beta, rtol=1e-4, atol=1e-5)
    # Keras 2 keeps the variance with n - 1 in the denominator.
    kept = variance * (60 / 59 if IS_KERAS_2 else 1.0)
    np.testing.assert_allclose(layer.moving_mean, 0.7 * moving_mean + 0.3 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.7 * moving_variance + 0.3 * kept, rtol=1e-5)


@pytest.mark.parametrize("training", [False, None])
def test_inference_equals_its_formula_and_keeps_the_statistics(training):
    layer, x = built(BatchNormalization(epsilon=0.01)), inputs()
    before = gamma, beta, mean, variance = parts(layer)
    y = layer(x, training=training)
    np.testing.assert_allclose(y, gamma * (x - mean) / np.sqrt(variance + 0.01) + beta, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(parts(layer), before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(5, 3, 4, 6), (5, 6), (5, 7, 6), (1, 1, 1, 6)])
def test_gradients_are_those_of_the_layer_of_keras(training, shape):
    x, upstream = tf.constant(inputs(shape)), np.random.default_rng(2).normal(size=shape).astype("float32")
    results = []
    for layer in (BatchNormalization(epsilon=0.01), keras.layers.BatchNormalization(epsilon=0.01)):
        layer.build(shape)
        layer.set_weights(np.random.default_rng(1).uniform(0.5, 2.0, (4, 6)).astype("float32"))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        variables = [tf.convert_to_tensor(y), *tape.gradient(y, [x, *layer.trainable_variables], upstream)]
        results.append([*map(np.asarray, variables), *parts(layer)])
    for ours, expected in zip(*results):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_statistics_in_float32(policy):
    layer, x = BatchNormalization(dtype=policy), inputs()
    y = layer(tf.cast(x, layer.compute_dtype), training=True)
    assert tf.as_dtype(y.dtype) == tf.as_dtype(layer.compute_dtype)
    assert all(tf.as_dtype(variable.dtype) == tf.float32 for variable in layer.weights)
    expected = (x - x.mean(axis=(0, 1, 2))) / x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(tf.cast(y, tf.float32), expected, atol=0.05)


def test_a_layer_that_is_not_trainable_infers():
    layer, x = built(BatchNormalization()), inputs()
    layer.trainable = False
    before = parts(layer)
    np.testing.assert_array_equal(layer(x, training=True), layer(x, training=False))
    np.testing.assert_array_equal(parts(layer), before)


@pytest.mark.parametrize("frozen", [False, True])
def test_round_trip(frozen):
    layer = BatchNormalization(frozen_statistics=frozen, momentum=0.7)
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is BatchNormalization and again.get_config() == layer.get_config()
    assert again.frozen_statistics is frozen
