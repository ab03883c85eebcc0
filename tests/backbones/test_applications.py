"""Networks of keras.applications by name."""

import functools

import keras
import numpy as np
import pytest

from tfdml import backbones, models
from tfdml._utils.keras_compat import IS_KERAS_2
from tfdml.backbones import applications

SHAPE = (32, 32, 3)
MOBILE_NET = "keras.applications.MobileNetV2"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((2, *SHAPE)).astype("float32")


@pytest.fixture(scope="module")
def mobile_net():
    """The network of Keras, with statistics that are not those of the start."""
    model = keras.applications.MobileNetV2(SHAPE, 0.35, include_top=False, weights=None)
    rng = np.random.default_rng(0)
    model.set_weights([weight + 0.01 * rng.random(weight.shape) for weight in model.get_weights()])
    return model


def test_names():
    names = applications.application_names()
    assert {MOBILE_NET, "keras.applications.ConvNeXtTiny", "keras.applications.ResNet50V2"} <= set(names)
    assert len(names) >= 40 and all(backbones.is_known(name.lower()) for name in names)
    assert not backbones.is_known("keras.applications.MobileNetV9") and not backbones.is_known("mobilenetv2")
    assert backbones.names_like("keras.applications.x") == names and "resnet50" in backbones.names_like("x")


@pytest.mark.parametrize("name", applications.application_names())
def test_every_network_has_a_known_preprocessing(name):
    builder = getattr(keras.applications, name[len(applications.PREFIX) :])
    assert applications._input_range_of(builder) in applications._RANGES


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "VGG16"])
def test_images_are_scaled_inside(name, images):
    backbone = backbones.get(f"Keras.Applications.{name}", SHAPE, name="mine")
    network = backbone.layers[-1]
    preprocess = {
        "MobileNetV2": keras.applications.mobilenet_v2, "MobileNetV3Small": keras.applications.mobilenet_v3,
        "VGG16": keras.applications.vgg16,
    }[name].preprocess_input  # fmt: skip
    wanted = network(preprocess(255.0 * images), training=False)
    np.testing.assert_allclose(backbone(images, training=False), wanted, rtol=1e-4, atol=1e-4)
    assert backbone.name == "mine" and backbones.expected_range(backbone)[0] == (0.0, 1.0)


def file_of(model, tmp_path):
    """The weights as this line of Keras writes them."""
    path = tmp_path / ("model.h5" if IS_KERAS_2 else "model.weights.h5")
    model.save_weights(path)
    return path


@pytest.mark.integration
@pytest.mark.parametrize("frozen", ["none", "statistics", "all", None])
def test_weights_of_a_file_and_frozen_statistics(frozen, images, mobile_net, tmp_path):
    path = file_of(mobile_net, tmp_path)
    backbone = backbones.get(MOBILE_NET, SHAPE, weights=path, frozen_batch_norm=frozen, alpha=0.35)
    wanted = mobile_net(2.0 * images - 1.0, training=False)
    np.testing.assert_allclose(backbone(images, training=False), wanted, rtol=1e-4, atol=1e-4)
    # In training the moving statistics count if they are frozen.
    change = np.abs(np.asarray(backbone(images, training=True)) - np.asarray(wanted)).max()
    assert (change > 1e-2) == (frozen == "none")
    gammas = sum(weight.name.split("/")[-1].startswith("gamma") for weight in backbone.trainable_weights)
    assert (gammas == 0) == (frozen == "all")


@pytest.mark.integration
def test_layers_with_numbers_in_their_names_are_paired_in_order(tmp_path):
    shape = (75, 75, 3)
    images = np.random.default_rng(0).random((1, *shape)).astype("float32")
    model = keras.applications.InceptionV3(include_top=False, weights=None, input_shape=shape)
    backbone = backbones.get("keras.applications.InceptionV3", shape, weights=file_of(model, tmp_path))
    np.testing.assert_allclose(backbone(images), model(2.0 * images - 1.0, training=False), rtol=1e-3, atol=1e-4)


def test_published_files_of_efficientnet_are_corrected():
    layer = keras.layers.Normalization()
    layer.build((None, 4, 4, 3))
    deviation = np.array([0.229, 0.224, 0.225], "float32")
    for weight in layer.weights:
        if tuple(weight.shape) == (3,):
            weight.assign(deviation if "variance" in weight.name else np.full(3, 0.5, "float32"))
    model = keras.Sequential([keras.Input((4, 4, 3)), layer])
    applications._finalize(model, is_file_of_efficientnet=True)
    ones = np.ones((1, 4, 4, 3), "float32")
    np.testing.assert_allclose(model(ones)[0, 0, 0], 0.5 / deviation, rtol=1e-4)


@pytest.mark.integration
def test_an_embedder_by_name(images, tmp_path):
    embedder = models.build_embedder("keras.applications.MobileNetV3Small", "gap", 8, input_shape=SHAPE)
    embeddings = embedder(images)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(again(images), embeddings, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("MobileNetV9", SHAPE, {}, "Unknown network of keras.applications. Received: 'MobileNetV9'.*mean 'MobileNet"),
        ("MobileNetV2", (32, 32, 1), {}, r"channels one of \(3,\)"),
        ("MobileNetV2", (16, 16, 3), {}, r"MobileNetV2 cannot be built. Received: input_shape=\(16, 16, 3\).*32x32"),
        ("MobileNetV2", SHAPE, {"alpha": 0.3, "weights": "imagenet"}, "cannot be built"),
        ("MobileNetV2", SHAPE, {"pooling": "avg"}, "does not take these options. Received: 'pooling'.*'alpha'"),
        ("MobileNetV2", SHAPE, {"frozen_batch_norm": "some"}, "frozen_batch_norm='some'"),
        ("MobileNetV2", SHAPE, {"weights": "weights.pth"}, "weights='weights.pth'. Expected: None, 'imagenet' or a f"),
    ],
)
def test_bad_input(name, shape, options, message):
    with pytest.raises(ValueError, match=message):
        backbones.get(f"keras.applications.{name}", shape, **options)


@pytest.mark.integration
def test_files_that_do_not_fit(mobile_net, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        backbones.get(MOBILE_NET, SHAPE, weights=tmp_path / "model.h5")
    path = file_of(mobile_net, tmp_path)
    for name, options in (("MobileNetV2", {}), ("MobileNet", {"alpha": 0.25})):
        with pytest.raises(ValueError, match="Not weights of"):
            backbones.get(f"keras.applications.{name}", SHAPE, weights=path, **options)


def test_without_a_network(monkeypatch):
    original = keras.applications.MobileNetV2

    @functools.wraps(original)
    def offline(*args, weights=None, **options):
        raise Exception("URL fetch failure on https://example.org/v2/weights_no_top.h5: None -- no name")

    monkeypatch.setattr(keras.applications, "MobileNetV2", offline)
    with pytest.raises(FileNotFoundError, match=r"models/weights_no_top.h5, from https://example.org/v2/weights_no_t"):
        backbones.get(MOBILE_NET, SHAPE, weights="imagenet")


@pytest.mark.skipif(not IS_KERAS_2, reason="Of Keras 2.")
def test_keras_hub_needs_keras_3():
    with pytest.raises(ValueError, match="KerasHub needs Keras 3. Received: 'keras_hub:dinov2_small' with Keras 2"):
        backbones.get("keras_hub:dinov2_small", SHAPE)
