"""GSP plus max pooling: the sum of both, with attributes, weights and masks."""

import numpy as np
import pytest

from tfdml.layers.pooling import GeneralizedSumMaxPooling, GeneralizedSumPooling


def make_layers(**options):
    layers = []
    for kind in (GeneralizedSumMaxPooling, GeneralizedSumPooling):
        layer = kind(prototypes=3, ratio=0.4, dtype="float64", **options)
        layer.build((None, None, 6))
        layer.prototype_embeddings.assign(np.random.default_rng(1).normal(size=(3, 6)))
        layers.append(layer)
    return layers


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (3, 20, 6)])
def test_sum(shape):
    both, gsp = make_layers()
    features = np.random.default_rng(0).normal(size=shape)
    greatest = features.reshape(3, 20, 6).max(axis=1)
    np.testing.assert_allclose(both(features), gsp(features) + greatest, atol=1e-12)
    np.testing.assert_allclose(both.pooling_weights(features), gsp.pooling_weights(features))


def test_attributes():
    both, gsp = make_layers(return_attributes=True)
    features = np.random.default_rng(0).normal(size=(2, 7, 6))
    pooled, attributes = both(features)
    expected = gsp(features)
    np.testing.assert_allclose(pooled, expected[0] + features.max(axis=1), atol=1e-12)
    np.testing.assert_allclose(attributes, expected[1])
    assert both.compute_output_shape((None, 7, 6)) == ((None, 6), (None, 3))


def test_masked_features_take_no_part():
    both, gsp = make_layers()
    features = np.random.default_rng(0).normal(size=(3, 4, 6)) - 5.0
    mask = np.array([[True, True, False, True], [False, True, False, False], [False] * 4])
    features[~mask] = 100.0
    features[0, 2] = np.nan
    pooled = both(features, mask=mask).numpy()
    np.testing.assert_allclose(pooled[0], gsp(features, mask=mask)[0] + features[0, mask[0]].max(axis=0), atol=1e-12)
    np.testing.assert_allclose(pooled[1], 2.0 * features[1, 1], atol=1e-12)
    np.testing.assert_array_equal(pooled[2], np.zeros(6))
