"""CBAM: the formula as loops, an example by hand, options."""

import numpy as np
import pytest

from tfdml.layers.pooling import CBAMPooling


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def reference(image, squeeze, excite, kernel):
    """Pooled features and the attention to places of one image (h, w, d)."""
    height, width, _ = image.shape
    hidden = [np.maximum(summary @ squeeze, 0.0) for summary in (image.mean(axis=(0, 1)), image.max(axis=(0, 1)))]
    image = image * sigmoid(hidden[0] @ excite + hidden[1] @ excite)
    size = kernel.shape[0]
    before = (size - 1) // 2
    attention = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            for i in range(size):
                for j in range(size):
                    row, column = y + i - before, x + j - before
                    if 0 <= row < height and 0 <= column < width:
                        place = image[row, column]
                        attention[y, x] += kernel[i, j, 0, 0] * place.mean() + kernel[i, j, 1, 0] * place.max()
    attention = sigmoid(attention)
    return np.mean(attention[..., None] * image, axis=(0, 1)), attention


@pytest.mark.parametrize(("reduction", "kernel_size"), [(1, 1), (2, 3), (3, 4), (16, 7)])
def test_formula(reduction, kernel_size):
    generator = np.random.default_rng(0)
    layer = CBAMPooling(reduction, kernel_size, dtype="float64")
    layer.build((None, None, None, 6))
    assert [weight.shape[-1] for weight in layer.weights] == [max(1, 6 // reduction), 6, 1]
    weights = [generator.normal(size=weight.shape) for weight in layer.weights]
    layer.set_weights(weights)
    features = generator.normal(size=(2, 4, 5, 6))
    pooled, maps = layer(features), layer.pooling_weights(features).numpy()
    for index in range(2):
        expected, attention = reference(features[index], *weights)
        np.testing.assert_allclose(pooled[index], expected, atol=1e-12)
        np.testing.assert_allclose(maps[index], attention / attention.sum(), atol=1e-12)


def test_by_hand():
    """Weights that gate off channel 2 and attend by the largest channel of each place only."""
    layer = CBAMPooling(reduction=2, kernel_size=1, dtype="float64")
    layer.build((None, None, None, 2))
    layer.set_weights([np.array([[1.0], [0.0]]), np.array([[0.0, -1000.0]]), np.array([0.0, 2.0]).reshape(1, 1, 2, 1)])
    features = np.array([[2.0, 9.0], [4.0, 9.0]]).reshape(1, 1, 2, 2)
    # Channel 1 is halved (gate 0.5) to 1 and 2, channel 2 is off; the attention is sigmoid(2), sigmoid(4).
    expected = (1.0 * sigmoid(2.0) + 2.0 * sigmoid(4.0)) / 2
    np.testing.assert_allclose(layer(features), [[expected, 0.0]], atol=1e-12)


@pytest.mark.parametrize("option", ["reduction", "kernel_size"])
@pytest.mark.parametrize("value", [0, 2.5, True])
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=f"Received: {option}={value}. Expected: an integer >= 1"):
        CBAMPooling(**{option: value})
