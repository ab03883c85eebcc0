"""Networks do not depend on the global image data format of Keras: every layer states its own."""

import ast
import importlib
import pathlib
import re

import keras
import numpy as np
import pytest

from tfdml import backbones, models
from tfdml.layers import pooling as poolings

PACKAGE = pathlib.Path(__file__).parents[1] / "tfdml"
# Keras layers whose default is the global format.
DEPENDENT = re.compile(
    r"(Separable|Depthwise)?Conv[123]D(Transpose)?|(Global)?(Max|Average)Pool(ing)?[123]D|(ZeroPadding|Cropping|UpSampling)"
    r"[123]D|Flatten|Resizing|CenterCrop|Random\w+|SpatialDropout[123]D"
)
# Enough of each network to include every kind of layer.
SHORTENED = {
    "bn_inception": ("BLOCKS", ("3a", "3c", "5b")),
    "googlenet": ("BLOCKS", ("3a", "4a", "5a")),
    "resnet50": ("STAGES", ("conv2", "conv3")),
    "resnet20": ("BLOCKS_PER_STAGE", 1),
}


@pytest.fixture
def image_data_format():
    """Set the global data format of Keras for one test."""
    before = keras.config.image_data_format() if hasattr(keras, "config") else keras.backend.image_data_format()
    yield keras.backend.set_image_data_format
    keras.backend.set_image_data_format(before)


@pytest.fixture
def short_networks(monkeypatch):
    for name, (constant, kept) in SHORTENED.items():
        module = importlib.import_module(f"tfdml.backbones.{name}")
        if isinstance(kept, tuple):
            kept = {key: getattr(module, constant)[key] for key in kept}
        if name == "resnet50":
            kept = {stage: (width, 1) for stage, (width, _) in kept.items()}
        monkeypatch.setattr(module, constant, kept)


def calls_without_a_format(source):
    """Line numbers of calls of such layers that do not state a format."""
    for node in ast.walk(ast.parse(source)):
        is_attribute = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if is_attribute and ast.unparse(node.func.value).endswith("layers") and DEPENDENT.fullmatch(node.func.attr):
            if "data_format" not in {keyword.arg for keyword in node.keywords}:
                yield node.lineno


def test_every_layer_states_its_format():
    found = {str(path): list(calls_without_a_format(path.read_text())) for path in PACKAGE.rglob("*.py")}
    assert not {path: lines for path, lines in found.items() if lines}
    wrong = "x = keras.layers.Dense(2)\nx = keras.layers.Conv2D(2, 3)\nx = layers.Flatten(data_format='channels_last')"
    assert list(calls_without_a_format(wrong)) == [2]


@pytest.mark.parametrize("name", ["resnet20", "resnet20v2", "bn_inception", "googlenet", "resnet50"])
def test_backbones(name, image_data_format, short_networks):
    side = 64 if name == "bn_inception" else 32
    expected = backbones.get(name, (side, side, 3))
    image_data_format("channels_first")
    found = backbones.get(name, (side, side, 3))
    assert [layer.get_config() for layer in found.layers] == [layer.get_config() for layer in expected.layers]
    found.set_weights(expected.get_weights())
    images = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    np.testing.assert_array_equal(found(images), expected(images))


@pytest.mark.parametrize("name", [name for name in poolings.names() if "x" not in name])
def test_poolings(name, image_data_format):
    features = np.random.default_rng(0).random((2, 4, 5, 6), np.float32)
    results = []
    for data_format in ("channels_last", "channels_first"):
        image_data_format(data_format)
        keras.utils.set_random_seed(0)
        layer = poolings.get(name)
        pooled = layer(keras.Input((4, 5, 6)))
        layer.set_weights([np.random.default_rng(1).random(weight.shape) for weight in layer.get_weights()])
        results.append((tuple(pooled.shape), np.asarray(layer(features))))
    assert results[0][0] == results[1][0]
    np.testing.assert_array_equal(results[0][1], results[1][1])


@pytest.mark.parametrize("embed_before_pooling", [True, False])
def test_embedders(embed_before_pooling, image_data_format):
    outputs = []
    for data_format in ("channels_last", "channels_first"):
        image_data_format(data_format)
        keras.utils.set_random_seed(0)
        images = keras.Input((8, 6, 3))
        features = keras.layers.Conv2D(5, 3, data_format="channels_last")(images)
        embedder = models.build_embedder(
            keras.Model(images, features), embedding_size=4, embed_before_pooling=embed_before_pooling
        )
        outputs.append(np.asarray(embedder(np.random.default_rng(0).random((2, 8, 6, 3), np.float32))))
    assert outputs[0].shape == (2, 4)
    np.testing.assert_array_equal(*outputs)


def test_a_backbone_that_is_channels_first_is_refused():
    images = keras.Input((3, 8, 8))
    features = keras.layers.Conv2D(5, 3, data_format="channels_first", name="convolution")(images)
    features = keras.layers.ReLU()(features)
    with pytest.raises(ValueError, match=r"layer 'convolution'.*Expected: .*data_format='channels_last'"):
        models.build_embedder(keras.Model(images, features))
    channels_last = keras.layers.Permute((2, 3, 1))(features)
    assert models.build_embedder(keras.Model(images, channels_last), embedding_size=4).output_shape == (None, 4)
