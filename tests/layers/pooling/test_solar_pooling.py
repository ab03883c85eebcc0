"""SOLAR: the formula as loops in both modes, an example by hand, initial weights, options."""

import numpy as np
import pytest

from tfdml.layers.pooling import GeneralizedMeanPooling, SOLARPooling

EPSILON = 1e-3  # of Keras' batch normalization


def make_layer(channels, seed=0, **options):
    generator = np.random.default_rng(seed)
    layer = SOLARPooling(dtype="float64", **options)
    layer.build((None, None, channels))
    for part in (layer.query, layer.key, layer.value, layer.output_projection):
        part.kernel.assign(generator.normal(size=part.kernel.shape))
        part.bias.assign(generator.normal(size=part.bias.shape))
    for part in (layer.query_normalization, layer.key_normalization):
        part.gamma.assign(generator.normal(size=part.gamma.shape))
        part.beta.assign(generator.normal(size=part.beta.shape))
    return layer


def dense(part, features):
    return features @ part.kernel.numpy() + part.bias.numpy()


def normalize(part, features, training):
    mean, variance = (features.mean(axis=(0, 1)), features.var(axis=(0, 1))) if training else (0.0, 1.0)
    return (features - mean) / np.sqrt(variance + EPSILON) * part.gamma.numpy() + part.beta.numpy()


def attended(layer, features, training):
    """The features (b, n, d) after the attention, with the initial moving statistics of 0 and 1."""
    query = np.maximum(normalize(layer.query_normalization, dense(layer.query, features), training), 0.0)
    key = np.maximum(normalize(layer.key_normalization, dense(layer.key, features), training), 0.0)
    value = dense(layer.value, features)
    result = np.zeros(features.shape)
    for index, bag in enumerate(features):
        for j in range(len(bag)):
            likeness = np.array([query[index, j] @ other for other in key[index]]) / np.sqrt(query.shape[-1])
            shares = np.exp(likeness) / np.exp(likeness).sum()
            taken = sum(share * other for share, other in zip(shares, value[index]))
            result[index, j] = bag[j] + dense(layer.output_projection, taken)
    return result


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("reduction", [1, 2, 9])
@pytest.mark.parametrize("aggregation", ["gem", "gap"])
def test_formula(aggregation, reduction, training):
    layer = make_layer(4, reduction=reduction, aggregation=aggregation, power=2.5)
    assert layer.query.units == max(1, 4 // reduction)
    features = np.random.default_rng(1).uniform(size=(3, 2, 4, 4))
    expected = attended(layer, features.reshape(3, 8, 4), training)
    if aggregation == "gem":
        expected = np.mean(np.maximum(expected, 1e-6) ** 2.5, axis=1) ** (1 / 2.5)
    else:
        expected = expected.mean(axis=1)
    np.testing.assert_allclose(layer(features, training=training), expected, atol=1e-10)
    assert layer.rectifies == (aggregation == "gem")


def test_by_hand():
    """Query and key are the scaled feature: place 2 attends to itself; place 1, which is 0, to both equally."""
    layer = make_layer(1, reduction=1, aggregation="gap")
    one, none = np.ones((1, 1)), np.zeros(1)
    for part, kernel in ((layer.query, one), (layer.key, one), (layer.value, one), (layer.output_projection, 10 * one)):
        part.kernel.assign(kernel)
        part.bias.assign(none)
    for part in (layer.query_normalization, layer.key_normalization):
        part.gamma.assign(np.full(1, np.sqrt(1 + EPSILON)))
        part.beta.assign(none)
    # 0 + 10 · (0 + 100) / 2 and 100 + 10 · 100.
    np.testing.assert_allclose(layer(np.array([[[0.0], [100.0]]])), [[(500.0 + 1100.0) / 2]])


def test_starts_as_generalized_mean():
    features = np.random.default_rng(1).normal(size=(3, 2, 4, 4)).astype("float32")
    np.testing.assert_allclose(SOLARPooling()(features), GeneralizedMeanPooling()(features), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, "Received: reduction=0. Expected: an integer >= 1"),
        ({"aggregation": "max"}, r"Received: aggregation='max'. Expected: one of \('gem', 'gap'\)"),
        ({"power": 0.0}, "Received: power=0.0. Expected: 1 <= power <= 1000"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SOLARPooling(**options)
