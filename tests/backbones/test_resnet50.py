import keras
import numpy as np
import pytest
from torch_writer import write_state_dict

from tfdml import backbones
from tfdml.backbones import load_weights
from tfdml.backbones.resnet50 import PUBLISHED
from tfdml.backbones.weights import start_from


@pytest.fixture(scope="module")
def kerass():
    """Keras' own ResNet-50 with weights that are not those of a new network."""
    model = keras.applications.ResNet50(include_top=False, weights=None, input_shape=(None, None, 3))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape[0]
            scale, variance = rng.uniform(0.3, 1.0, (2, size))
            layer.set_weights([scale, *rng.normal(0.0, 0.3, (2, size)), variance])
        elif isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel, rng.normal(0.0, 0.1, bias.shape)])
    return model


@pytest.fixture(scope="module")
def backbone(kerass):
    """Ours with Keras' weights, which come by the way of "imagenet"."""
    with pytest.MonkeyPatch.context() as patch:
        received = []
        patch.setattr(keras.applications, "ResNet50", lambda **options: received.append(options) or kerass)
        backbone = backbones.get(
            "resnet50", (None, None, 3), weights="imagenet", frozen_batch_norm="statistics"
        )
    assert received == [{"include_top": False, "weights": "imagenet"}]
    return backbone


def test_parameter_count_is_that_of_keras(backbone, kerass):
    assert backbone.name == "resnet50"
    assert backbone.count_params() == kerass.count_params() == 23_587_712


@pytest.mark.parametrize("shape", [(64, 64), (75, 97)])
def test_features_are_those_of_keras(backbone, kerass, shape):
    images = np.random.default_rng(1).random((2, *shape, 3), np.float32)
    expected = np.asarray(kerass(keras.applications.resnet50.preprocess_input(images * 255.0), training=False))
    received = backbone(images, training=False)
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-4 * expected.max())
    assert received.shape == (2, -(-shape[0] // 32), -(-shape[1] // 32), 2048)


def test_statistics_of_batch_normalisation_are_frozen(backbone):
    layers = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.frozen_statistics for layer in layers] == [True] * 53
    trained = {id(variable) for variable in backbone.trainable_variables}
    assert trained & {id(v) for layer in layers for v in layer.weights} == {
        id(v) for layer in layers for v in (layer.gamma, layer.beta)
    }
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    np.testing.assert_array_equal(backbone(images, training=True), backbone(images, training=False))


def test_weights_of_pytorch_s_do_not_fit(backbone, tmp_path):
    write_state_dict(tmp_path / "resnet50.pth", {"conv1.weight": np.zeros((64, 3, 7, 7))})
    with pytest.raises(ValueError, match=r"Not weights of 'resnet50'.*not of this network: conv1\.weight"):
        load_weights(backbone, tmp_path / "resnet50.pth")


def test_imagenet_without_a_network(backbone, monkeypatch, tmp_path):
    def fail(**options):
        raise Exception("URL fetch failure on https://…: None -- Temporary failure in name resolution")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras.applications, "ResNet50", fail)
    with pytest.raises(FileNotFoundError, match="cannot be downloaded .URL fetch failure") as raised:
        start_from(backbone, "imagenet", PUBLISHED)
    file = tmp_path / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert f"Expected: {file}. Create it on a machine with network access" in str(raised.value)


@pytest.mark.parametrize("shape", [(31, 64, 3), (64, 64, 1)])
def test_wrong_input_shape(shape):
    with pytest.raises(ValueError, match=r"Expected: .* at least 32 or None and channels one of \(3,\)"):
        backbones.get("resnet50", shape)
