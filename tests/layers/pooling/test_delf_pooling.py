"""DeLF: the formula as loops, an example by hand, options."""

import numpy as np
import pytest

from tfdml.layers.pooling import DeLFPooling


def test_formula():
    generator = np.random.default_rng(0)
    layer = DeLFPooling(units=5, dtype="float64")
    layer.build((None, None, None, 6))
    weights = [generator.normal(size=weight.shape) for weight in layer.weights]
    layer.set_weights(weights)
    kernel, bias, score, offset = weights
    assert kernel.shape == (6, 5) and score.shape == (5, 1)
    features = generator.normal(size=(2, 3, 4, 6))
    pooled, maps = layer(features), layer.pooling_weights(features).numpy()
    for index in range(2):
        bag = features[index].reshape(12, 6)
        attention = np.array([np.log1p(np.exp(np.maximum(f @ kernel + bias, 0) @ score + offset))[0] for f in bag])
        np.testing.assert_allclose(pooled[index], sum(a * f for a, f in zip(attention, bag)) / 12, atol=1e-12)
        np.testing.assert_allclose(maps[index].ravel(), attention / attention.sum(), atol=1e-12)


def test_by_hand():
    """A score of -1000 excludes a place; a score of 1000 is also the weight."""
    layer = DeLFPooling(units=1, dtype="float64")
    layer.build((None, None, 2))
    layer.set_weights([np.array([[1.0], [0.0]]), np.zeros(1), np.array([[2000.0]]), np.array([-1000.0])])
    pooled = layer(np.array([[[0.0, 7.0], [1.0, 3.0]]]))
    np.testing.assert_allclose(pooled, [[1000.0 * 1.0 / 2, 1000.0 * 3.0 / 2]])


@pytest.mark.parametrize("units", [0, 1.5, "many"])
def test_bad_units(units):
    with pytest.raises(ValueError, match=f"Received: units={units!r}. Expected: an integer >= 1"):
        DeLFPooling(units)
