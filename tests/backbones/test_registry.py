import keras
import pytest

from tfdml import backbones
from tfdml.backbones import register


@pytest.fixture
def identity(registries):
    """A backbone of one layer, known by this name."""

    @register("identity")
    def identity(input_shape):
        images = keras.Input(input_shape)
        return keras.Model(images, keras.layers.Activation("linear")(images), name="identity")

    return identity


def test_names():
    assert {"bn_inception", "googlenet", "resnet20", "resnet20v2", "resnet50"} <= set(backbones.names())
    assert backbones.names() == sorted(backbones.names())


def test_upper_case_is_the_same(identity):
    assert backbones.get("Identity", (28, 28, 1)).name == "identity"


def test_each_call_builds_a_new_model(identity):
    first, second = (backbones.get("identity", (28, 28, 1)) for _ in range(2))
    assert first is not second
    assert first.layers[1] is not second.layers[1]


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match=r"Received: 'resnet20_v2'.*Did you mean 'resnet20v2'\?"):
        backbones.get("resnet20_v2", (28, 28, 1))


def test_unknown_name_without_a_near_one():
    with pytest.raises(
        ValueError, match=r"Received: 'zzz'. Expected: one of \['bn_inception', .*'resnet20', .*\]\.$"
    ):
        backbones.get("zzz", (28, 28, 1))


def test_name_must_be_a_string():
    with pytest.raises(TypeError, match="Received: 20 of type int"):
        backbones.get(20, (28, 28, 1))


def test_unknown_option():
    with pytest.raises(ValueError, match="'resnet20' does not take these options. Received: 'depth'. Expected: 'bat"):
        backbones.get("resnet20", (28, 28, 1), depth=32)


def test_options_reach_the_builder():
    backbone = backbones.get("resnet20", (28, 28, 1), batch_norm_momentum=0.5, name="mine")
    assert backbone.name == "mine"
    momenta = {
        layer.momentum for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)
    }
    assert momenta == {0.5}


def test_register(identity):
    assert "identity" in backbones.names()
    assert backbones.get("identity", (5, 4, 3)).output.shape[1:] == (5, 4, 3)
    assert register("identity")(identity) is identity
    with pytest.raises(ValueError, match="taken. Received: 'identity'"):
        register("identity")(lambda input_shape: None)


@pytest.mark.parametrize("name", ["", "ResNet", None])
def test_register_refuses_a_bad_name(name):
    with pytest.raises(ValueError, match="lower case"):
        register(name)
