"""NetVLAD: the formula as loops, an example by hand, initialization from features, options."""

import numpy as np
import pytest

from tfdml.layers.pooling import NetVLAD


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


@pytest.mark.parametrize("channels", [None, 2])
def test_formula(channels):
    generator = np.random.default_rng(0)
    layer = NetVLAD(3, channels, dtype="float64")
    layer.build((None, None, None, 6))
    layer.set_weights([generator.normal(size=weight.shape) for weight in layer.weights])
    projection = np.eye(6) if channels is None else layer.projection.kernel.numpy()
    kernel, bias = layer.assignment.kernel.numpy(), layer.assignment.bias.numpy()
    centers = layer.prototype_embeddings.numpy()
    features = generator.normal(size=(2, 3, 4, 6))
    pooled = layer(features)
    for index in range(2):
        residuals = np.zeros(centers.shape)
        for feature in features[index].reshape(12, 6):
            x = unit(feature @ projection)
            shares = softmax(x @ kernel + bias)
            for i, center in enumerate(centers):
                residuals[i] += shares[i] * (x - center)
        np.testing.assert_allclose(pooled[index], unit(unit(residuals).ravel()), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=-1), 1.0)


def test_by_hand():
    """Hard assignment: both features (1, 0) go to center (0, 0); (0, 1) goes to its own center, with residual 0."""
    layer = NetVLAD(2, dtype="float64")
    layer.build((None, None, 2))
    layer.prototype_embeddings.assign([[0.0, 0.0], [0.0, 1.0]])
    layer.assignment.kernel.assign([[1000.0, 0.0], [0.0, 1000.0]])
    pooled = layer(np.array([[[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]]]))
    np.testing.assert_allclose(pooled, [[1.0, 0.0, 0.0, 0.0]], atol=1e-12)


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("policy", ["float32", "float64", "mixed_float16", "mixed_bfloat16"])
def test_adapt(channels, policy):
    """Centers are features; assignments follow distances, with an average ratio of 100 from first to second."""
    layer = NetVLAD(4, channels, dtype=policy)
    features = np.random.default_rng(1).normal(size=(5, 4, 4, 6)).astype("float32")
    layer.adapt(features)
    projection = np.eye(6) if channels is None else np.array(layer.projection.kernel)
    points, centers = unit(features.reshape(-1, 6) @ projection), np.array(layer.prototype_embeddings)
    squared = np.sum((points[:, None] - centers) ** 2, axis=-1)
    assert squared.min(axis=0).max() < 1e-9
    shares = np.array(layer.assignment(points.astype(layer.precision)))
    two = np.sort(shares, axis=-1)[:, -2:]
    assert np.exp(np.mean(np.log(two[:, 1] / two[:, 0]))) == pytest.approx(100.0, rel=1e-3)
    np.testing.assert_array_equal(shares.argmax(axis=-1), squared.argmin(axis=-1))


def test_adapt_one_center():
    layer = NetVLAD(1)
    layer.adapt(np.random.default_rng(1).normal(size=(9, 6)))
    assert all(np.isfinite(weight).all() for weight in layer.get_weights())


@pytest.mark.parametrize("option", ["prototypes", "channels"])
@pytest.mark.parametrize("value", [0, 2.5, True])
def test_bad_options(option, value):
    with pytest.raises(ValueError, match=f"Received: {option}={value}. Expected: an integer >= 1"):
        NetVLAD(**{option: value})
