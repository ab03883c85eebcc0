"""What a network expects of images is read off its first layers."""

import keras
import numpy as np
import pytest

from tfdml import backbones
from tfdml.backbones import expected_range
from tfdml.ops import input_convention, to_input_range

SHAPE = (32, 32, 3)
APPLICATIONS = {
    "VGG16": "caffe",
    "ResNet50": "caffe",
    "ResNet50V2": (-1.0, 1.0),
    "MobileNet": (-1.0, 1.0),
    "MobileNetV2": (-1.0, 1.0),
    "MobileNetV3Small": (0.0, 255.0),
    "EfficientNetB0": (0.0, 255.0),
    "EfficientNetV2B0": (0.0, 255.0),
    "ConvNeXtTiny": (0.0, 255.0),
    "DenseNet121": "torch",
}
LARGE = dict.fromkeys(("InceptionV3", "InceptionResNetV2", "Xception", "NASNetMobile"), (-1.0, 1.0))
# They take half as long as the twelve others together, and have the input layers of InceptionV3 and Xception.
SLOW = ("InceptionResNetV2", "NASNetMobile")


def application(name, shape=SHAPE, **options):
    return getattr(keras.applications, name)(weights=None, include_top=False, input_shape=shape, **options)


@pytest.fixture(scope="module")
def mobile_net():
    return application("MobileNetV2", alpha=0.35)


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in (*APPLICATIONS, *LARGE)],
)
def test_networks_of_keras_applications(name):
    model = application(name, (96, 96, 3))
    assert expected_range(model)[0] == {**APPLICATIONS, **LARGE}[name]
    # Cut off, and called as a layer, they are what they are.
    images = keras.Input((96, 96, 3))
    outer = keras.Model(images, keras.layers.Dropout(0.5)(model(keras.layers.RandomFlip()(images))))
    assert expected_range(outer)[0] == {**APPLICATIONS, **LARGE}[name]


@pytest.mark.parametrize("name", ["VGG16", "ResNet50V2", "MobileNet", "MobileNetV3Small"])
def test_some_networks_of_keras_applications(name):
    assert expected_range(application(name))[0] == APPLICATIONS[name]


@pytest.mark.parametrize("module", ["vgg16", "mobilenet_v2", "densenet"])
def test_modes_are_those_of_keras(module):
    preprocess = getattr(keras.applications, module).preprocess_input
    mode = {"vgg16": "caffe", "mobilenet_v2": "tf", "densenet": "torch"}[module]
    images = np.random.default_rng(0).random((2, 4, 4, 3)).astype("float32")
    wanted = preprocess(255.0 * images)
    np.testing.assert_allclose(to_input_range(images, mode), wanted, rtol=1e-5, atol=1e-4)
    model = keras.Sequential([keras.Input((4, 4, 3)), backbones.InputConvention(*input_convention(mode))])
    restored = backbones.InputConvention.from_config(model.layers[-1].get_config())
    np.testing.assert_allclose(restored(images), wanted, rtol=1e-5, atol=1e-4)


def test_part_of_a_network_is_recognized(mobile_net):
    part = keras.Model(mobile_net.input, mobile_net.get_layer("block_3_expand_relu").output)
    assert expected_range(part) == ((-1.0, 1.0), "MobileNetV2 of keras.applications")
    images = keras.Input(SHAPE)
    nested = keras.Model(images, mobile_net(keras.layers.RandomFlip()(images)))
    assert expected_range(nested) == ((-1.0, 1.0), "MobileNetV2 of keras.applications")
    assert expected_range(keras.Sequential([keras.Input(SHAPE), mobile_net]))[0] == (-1.0, 1.0)


def test_a_rescaling_tells(mobile_net):
    for scale, offset, white in ((1 / 255, 0.0, 255.0), (1 / 127.5, -1.0, 255.0), (2.0, -1.0, 1.0)):
        images = keras.Input(SHAPE)
        model = keras.Model(images, mobile_net(keras.layers.Rescaling(scale, offset)(images)))
        assert expected_range(model)[0] == (0.0, white)
    for mean, expected in (([120.0, 110.0, 100.0], (0.0, 255.0)), ([0.5, 0.4, 0.4], (0.0, 1.0))):
        layer = keras.layers.Normalization(mean=mean, variance=[1.0, 1.0, 1.0])
        assert expected_range(keras.Sequential([keras.Input(SHAPE), layer]))[0] == expected


def test_what_comes_before_a_network_makes_it_unclear(mobile_net):
    images = keras.Input(SHAPE)
    preprocessed = keras.applications.mobilenet_v2.preprocess_input(images)
    with pytest.raises(ValueError, match=r"range of MobileNetV2 of keras.applications is unknown.*\(low, high\)"):
        expected_range(keras.Model(images, mobile_net(preprocessed)))


def test_networks_of_one_s_own_do_not_tell():
    images = keras.Input(SHAPE)
    model = keras.Model(images, keras.layers.Conv2D(4, 3, name="conv1")(keras.layers.ZeroPadding2D()(images)))
    assert expected_range(model) == (None, None)
    assert expected_range(backbones.get("resnet20", SHAPE))[0] == (0.0, 1.0)
