"""Optimal-transport pooling: Sinkhorn as loops, optimum, marginals, an example by hand, prototypes, options."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.optimize import minimize

from tfdml.layers.pooling import OptimalTransportPooling


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def make_layer(*args, channels_in=6, **options):
    generator = np.random.default_rng(0)
    layer = OptimalTransportPooling(*args, dtype="float64", **options)
    layer.build((None, None, channels_in))
    layer.set_weights([generator.normal(size=weight.shape) for weight in layer.weights])
    return layer


def plan_of(bag, prototypes, smoothing, iterations):
    """The plan (n, m) from Sinkhorn's iteration on the scaling vectors."""
    kernel = np.exp(smoothing * unit(bag) @ unit(prototypes).T)
    places, count = kernel.shape
    right = np.ones(count)
    for _ in range(iterations):
        left = (1 / places) / (kernel @ right)
        right = (1 / count) / (kernel.T @ left)
    return left[:, None] * kernel * right


@pytest.mark.parametrize("smoothing", [0.5, 2.0, 20.0])
@pytest.mark.parametrize("iterations", [1, 10])
def test_formula(smoothing, iterations):
    layer = make_layer(3, smoothing=smoothing, iterations=iterations)
    features = np.random.default_rng(1).normal(size=(2, 3, 4, 6))
    pooled = layer(features)
    for index in range(2):
        bag = features[index].reshape(12, 6)
        plan = plan_of(bag, layer.prototype_embeddings.numpy(), smoothing, iterations)
        np.testing.assert_allclose(pooled[index], np.sqrt(3) * (plan.T @ bag).ravel(), atol=1e-10)
        np.testing.assert_allclose(plan.sum(axis=0), np.full(3, 1 / 3), atol=1e-12)


def test_projection():
    layer = make_layer(3, 2)
    projection, prototypes = layer.projection.kernel.numpy(), layer.prototype_embeddings.numpy()
    assert projection.shape == (6, 2) and prototypes.shape == (3, 2)
    bag = np.random.default_rng(1).normal(size=(7, 6))
    expected = np.sqrt(3) * plan_of(bag @ projection, prototypes, 2.0, 10).T @ (bag @ projection)
    np.testing.assert_allclose(layer(bag[None])[0], expected.ravel(), atol=1e-10)


def test_plan_is_the_optimum():
    """A general optimizer finds no better plan for four features and two prototypes."""
    layer = make_layer(2, smoothing=3.0, iterations=200)
    bag = np.random.default_rng(1).normal(size=(4, 6))
    likeness = unit(bag) @ unit(layer.prototype_embeddings.numpy()).T

    def loss(flat):
        plan = np.maximum(flat.reshape(4, 2), 1e-12)
        return -np.sum(plan * likeness) + np.sum(plan * np.log(plan)) / 3.0

    constraints = [
        {"type": "eq", "fun": lambda flat: flat.reshape(4, 2).sum(axis=1) - 1 / 4},
        {"type": "eq", "fun": lambda flat: flat.reshape(4, 2).sum(axis=0)[:1] - 1 / 2},
    ]
    best = minimize(loss, np.full(8, 1 / 8), constraints=constraints, bounds=[(1e-9, 1)] * 8, tol=1e-14).x
    expected = np.sqrt(2) * (best.reshape(4, 2).T @ bag).ravel()
    np.testing.assert_allclose(layer(bag[None])[0], expected, atol=1e-4)


def test_by_hand():
    """Two prototypes along the axes with large smoothing: each receives the features in its direction."""
    layer = make_layer(2, smoothing=200.0, channels_in=2)
    layer.prototype_embeddings.assign([[5.0, 0.0], [0.0, 0.1]])
    bag = np.array([[[1.0, 0.0], [0.0, 4.0], [3.0, 0.0], [0.0, 2.0]]])
    np.testing.assert_allclose(layer(bag), [np.sqrt(2) * np.array([1.0, 0.0, 0.0, 1.5])], atol=1e-10)


def test_length_is_that_of_equal_features():
    feature = np.random.default_rng(1).normal(size=6)
    pooled = make_layer(5)(np.tile(feature, (1, 9, 1)))
    assert np.linalg.norm(pooled) == pytest.approx(np.linalg.norm(feature))


@pytest.mark.parametrize("channels", [None, 2])
@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_float16", "mixed_bfloat16"])
def test_adapt(channels, policy):
    """The prototypes are the directions of projected features that are farthest apart."""
    layer = OptimalTransportPooling(4, channels, dtype=policy)
    features = np.random.default_rng(1).normal(size=(5, 4, 4, 6))
    layer.adapt(features)
    projection = np.eye(6) if channels is None else np.array(layer.projection.kernel)
    points, prototypes = unit(features.reshape(-1, 6) @ projection), np.array(layer.prototype_embeddings)
    distances = np.linalg.norm(points[:, None] - prototypes, axis=-1)
    assert distances.min(axis=0).max() < 1e-5
    chosen = distances.argmin(axis=0)
    nearest = distances[:, 0]
    for index in chosen[1:]:
        assert nearest[index] == pytest.approx(nearest.max(), abs=1e-5)
        nearest = np.minimum(nearest, np.linalg.norm(points - points[index], axis=-1))


def test_adapt_to_features_that_do_not_fit():
    layer = make_layer(3, 2)
    with pytest.raises(ValueError, match="Received: features with 5 channels. Expected: 6"):
        layer.adapt(np.ones((9, 5)))
    with pytest.raises(ValueError, match="Received: 1 distinct features in a sample of 9. Expected: at least"):
        layer.adapt(np.ones((9, 6)))


def test_great_smoothing_is_finite_in_single_precision():
    layer = OptimalTransportPooling(3, smoothing=1e4)
    features = tf.random.normal((2, 9, 6), seed=1)
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = tf.reduce_sum(tf.sin(layer(features)))
    assert np.isfinite(loss) and np.isfinite(tape.gradient(loss, features)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prototypes": 0}, "Received: prototypes=0. Expected: an integer >= 1"),
        ({"channels": 0}, "Received: channels=0. Expected: an integer >= 1"),
        ({"channels": 2.5}, "Received: channels=2.5"),
        ({"smoothing": 0.0}, "Received: smoothing=0.0. Expected: smoothing > 0"),
        ({"iterations": 0}, "Received: iterations=0. Expected: an integer >= 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        OptimalTransportPooling(**options)
