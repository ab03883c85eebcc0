"""Average plus max pooling."""

import numpy as np

from tfdml.layers.pooling import AverageMaxPooling


def test_formula():
    features = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    expected = features.mean(axis=(1, 2)) + features.max(axis=(1, 2))
    np.testing.assert_allclose(AverageMaxPooling(dtype="float64")(features), expected, atol=1e-12)
