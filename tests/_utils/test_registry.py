"""One implementation of all registries: names, identifiers, registration, configurations."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import backbones, data, losses, miners
from tfdml._utils.registry import Registry
from tfdml.layers import pooling

PACKAGES = {"losses": losses, "miners": miners, "poolings": pooling, "backbones": backbones, "datasets": data}


class Thing:
    def __init__(self, size, color="red"):
        self.size, self.color = size, color


@pytest.fixture
def things():
    return Registry("thing", Thing, {"thing": Thing, "blue": functools.partial(Thing, color="blue")})


pytestmark = pytest.mark.usefixtures("registries")


@pytest.mark.parametrize("package", PACKAGES.values(), ids=PACKAGES)
def test_each_package_has_the_five_functions(package):
    for function in ("names", "get", "register", "serialize", "deserialize"):
        assert callable(getattr(package, function)) and function in package.__all__
    assert package.names() == sorted(package.names()) and len(package.names()) > 3
    with pytest.raises(ValueError, match=r"Received: 'zzzz'. Expected: one of"):
        package.get("zzzz")
    near = package.names()[0]
    with pytest.raises(ValueError, match=rf"Did you mean '{near}'\?"):
        package.get(f"{near}q")


def test_identifiers(things):
    made = things.get("BLUE", size=3)
    assert (made.size, made.color) == (3, "blue") and things.get(made) is made
    assert things.get("Thing", size=2).size == things.get(Thing, size=2).size == 2
    assert things.get("thing", 4).size == 4
    assert things.names() == ["blue", "thing"]


def test_wrong_identifiers_and_options(things):
    with pytest.raises(ValueError, match=r"Thing 'thing' needs the option 'size'\. Received: none\. Exp.*: 'size'\."):
        things.get("thing")
    with pytest.raises(ValueError, match=r"Options go with a thing's name\. Received: options {'size': 2}"):
        things.get(Thing(1), size=2)
    for wrong in (3, None, len, int):
        with pytest.raises(TypeError, match="A thing must be a name, a configuration or a Thing"):
            things.get(wrong)
    things.register("half", lambda of: of / 2)
    with pytest.raises(ValueError, match=r"Thing 'half' cannot be made from these options\. Received: {'of': 'a'} \("):
        things.get("half", of="a")
    with pytest.raises(TypeError, match=r"the thing 'half' made something else\. Received: 2.0 of type float\. Exp"):
        things.get("half", of=4)


def test_register(things):
    @things.register("mine")
    def make(size=1):
        return Thing(size, "mine")

    assert things.get("mine").color == "mine" and things.register("mine", make) is make
    with pytest.raises(ValueError, match=r"taken\. Received: 'mine', which belongs to .*make\. Expected: a name that"):
        things.register("mine", Thing)
    with pytest.raises(ValueError, match=r"taken\. Received: 'blue', which belongs to .*Thing\."):
        things.register("blue", lambda: None)
    with pytest.raises(TypeError, match=r"not callable\. Received: 3 for 'three'"):
        things.register("three", 3)


def test_a_cell_that_runs_again_replaces_its_registration(things):
    for size in (1, 2):

        @things.register("mine")
        def make(size=size):
            return Thing(size)

    assert things.get("mine").size == 2
    things.register("one", lambda: Thing(1))
    with pytest.raises(ValueError, match="taken"):
        things.register("one", lambda: Thing(2))


@pytest.mark.parametrize("name", ["", "Mine", "with space", "a/b", "a.b", "-a", None, 3])
def test_names_are_lower_case(things, name):
    with pytest.raises(ValueError, match=r"The name of a thing is wrong\. Received: .* Expected: text in lower case"):
        things.register(name, Thing)


def _as_json(config):
    return json.loads(json.dumps(config))


def test_configurations_make_the_same():
    loss = losses.deserialize(_as_json(losses.serialize(losses.get("c1", positive_margin=0.2, miner="hard"))))
    assert (type(loss).__name__, loss.distance, loss.positive_margin) == ("ContrastiveLoss", "cosine", 0.2)
    assert type(loss.miner) is miners.HardMiner
    miner = miners.deserialize(_as_json(miners.serialize("semi_hard")))
    assert type(miner) is miners.SemiHardMiner
    layer = pooling.deserialize(_as_json(pooling.serialize(pooling.get("gsp", prototypes=3, ratio=0.5))))
    assert (layer.prototypes, layer.ratio) == (3, 0.5)
    backbone = backbones.get("resnet20", (16, 16, 1))
    assert backbones.deserialize(_as_json(backbones.serialize(backbone))).count_params() == backbone.count_params()
    digits = data.get("digits")
    config = _as_json(data.serialize(digits))
    assert config == {"class_name": "digits", "config": {}}
    np.testing.assert_array_equal(data.deserialize(config).images, digits.images)
    assert data.serialize("digits") == config and data.get(digits) is digits


def test_short_configurations():
    assert losses.get({"class_name": "c2", "config": {"negative_margin": 0.7}}).negative_margin == 0.7
    assert losses.deserialize({"class_name": "ContrastiveLoss"}).power == 1
    with pytest.raises(ValueError, match="does not take these options. Received: 'negative_margn'"):
        losses.get({"class_name": "c2", "config": {"negative_margn": 0.7}})


def test_wrong_configurations():
    with pytest.raises(ValueError, match="has no configuration"):
        data.serialize(data.LabeledImages(np.zeros((2, 4, 4, 1), "uint8"), [0, 1], "ab"))
    with pytest.raises(TypeError, match=r"Received: 'c2' of type str\. Expected: a mapping"):
        losses.deserialize("c2")
    with pytest.raises(TypeError, match="A loss must be a name, a configuration or a Loss"):
        losses.deserialize(miners.serialize("hard"))
    wrong = {**losses.serialize("c2"), "module": "no_such_module", "class_name": "Nothing", "registered_name": "x>Y"}
    with pytest.raises(ValueError, match="cannot be read: .*Received: 'Nothing'"):
        losses.deserialize(wrong)


def test_own_class():
    @losses.register("far")
    class FarLoss(losses.MetricLoss):
        def __init__(self, scale=1.0, name="far", **kwargs):
            super().__init__(name, **kwargs)
            self.scale = scale

        def compare(self, pairs):
            return self.scale * tf.reduce_sum(tf.square(pairs.embeddings), axis=1)

    loss = losses.get("far", scale=2.0)
    np.testing.assert_allclose(loss.call([0, 0], [[1.0], [2.0]]), [2.0, 8.0])
    assert keras.saving.get_registered_name(FarLoss) == f"{__name__.partition('.')[0]}>FarLoss"
    assert losses.deserialize(_as_json(losses.serialize(loss))).scale == 2.0
    assert losses.get("FarLoss", scale=3.0).scale == 3.0 and "far" in losses.names()
