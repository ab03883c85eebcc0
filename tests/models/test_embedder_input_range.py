"""Embedders take images in 0–1, whatever their backbone expects."""

import keras
import numpy as np
import pytest

from tfdml import data
from tfdml.models import build_embedder

SHAPE = (32, 32, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((2, *SHAPE)).astype("float32")


def flat(embedder_of, backbone, **options):
    """An embedder that is the mean of the backbone's local features."""
    embedder = embedder_of(backbone, "gap", 4, None, **options)
    kernel, bias = embedder.get_layer("embedding").get_weights()
    return embedder, lambda features: np.asarray(features).mean(axis=(1, 2)) @ kernel[0, 0] + bias


@pytest.mark.integration
def test_a_network_of_keras_applications_is_scaled(images, tmp_path):
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(SHAPE, 0.35, include_top=False, weights=None)
    backbone = keras.Model(network.input, network.get_layer("block_1_expand_relu").output)
    preprocess = keras.applications.mobilenet_v2.preprocess_input
    embedder, head = flat(build_embedder, backbone)
    wanted = head(backbone(preprocess(255.0 * images), training=False))
    assert embedder.inputs[0].shape[1:] == SHAPE
    np.testing.assert_allclose(embedder(images, training=False), wanted, rtol=1e-4, atol=1e-5)
    embedder.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(restored(images, training=False), wanted, rtol=1e-4, atol=1e-5)
    stated, head = flat(build_embedder, backbone, input_range=(0, 1))
    np.testing.assert_allclose(stated(images, training=False), head(backbone(images, training=False)), atol=1e-5)


@pytest.mark.parametrize("input_range", [(0, 255), "tf", "caffe", "torch"])
def test_a_stated_range(images, input_range):
    backbone = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(3, 3, strides=4)])
    embedder, head = flat(build_embedder, backbone, input_range=input_range)
    scaled = data.Preprocessing(SHAPE[:2], 3, input_range=input_range)(images)
    np.testing.assert_allclose(embedder(images), head(backbone(scaled)), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_scaled():
    gray = keras.Sequential([keras.Input((32, 32, 1)), keras.layers.Conv2D(3, 3)])
    with pytest.raises(ValueError, match="for color images"):
        build_embedder(gray, input_range="caffe")
    images = keras.Input(SHAPE, dtype="uint8")
    integers = keras.Model(images, keras.layers.Conv2D(3, 3)(keras.layers.Rescaling(1 / 255)(images)))
    with pytest.raises(ValueError, match="an input of type uint8. Expected: a backbone with a float input"):
        build_embedder(integers)
    with pytest.raises(ValueError, match="Invalid input range"):
        build_embedder(gray, input_range="0-255")
