"""Trainable SMK: the formula as loops, an example by hand, options."""

import numpy as np
import pytest

from tfdml.layers.pooling import SMKPooling


def reference(image, kernel, bias, size):
    height, width, _ = image.shape
    pooled, reach = np.zeros(len(bias)), size // 2
    for y in range(height):
        for x in range(width):
            near = image[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            smooth = near.reshape(-1, image.shape[-1]).mean(axis=0)
            pooled += np.linalg.norm(image[y, x]) * (smooth @ kernel + bias) / (height * width)
    return pooled


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("channels", [None, 4])
def test_formula(channels, kernel_size):
    generator = np.random.default_rng(0)
    layer = SMKPooling(channels, kernel_size, dtype="float64")
    layer.build((None, None, None, 6))
    weights = [generator.normal(size=weight.shape) for weight in layer.weights]
    layer.set_weights(weights)
    features = generator.normal(size=(2, 4, 5, 6))
    pooled, maps = layer(features), layer.pooling_weights(features).numpy()
    assert tuple(pooled.shape) == (2, channels or 6)
    for index in range(2):
        np.testing.assert_allclose(pooled[index], reference(features[index], *weights, kernel_size), atol=1e-10)
        norms = np.linalg.norm(features[index], axis=-1)
        np.testing.assert_allclose(maps[index], norms / norms.sum(), atol=1e-12)


def test_by_hand():
    """Norms 5 and 0; both places are smoothed to their mean (1.5, 2); whitening swaps the channels and adds 1."""
    layer = SMKPooling(dtype="float64")
    layer.build((None, None, None, 2))
    layer.set_weights([np.array([[0.0, 1.0], [1.0, 0.0]]), np.ones(2)])
    pooled = layer(np.array([[[[3.0, 4.0], [0.0, 0.0]]]]))
    np.testing.assert_allclose(pooled, [[5.0 * 3.0 / 2, 5.0 * 2.5 / 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "Received: channels=0. Expected: an integer >= 1"),
        ({"kernel_size": 0}, "Received: kernel_size=0. Expected: an integer >= 1"),
        ({"kernel_size": 4}, "Received: kernel_size=4. Expected: an odd integer"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SMKPooling(**options)
