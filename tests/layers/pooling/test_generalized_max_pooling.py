"""Generalized max pooling: both systems, equal similarities, limits, conditioning, options."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers.pooling import GeneralizedMaxPooling


@pytest.mark.parametrize("places", [1, 4, 6, 7, 20])
@pytest.mark.parametrize("ridge", [0.01, 1.0, 100.0])
def test_formula(places, ridge):
    """The solution from the system of places, regardless of the one that the layer solves."""
    features = np.random.default_rng(0).normal(size=(3, places, 6))
    pooled = GeneralizedMaxPooling(ridge, dtype="float64")(features)
    for bag, found in zip(features, pooled):
        weights = np.linalg.solve(bag @ bag.T + ridge * np.eye(places), np.ones(places))
        np.testing.assert_allclose(found, bag.T @ weights, atol=1e-10)


def test_unknown_number_of_places():
    layer = GeneralizedMaxPooling(0.5, dtype="float64")
    features = np.random.default_rng(0).normal(size=(3, 4, 6))
    layer.build((None, None, 6))
    pool = tf.function(lambda bags: layer(bags), input_signature=[tf.TensorSpec((None, None, 6), tf.float64)])
    np.testing.assert_allclose(pool(features), layer(features), atol=1e-10)


def test_about_equally_similar_to_all():
    features = np.random.default_rng(1).normal(size=(1, 4, 6))
    features = np.concatenate([features, np.repeat(features[:, :1], 50, axis=1)], axis=1)
    pooled = GeneralizedMaxPooling(1e-6, dtype="float64")(features).numpy()
    np.testing.assert_allclose(features[0] @ pooled[0], np.ones(54), atol=1e-4)


def test_great_ridge_is_the_direction_of_the_average():
    features = np.random.default_rng(1).normal(size=(2, 9, 6))
    pooled = GeneralizedMaxPooling(1e9, dtype="float64")(features).numpy()
    np.testing.assert_allclose(1e9 * pooled, features.sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("places", [5, 400])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("kind", ["random", "equal", "two"])
def test_ill_conditioned_in_single_precision(kind, scale, places):
    """Low-rank systems that rounding could make indefinite; features remain equally similar to the result."""
    generator = np.random.default_rng(0)
    directions = {"random": places, "equal": 1, "two": 2}[kind]
    some = generator.uniform(0.5, 1.0, size=(directions, 16))
    bag = scale * some[np.arange(places) % directions]
    features = tf.constant(bag[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = GeneralizedMaxPooling(1e-3)(features)
        loss = tf.reduce_sum(pooled)
    assert np.isfinite(pooled).all() and np.isfinite(tape.gradient(loss, features)).all()
    if kind != "random" and scale > 1.0:
        np.testing.assert_allclose(bag @ pooled[0].numpy(), np.ones(places), atol=1e-2)


@pytest.mark.parametrize("places", [4, 9])
def test_features_whose_squares_overflow(places):
    """Scaling features, and the ridge by the square of the scale, does not change the problem."""
    features = np.random.default_rng(0).uniform(0.5, 1.0, size=(2, places, 6)).astype("float32")
    expected = GeneralizedMaxPooling(0.1)(features)
    found = GeneralizedMaxPooling(0.1 * 1e16**2)(1e16 * features)
    np.testing.assert_allclose(1e16 * found, expected, rtol=1e-3)


@pytest.mark.parametrize("ridge", [0, -1.0, np.inf, "1"])
def test_bad_ridge(ridge):
    with pytest.raises(ValueError, match="Received: ridge=.*. Expected: ridge > 0"):
        GeneralizedMaxPooling(ridge)
