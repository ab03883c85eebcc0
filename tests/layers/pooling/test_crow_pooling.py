"""CroW: the formula as loops, an example by hand, features that are not positive."""

import numpy as np

from tfdml.layers.pooling import CroWPooling


def reference(bag):
    """Pooled features and attention of a bag (n, d)."""
    bag = np.maximum(bag, 0.0)
    count, channels = bag.shape
    sums = bag.sum(axis=1)
    attention = np.array([(total / np.sqrt((sums**2).sum())) ** 0.5 for total in sums])
    active = [(bag[:, k] > 0).sum() / count for k in range(channels)]
    pooled = np.zeros(channels)
    for k in range(channels):
        if active[k] > 0:
            pooled[k] = np.log(sum(active) / active[k]) * sum(attention[j] * bag[j, k] for j in range(count)) / count
    return pooled, attention


def test_formula():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(3, 4, 5, 6))
    features[0, ..., 2] = 0.0
    layer = CroWPooling(dtype="float64")
    pooled, maps = layer(features), layer.pooling_weights(features).numpy()
    for index in range(3):
        expected, attention = reference(features[index].reshape(20, 6))
        np.testing.assert_allclose(pooled[index], expected, atol=1e-12)
        np.testing.assert_allclose(maps[index].ravel(), attention / attention.sum(), atol=1e-12)
    np.testing.assert_allclose(layer(np.maximum(features, 0.0)), pooled)


def test_by_hand():
    """Sums (3, 4) with norm 5: weights √0.6, √0.8; channel 1 is active in both places, channel 2 in one."""
    pooled = CroWPooling(dtype="float64")(np.array([[[3.0, 0.0], [2.0, 2.0]]]))
    first = np.log(1.5) * (np.sqrt(0.6) * 3 + np.sqrt(0.8) * 2) / 2
    np.testing.assert_allclose(pooled, [[first, np.log(3.0) * np.sqrt(0.8) * 2 / 2]])


def test_one_channel_alone_says_nothing():
    """A channel that is active alone: the logarithm of its rarity is 0."""
    features = np.zeros((1, 3, 2))
    features[..., 0] = 5.0
    np.testing.assert_array_equal(CroWPooling(dtype="float64")(features), [[0.0, 0.0]])
