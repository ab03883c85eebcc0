"""Embedders on backbones that give tokens."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdml
from tfdml import data, layers, models
from tfdml.layers import pooling as poolings

SHAPE = (12, 20, 3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).random((5, *SHAPE)).astype("float32")


def map_backbone(shape=SHAPE, channels=8):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Conv2D(channels, 4, strides=4, activation="relu")(inputs))


def token_backbone(maps, extra=0):
    """The same network, its map as a row of tokens; `extra` tokens, which are means of the map, come first."""
    height, width, channels = maps.output.shape[1:]
    tokens = keras.layers.Reshape((height * width, channels))(maps.output)
    if extra:
        mean = keras.layers.Reshape((1, channels))(keras.layers.GlobalAveragePooling2D()(maps.output))
        tokens = keras.layers.Concatenate(axis=1)([mean] * extra + [tokens])
    return keras.Model(maps.input, tokens)


def options_of(pooling):
    """Options that make a pooling small."""
    accepted = poolings.get(pooling).get_config()
    return {"prototypes": 3} if "prototypes" in accepted else None


@pytest.mark.parametrize("pooling", poolings.names())
def test_tokens_on_their_grid_are_a_map(images, pooling):
    maps = map_backbone()
    options = {"pooling_options": options_of(pooling)}
    of_maps = models.build_embedder(maps, pooling, 6, **options)
    # Extra tokens are dropped before the pooling, whatever it is.
    for extra in (0, 2) if pooling in ("gap", "gsp", "netvlad") else (2,):
        of_tokens = models.build_embedder(token_backbone(maps, extra), pooling, 6, token_grid=(3, 5), **options)
        for name in ("embedding", "pooling"):
            of_tokens.get_layer(name).set_weights(of_maps.get_layer(name).get_weights())
        np.testing.assert_array_equal(of_tokens(images), of_maps(images))


def test_a_square_grid_is_inferred(images):
    maps = map_backbone((12, 12, 3))
    of_maps = models.build_embedder(maps, "gsp", 6, pooling_options={"prototypes": 3})
    of_tokens = models.build_embedder(token_backbone(maps), "gsp", 6, pooling_options={"prototypes": 3})
    of_tokens.set_weights(of_maps.get_weights())
    np.testing.assert_array_equal(of_tokens(images[:, :, :12]), of_maps(images[:, :, :12]))
    np.testing.assert_array_equal(
        models.pooling_maps(of_tokens, images[:, :, :12]), models.pooling_maps(of_maps, images[:, :, :12])
    )


@pytest.mark.parametrize("pooling", ["gap", "gsp", "netvlad", "solar", "generalized_max"])
def test_bags_are_pooled_as_maps_are(images, pooling):
    maps = map_backbone()
    options = {"pooling_options": options_of(pooling)}
    of_maps = models.build_embedder(maps, pooling, 6, **options)
    of_bags = models.build_embedder(token_backbone(maps, 1), pooling, 6, skip_tokens=1, **options)
    kernel, bias = of_maps.get_layer("embedding").get_weights()
    of_bags.get_layer("embedding").set_weights([kernel[0, 0], bias])
    of_bags.get_layer("pooling").set_weights(of_maps.get_layer("pooling").get_weights())
    np.testing.assert_allclose(of_bags(images), of_maps(images), atol=1e-5)
    weights = models.pooling_maps(of_bags, images)
    assert weights.shape == (5, 15)
    np.testing.assert_allclose(weights, models.pooling_maps(of_maps, images).reshape(5, 15), atol=1e-5)


def test_class_token_alone(images):
    backbone = token_backbone(map_backbone(), 1)
    embedder = models.build_embedder(backbone, "cls", 6, None, token_grid=(3, 5))
    kernel, bias = embedder.get_layer("embedding").get_weights()
    np.testing.assert_allclose(embedder(images), np.asarray(backbone(images))[:, 0] @ kernel + bias, atol=1e-5)
    assert models.local_features(embedder).output_shape == (None, 16, 8)
    with pytest.raises(ValueError, match="does not weight the locations.*pooling='cls'"):
        models.pooling_maps(embedder, images)
    with pytest.raises(ValueError, match="no prototypes to adapt"):
        models.adapt_pooling(embedder, images)


@pytest.mark.parametrize("before", [True, False])
def test_class_token_and_pooled_patches(images, before, tmp_path):
    backbone = token_backbone(map_backbone(), 1)
    embedder = models.build_embedder(
        backbone, "cls+gsp", 6, None, pooling_options={"prototypes": 3, "return_attributes": True},
        token_grid=(3, 5), embed_before_pooling=before,
    )  # fmt: skip
    models.adapt_pooling(embedder, images)
    tokens = np.asarray(backbone(images))
    weights = models.pooling_maps(embedder, images)
    assert weights.shape == (5, 3, 5)
    local = np.asarray(models.local_features(embedder)(images))
    pooled = np.einsum("bhw,bhwc->bc", weights, local)
    kernel, bias = embedder.get_layer("embedding").get_weights()
    if before:
        class_kernel, class_bias = embedder.get_layer("class_embedding").get_weights()
        assert kernel.shape == (1, 1, 8, 3) and class_kernel.shape == (8, 3)
        wanted = np.concatenate([tokens[:, 0] @ class_kernel + class_bias, pooled], axis=1)
    else:
        wanted = np.concatenate([tokens[:, 0], pooled], axis=1) @ kernel + bias
    embeddings, attributes = models.with_attributes(embedder)(images)
    assert attributes.shape == (5, 3)
    np.testing.assert_allclose(embeddings, wanted, atol=1e-4)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(again(images), embeddings, atol=1e-6)


def test_a_layer_with_the_class_token(images):
    backbone = token_backbone(map_backbone(), 1)
    layer = layers.GeneralizedSumPooling(3, name="pooling")
    embedder = models.build_embedder(backbone, ["cls", layer], 6, token_grid=(3, 5))
    assert embedder.get_layer("pooling") is layer
    assert embedder(images).shape == (5, 6)
    # A layer of Keras that takes bags gets bags.
    bags = keras.layers.GlobalAveragePooling1D(name="pooling")
    assert models.build_embedder(backbone, bags, 6, token_grid=(3, 5))(images).shape == (5, 6)


def test_a_backbone_with_a_layer_of_a_name_that_embedders_use(images):
    inputs = keras.Input(SHAPE)
    features = keras.layers.Conv2D(4, 4, name="embedding")(inputs)
    embedder = models.build_embedder(keras.Model(inputs, features, name="inner"), "gap", 6)
    assert [layer.name for layer in embedder.layers][1:3] == ["inner", "embedding"]
    assert embedder(images).shape == (5, 6)


def test_unknown_number_of_tokens(images):
    inputs = keras.Input((None, None, 3))
    tokens = keras.layers.Reshape((-1, 4))(keras.layers.Conv2D(4, 4, strides=4)(inputs))
    backbone = keras.Model(inputs, tokens)
    embedder = models.build_embedder(backbone, "gsp", 6, pooling_options={"prototypes": 3})
    assert embedder(images).shape == (5, 6)
    assert models.pooling_maps(embedder, images).shape == (5, 15)


@pytest.mark.parametrize(
    ("extra", "options", "message"),
    [
        (0, {"pooling": "cbam", "skip_tokens": 0}, r"CBAMPooling pools feature maps.*token_grid=\(height, width\)"),
        (0, {"pooling": keras.layers.GlobalMaxPooling2D(), "skip_tokens": 0}, "GlobalMaxPooling2D pools feature maps"),
        (0, {"pooling": "cls", "token_grid": (3, 5)}, "no class token. Received: pooling=cls with skip_tokens=0"),
        (1, {"pooling": "cls", "pooling_options": {"power": 2}, "skip_tokens": 1}, "'cls' has no options"),
        (1, {"pooling": "cls+median", "skip_tokens": 1}, "Unknown pooling. Received: 'median'"),
        (1, {"pooling": ["gap", "gsp"], "skip_tokens": 1}, r"Expected: \['cls', layer\]"),
        (1, {"pooling": "cls+gap", "skip_tokens": 1, "embedding_size": 7}, "half of the embedding.*size=7"),
        (1, {"skip_tokens": 1, "token_grid": (2, 5)}, "do not fit their grid"),
    ],
)
def test_bad_input(extra, options, message):
    with pytest.raises(ValueError, match=message):
        models.build_embedder(token_backbone(map_backbone(), extra), **options)


def test_tokens_that_may_have_a_class_token():
    backbone = token_backbone(map_backbone((12, 12, 3)), 1)
    with pytest.raises(ValueError, match="10 tokens with skip_tokens=None.*may be skip_tokens=1 for 9 patches"):
        models.build_embedder(backbone)


def test_backbones_of_no_use():
    maps = map_backbone()
    for options in ({"pooling": "cls"}, {"skip_tokens": 1}, {"token_grid": (3, 5)}):
        with pytest.raises(ValueError, match="A feature map has no tokens"):
            models.build_embedder(maps, **options)
    several = keras.Model(maps.input, [maps.output, maps.output])
    with pytest.raises(ValueError, match=r"one output. Received: 1 inputs and 2 outputs.*backbone.outputs\[0\]"):
        models.build_embedder(several)
    vectors = keras.Model(maps.input, keras.layers.GlobalAveragePooling2D()(maps.output))
    with pytest.raises(ValueError, match=r"must return a feature map.*\(None, 8\). Remove its global pooling"):
        models.build_embedder(vectors)
    channels = keras.Input((4, 4, None))
    with pytest.raises(ValueError, match="number of channels must be known"):
        models.build_embedder(keras.Model(channels, keras.layers.ReLU()(channels)))

    class Own(keras.Model):
        pass

    with pytest.raises(ValueError, match="functional or sequential model. Received: Own"):
        models.build_embedder(Own())


@pytest.mark.parametrize(
    ("layer", "input_range"),
    [
        (keras.layers.Rescaling(1 / 255), (0, 1)),
        (keras.layers.Rescaling(2.0, -1.0), "caffe"),
        (tfdml.backbones.InputConvention(2.0, [1.0]), (0, 255)),
    ],
)
def test_an_input_range_that_the_first_layer_contradicts(layer, input_range):
    backbone = keras.Sequential([keras.Input(SHAPE), layer, keras.layers.Conv2D(4, 3)])
    with pytest.raises(ValueError, match=f"does not fit the first layer of the backbone, '{layer.name}'. Received"):
        models.build_embedder(backbone, input_range=input_range)


@pytest.mark.integration
def test_an_embedder_of_tokens_trains_and_serves(images, tmp_path):
    embedder = models.build_embedder(
        token_backbone(map_backbone(), 1), "cls+gsp", 6, token_grid=(3, 5),
        pooling_options={"prototypes": 3, "return_attributes": True},
    )  # fmt: skip
    labels = np.array([0, 0, 1, 1, 2])
    models.calibrate_batch_norm(embedder, images)
    proxies = layers.ClassProxies(3, embedding_size=6)
    zero_shot = layers.ZeroShotPrediction(3, 6)
    model = models.CCPModel(embedder, proxies, zero_shot=zero_shot)
    model.compile(optimizer=keras.optimizers.Adam(1e-2), loss="c2")
    before = [np.array(weight) for weight in embedder.trainable_weights]
    model.fit(tf.data.Dataset.from_tensors((images, labels)).repeat(2), verbose=0)
    for weight, old in zip(embedder.trainable_weights, before):
        assert np.abs(np.asarray(weight) - old).max() > 0, weight.name
    tfdml.export_saved_model(embedder, str(tmp_path / "served"), data.Preprocessing(SHAPE[:2], 3))
    served = tf.saved_model.load(str(tmp_path / "served"))
    result = served.signatures["serving_default"](images=tf.constant(images))["embedding"]
    np.testing.assert_allclose(result, embedder(images), atol=1e-5)
