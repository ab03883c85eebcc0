"""Generalized sum pooling with the options of its author's code: projected transport, convolutional prototypes."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logsumexp, softmax

from tfdml.layers.pooling import GeneralizedSumMaxPooling, GeneralizedSumPooling

CHANNELS, PROTOTYPES, RATIO, SMOOTHING = 5, 3, 0.4, 4.0


def make_layer(kind=GeneralizedSumPooling, **options):
    options = {"ratio": RATIO, "smoothing": SMOOTHING, "return_attributes": True, "dtype": "float64", **options}
    layer = kind(PROTOTYPES, **options)
    layer.build((None, None, None, CHANNELS))
    generator = np.random.default_rng(1)
    layer.set_weights([generator.normal(size=weight.shape) for weight in layer.get_weights()])
    return layer


def make_maps(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, CHANNELS))


def clip(vectors):
    return vectors / np.maximum(1.0, np.linalg.norm(vectors, axis=-1, keepdims=True))


def transport(costs, valid=None):
    """Weights and attributes of one image with costs (n, m), by bisection."""
    valid = np.ones(len(costs), bool) if valid is None else valid
    log_mass = logsumexp(-SMOOTHING * costs, axis=-1)
    low, high = -500.0, 500.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if expit(middle + log_mass[valid]).mean() < RATIO else (low, middle)
    weights = np.where(valid, expit(low + log_mass), 0.0) / (valid.sum() * RATIO)
    return weights, weights @ softmax(-SMOOTHING * costs, axis=-1)


def conv_costs(features, prototypes):
    """Negative inner products of clipped prototypes (m, k, k, d) and the clipped features of a map (h, w, d)."""
    height, width, _ = features.shape
    features, prototypes, reach = clip(features), clip(prototypes), prototypes.shape[1] // 2
    costs = np.zeros((height, width, len(prototypes)))
    offsets = range(-reach, reach + 1)
    for row in range(height):
        for column in range(width):
            for i, patch in enumerate(prototypes):
                for up, right in itertools.product(offsets, offsets):
                    if 0 <= row + up < height and 0 <= column + right < width:
                        costs[row, column, i] -= patch[up + reach, right + reach] @ features[row + up, column + right]
    return costs.reshape(height * width, -1)


@pytest.mark.parametrize("kind", [GeneralizedSumPooling, GeneralizedSumMaxPooling])
def test_transport_after_a_projection(kind):
    layer, maps = make_layer(kind, channels=2), make_maps(2, 3, 4)
    matrix, prototypes = np.asarray(layer.projection.kernel), np.asarray(layer.prototype_embeddings)
    assert matrix.shape == (CHANNELS, 2) and prototypes.shape == (PROTOTYPES, 2)
    pooled, attributes = layer(maps)
    for index, bag in enumerate(maps.reshape(2, 12, CHANNELS)):
        costs = np.linalg.norm(clip(bag @ matrix)[:, None] - clip(prototypes), axis=-1)
        weights, expected = transport(costs)
        raw = weights @ bag + (bag.max(axis=0) if kind is GeneralizedSumMaxPooling else 0.0)
        np.testing.assert_allclose(pooled[index], raw @ matrix, atol=1e-9)
        np.testing.assert_allclose(attributes[index], expected, atol=1e-9)
        np.testing.assert_allclose(tf.reshape(layer.pooling_weights(maps)[index], (-1,)), weights, atol=1e-9)


def test_a_projection_equals_pooling_projected_features():
    """Pooling is linear in the features once the weights are known."""
    layer, maps = make_layer(channels=2), make_maps(2, 3, 4)
    plain = GeneralizedSumPooling(PROTOTYPES, RATIO, SMOOTHING, dtype="float64")
    plain.build((None, None, None, 2))
    plain.prototype_embeddings.assign(layer.prototype_embeddings)
    np.testing.assert_allclose(layer(maps)[0], plain(layer.projection(maps)), atol=1e-9)


@pytest.mark.parametrize(("size", "channels"), [(1, None), (3, None), (3, 2), (5, None)])
def test_convolutional_prototypes(size, channels):
    layer, maps = make_layer(kernel_size=size, channels=channels), make_maps(2, 3, 4)
    matrix = np.eye(CHANNELS) if channels is None else np.asarray(layer.projection.kernel)
    prototypes = np.asarray(layer.prototype_embeddings)
    assert prototypes.shape == (PROTOTYPES, size, size, channels or CHANNELS)
    pooled, attributes = layer(maps)
    for index, image in enumerate(maps):
        weights, expected = transport(conv_costs(image @ matrix, prototypes))
        np.testing.assert_allclose(pooled[index], weights @ image.reshape(12, CHANNELS) @ matrix, atol=1e-9)
        np.testing.assert_allclose(attributes[index], expected, atol=1e-9)


def test_masked_features_are_no_neighbors():
    layer, maps = make_layer(kernel_size=3), make_maps(1, 3, 3)
    mask = np.random.default_rng(2).random((1, 3, 3)) < 0.6
    maps[~mask] = np.nan
    present = np.where(mask[..., None], maps, 0.0)[0]
    weights, attributes = transport(conv_costs(present, np.asarray(layer.prototype_embeddings)), mask.ravel())
    pooled, found = layer(maps, mask=mask)
    np.testing.assert_allclose(pooled[0], weights @ present.reshape(9, CHANNELS), atol=1e-9)
    np.testing.assert_allclose(found[0], attributes, atol=1e-9)


@pytest.mark.parametrize("options", [{"channels": 2}, {"kernel_size": 3, "channels": 2}])
def test_gradients_against_finite_differences(options):
    layer, maps = make_layer(**options), tf.Variable(make_maps(2, 3, 3))
    upstream = np.random.default_rng(5).normal(size=(2, 2)), np.random.default_rng(6).normal(size=(2, PROTOTYPES))

    def loss():
        return sum(tf.reduce_sum(part * weight) for part, weight in zip(layer(maps), upstream))

    variables = [maps, *layer.trainable_variables]
    with tf.GradientTape() as tape:
        value = loss()
    for variable, gradient in zip(variables, tape.gradient(value, variables)):
        start, direction = np.asarray(variable), np.random.default_rng(7).normal(size=variable.shape)
        sides = []
        for step in (1e-5, -1e-5):
            variable.assign(start + step * direction)
            sides.append(float(loss()))
        variable.assign(start)
        expected = (sides[0] - sides[1]) / 2e-5
        assert np.sum(direction * np.asarray(gradient)) == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.integration
def test_xla_of_any_size():
    layer = make_layer(kernel_size=3, channels=2, dtype="float32", return_attributes=False)
    spec = tf.TensorSpec((None, None, None, CHANNELS), tf.float32)
    compiled = tf.function(layer, input_signature=[spec], jit_compile=True)
    maps = make_maps(2, 4, 3).astype("float32")
    np.testing.assert_allclose(compiled(maps), layer(maps), atol=1e-5)


@pytest.mark.integration
def test_saved_and_loaded(tmp_path):
    inputs = keras.Input((None, None, CHANNELS))
    options = {"kernel_size": 3, "channels": 2, "dtype": "float32", "return_attributes": False}
    both = [make_layer(kind, **options)(inputs) for kind in (GeneralizedSumPooling, GeneralizedSumMaxPooling)]
    model = keras.Model(inputs, both)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    maps = make_maps(2, 4, 3).astype("float32")
    for one, other in zip(again(maps), model(maps)):
        np.testing.assert_array_equal(one, other)


def test_adapt_to_projected_features():
    layer, maps = make_layer(channels=2), make_maps(6, 4, 4)
    layer.adapt(maps)
    candidates = clip(maps.reshape(-1, CHANNELS) @ np.asarray(layer.projection.kernel))
    distances = np.linalg.norm(np.asarray(layer.prototype_embeddings)[:, None] - candidates, axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-6)


def test_adapt_to_patches():
    layer, maps = make_layer(kernel_size=3, channels=2), make_maps(4, 4, 3)
    layer.adapt([maps[:2], maps[2:]])
    matrix, patches = np.asarray(layer.projection.kernel), []
    for image in np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0))):
        for row in range(4):
            for column in range(3):
                patches.append(clip(image[row : row + 3, column : column + 3] @ matrix).ravel())
    found = np.asarray(layer.prototype_embeddings).reshape(PROTOTYPES, -1)
    distances = np.linalg.norm(found[:, None] - np.array(patches), axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-6)
    between = np.linalg.norm(found[:, None] - found, axis=-1)[~np.eye(PROTOTYPES, dtype=bool)]
    assert distances.min(axis=0).max() <= between.min() + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels=0"),
        ({"kernel_size": 2}, "The kernel is even. Received: kernel_size=2. Expected: an odd integer"),
        ({"kernel_size": 1.5}, "kernel_size=1.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        GeneralizedSumPooling(**options)


def test_convolutional_prototypes_need_maps():
    layer = make_layer(kernel_size=3)
    with pytest.raises(ValueError, match=r"Received: input of shape \(2, 9, 5\). Expected: \(b, h, w, d\)"):
        layer(np.zeros((2, 9, CHANNELS)))
    with pytest.raises(ValueError, match=r"patches of feature maps. Received: features of shape \(2, 9, 5\)"):
        layer.adapt(np.zeros((2, 9, CHANNELS)))
