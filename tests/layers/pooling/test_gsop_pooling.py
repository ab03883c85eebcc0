"""GSoP: the formula as loops in both modes, an example by hand, options."""

import numpy as np
import pytest

from tfdml.layers.pooling import GSoPPooling

EPSILON = 1e-3  # of Keras' batch normalization


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def make_layer(units, channels, **weights):
    """A layer with random or given weights, and its weights by name."""
    generator = np.random.default_rng(0)
    layer = GSoPPooling(units, dtype="float64")
    layer.build((None, None, channels))
    parts = {
        "kernel": layer.reduce.kernel,
        "bias": layer.reduce.bias,
        "gamma": layer.reduced_normalization.gamma,
        "beta": layer.reduced_normalization.beta,
        "row_gamma": layer.row_normalization.gamma,
        "row_beta": layer.row_normalization.beta,
        "row_kernel": layer.row_kernel,
        "row_bias": layer.row_bias,
        "gate_kernel": layer.gate.kernel,
        "gate_bias": layer.gate.bias,
    }
    values = {name: weights.get(name, generator.normal(size=part.shape)) for name, part in parts.items()}
    for name, part in parts.items():
        part.assign(values[name])
    return layer, values


def reference(features, w, training):
    """Pooled features of bags (b, n, d), with the initial moving statistics of 0 and 1."""
    count, places, _ = features.shape
    units = len(w["gamma"])
    reduced = features @ w["kernel"] + w["bias"]
    mean, variance = (reduced.mean(axis=(0, 1)), reduced.var(axis=(0, 1))) if training else (0.0, 1.0)
    reduced = np.maximum((reduced - mean) / np.sqrt(variance + EPSILON) * w["gamma"] + w["beta"], 0.0)
    covariances = np.array([np.cov(bag, rowvar=False, bias=True).reshape(units, units) for bag in reduced])
    pooled = np.zeros((count, features.shape[2]))
    rows = np.zeros((count, units, 4))
    for i in range(units):
        row = covariances[:, i, :]
        mean, variance = (row.mean(), row.var()) if training else (0.0, 1.0)
        row = (row - mean) / np.sqrt(variance + EPSILON) * w["row_gamma"][i] + w["row_beta"][i]
        for filter_index in range(4):
            rows[:, i, filter_index] = row @ w["row_kernel"][i, :, filter_index] + w["row_bias"][i, filter_index]
    for index in range(count):
        gates = sigmoid(rows[index].ravel() @ w["gate_kernel"] + w["gate_bias"])
        pooled[index] = gates * features[index].mean(axis=0)
    return pooled


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("units", [1, 3])
def test_formula(units, training):
    layer, weights = make_layer(units, 5)
    features = np.random.default_rng(1).normal(size=(4, 3, 3, 5))
    expected = reference(features.reshape(4, 9, 5), weights, training)
    np.testing.assert_allclose(layer(features, training=training), expected, atol=1e-10)


def test_by_hand():
    """One channel, features 1 and 3 of variance 1: with unit weights the gate is sigmoid(2 · 1/√1.001)."""
    ones = {"kernel": np.ones((1, 1)), "gamma": np.full(1, np.sqrt(1 + EPSILON)), "row_gamma": np.ones(1)}
    rows = {"row_kernel": np.array([[[2.0, 0.0, 0.0, 0.0]]]), "gate_kernel": np.array([[1.0], [0.0], [0.0], [0.0]])}
    biases = ("bias", "beta", "row_beta", "gate_bias")
    zeros = {**{name: np.zeros(1) for name in biases}, "row_bias": np.zeros((1, 4))}
    layer, _ = make_layer(1, 1, **ones, **rows, **zeros)
    pooled = layer(np.array([[[1.0], [3.0]]]))
    np.testing.assert_allclose(pooled, [[2.0 * sigmoid(2.0 / np.sqrt(1 + EPSILON))]], atol=1e-12)


def test_only_training_keeps_statistics():
    layer, _ = make_layer(3, 5)
    features = np.random.default_rng(1).normal(size=(4, 3, 3, 5))
    before = layer.get_weights()
    layer(features)
    layer(features, training=False)
    assert all(np.array_equal(old, new) for old, new in zip(before, layer.get_weights()))
    layer(features, training=True)
    assert sum(not np.array_equal(old, new) for old, new in zip(before, layer.get_weights())) == 4


@pytest.mark.parametrize("units", [0, 1.5, None])
def test_bad_units(units):
    with pytest.raises(ValueError, match=f"Received: units={units!r}. Expected: an integer >= 1"):
        GSoPPooling(units)
