"""build_embedder and its companions."""

import logging
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import backbones, layers, models
from tfdml.models import training_step
from tfdml.models.embedder import compiled_for_batches
from tfdml.ops import greedy_k_center, l2_clip


def small_backbone(shape=(12, 12, 1), channels=4):
    inputs = keras.Input(shape)
    return keras.Model(inputs, keras.layers.Conv2D(channels, 3, strides=2, activation="relu")(inputs))


def make_images(count=5, shape=(12, 12, 1)):
    return np.random.default_rng(0).random((count, *shape)).astype("float32")


def test_average_pooling_equals_a_dense_layer_after_it():
    backbone = small_backbone()
    embedder = models.build_embedder(backbone, "gap", embedding_size=6, normalization=None)
    kernel, bias = embedder.get_layer("embedding").get_weights()
    expected = np.asarray(backbone(make_images())).mean(axis=(1, 2)) @ kernel[0, 0] + bias
    np.testing.assert_allclose(embedder(make_images()), expected, atol=1e-6)


def test_a_dense_layer_after_the_pooling(tmp_path):
    backbone = small_backbone()
    embedder = models.build_embedder(backbone, "gap_gmp", 6, normalization=None, embed_before_pooling=False)
    kernel, bias = embedder.get_layer("embedding").get_weights()
    features = np.asarray(backbone(make_images()))
    expected = (features.mean(axis=(1, 2)) + features.max(axis=(1, 2))) @ kernel + bias
    np.testing.assert_allclose(embedder(make_images()), expected, atol=1e-5)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(again(make_images()), expected, atol=1e-5)


def test_prototypes_of_the_backbones_features_with_a_dense_layer_after_the_pooling():
    backbone = small_backbone()
    options = {"prototypes": 3, "return_attributes": True}
    embedder = models.build_embedder(backbone, "gsp", 6, pooling_options=options, embed_before_pooling=False)
    models.adapt_pooling(embedder, make_images(8), seed=0)
    assert [weight.shape for weight in embedder.get_layer("pooling").get_weights()] == [(3, backbone.output_shape[-1])]
    embeddings, attributes = models.with_attributes(embedder)(make_images())
    assert embeddings.shape == (5, 6) and attributes.shape == (5, 3)
    weights = models.pooling_maps(embedder, make_images())
    pooled = np.einsum("bhw,bhwc->bc", weights, np.asarray(backbone(make_images())))
    kernel, bias = embedder.get_layer("embedding").get_weights()
    expected = pooled @ kernel + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected, atol=1e-4)


def test_transport_of_projected_features_with_the_projection_after_the_pooling(tmp_path):
    backbone = small_backbone()
    options = {"prototypes": 3, "channels": 6, "return_attributes": True}
    embedder = models.build_embedder(
        backbone, "gsp_gmp", 6, pooling_options=options, embed_before_pooling=False, normalization=None
    )
    assert "embedding" not in [layer.name for layer in embedder.layers]
    models.adapt_pooling(embedder, make_images(8), seed=0)
    weights = {weight.name.split("/")[-1].split(":")[0]: weight for weight in embedder.get_layer("pooling").weights}
    kernel, prototypes = np.asarray(weights["kernel"]), np.asarray(weights["prototype_embeddings"])
    features = np.asarray(backbone(make_images()))
    assert prototypes.shape == (3, 6) and kernel.shape == (features.shape[-1], 6)
    shares = models.pooling_maps(embedder, make_images())
    pooled = (np.einsum("bhw,bhwc->bc", shares, features) + features.max(axis=(1, 2))) @ kernel
    np.testing.assert_allclose(embedder(make_images()), pooled, atol=1e-4)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(again(make_images()), pooled, atol=1e-4)
    # A warm-up trains the projection.
    held = training_step.frozen_variables(embedder)
    assert len(held) == len(embedder.trainable_variables) - 1 and all(one is not weights["kernel"] for one in held)


@pytest.mark.parametrize(
    ("pooling", "options", "embedding_size"), [("gsp", {}, 6), ("gsp_gem", {"embed_before_pooling": False}, 5)]
)
def test_a_projection_in_the_pooling_needs_its_place(pooling, options, embedding_size):
    with pytest.raises(ValueError, match=r"projects features itself. Received: Generalized\w+\(channels=6\) with"):
        models.build_embedder(small_backbone(), pooling, embedding_size, pooling_options={"channels": 6}, **options)


def test_adapt_to_pooled_features():
    embedder = models.build_embedder(small_backbone(), "gsp", 6, pooling_options={"prototypes": 3})
    models.adapt_pooling(embedder, make_images(7), pooled=True, seed=0)
    features = np.asarray(models.local_features(embedder)(make_images(7))).mean(axis=(1, 2))
    features /= np.maximum(1.0, np.linalg.norm(features, axis=1, keepdims=True))
    prototypes = np.asarray(embedder.get_layer("pooling").prototype_embeddings)
    distances = np.linalg.norm(prototypes[:, None] - features, axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-6)
    between = np.linalg.norm(prototypes[:, None] - prototypes, axis=-1)[~np.eye(3, dtype=bool)]
    assert distances.min(axis=0).max() <= between.min() + 1e-6


def test_errors_of_pooled_features():
    embedder = models.build_embedder(small_backbone(), "gsp", 6, pooling_options={"prototypes": 3, "kernel_size": 3})
    with pytest.raises(ValueError, match=r"no neighborhood. Received: pooled=True .*\(kernel_size=3\)"):
        models.adapt_pooling(embedder, make_images(7), pooled=True)
    embedder = models.build_embedder(small_backbone(), "gsp", 6, pooling_options={"prototypes": 3})
    with pytest.raises(ValueError, match="too few distinct local features. Received: 2"):
        models.adapt_pooling(embedder, make_images(2), pooled=True)


@pytest.mark.parametrize(("normalization", "largest"), [("l2", 1.0), ("clip", 1.0), (None, np.inf)])
@pytest.mark.parametrize("pooling", ["gap", "gsp"])
def test_structure_and_norms(pooling, normalization, largest):
    options = {"prototypes": 3} if pooling == "gsp" else None
    embedder = models.build_embedder(small_backbone(), pooling, 6, normalization, pooling_options=options)
    names = [layer.name for layer in embedder.layers]
    assert {"embedding", "pooling"} <= set(names)
    assert ("normalization" in names) == (normalization is not None)
    norms = np.linalg.norm(embedder(make_images() * 50), axis=1)
    assert (norms <= largest + 1e-5).all()
    if normalization == "l2":
        np.testing.assert_allclose(norms, 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["small", pytest.param("resnet20v2", marks=pytest.mark.integration)])
def test_round_trip(name, tmp_path):
    shape, options = (16, 16, 1), {"prototypes": 4}
    backbone = small_backbone(shape) if name == "small" else name
    embedder = models.build_embedder(backbone, "gsp", 8, "clip", input_shape=shape, pooling_options=options)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.saving.load_model(tmp_path / "embedder.keras", safe_mode=True)
    np.testing.assert_allclose(again(make_images(3, shape)), embedder(make_images(3, shape)), atol=1e-6)


def test_backbone_by_name():
    embedder = models.build_embedder("resnet20", "gap", 8, input_shape=(16, 16, 3))
    assert embedder.input_shape == (None, 16, 16, 3) and embedder.output_shape == (None, 8)
    assert embedder.count_params() == backbones.get("resnet20", (16, 16, 3)).count_params() + 65 * 8


def test_unknown_spatial_size():
    embedder = models.build_embedder(small_backbone((None, None, 1)), "gsp", 6, pooling_options={"prototypes": 3})
    assert embedder(make_images(2, (9, 14, 1))).shape == (2, 6)
    assert models.pooling_maps(embedder, make_images(2, (9, 14, 1))).shape == (2, 4, 6)


def test_pooling_maps_give_the_embedding():
    embedder = models.build_embedder(small_backbone(), "gsp", 6, None, pooling_options={"prototypes": 3})
    maps = models.pooling_maps(embedder, make_images())
    features = np.asarray(models.local_features(embedder)(make_images()))
    np.testing.assert_allclose(maps.sum(axis=(1, 2)), 1.0, atol=1e-5)
    np.testing.assert_allclose((maps[..., None] * features).sum(axis=(1, 2)), embedder(make_images()), atol=1e-5)
    uniform = models.pooling_maps(models.build_embedder(small_backbone(), "gap", 6), make_images())
    np.testing.assert_allclose(uniform, 1 / 25)


def test_adapt_takes_k_centers_of_the_local_features():
    embedder = models.build_embedder(small_backbone(), "gsp", 6, pooling_options={"prototypes": 3})
    features = np.asarray(l2_clip(models.local_features(embedder)(make_images()))).reshape(-1, 6)
    models.adapt_pooling(embedder, make_images())
    (prototypes,) = embedder.get_layer("pooling").get_weights()
    # Each prototype is a feature, and they cover as well as k-center from its own first choice does.
    distances = np.linalg.norm(features[:, None] - prototypes[None], axis=-1)
    assert distances.min(axis=0).max() < 1e-5
    first = features[distances[:, 0].argmin()]
    order = np.concatenate([[first], features])
    chosen = order[greedy_k_center(order, 3).numpy()]
    radius = np.linalg.norm(features[:, None] - chosen[None], axis=-1).min(axis=1).max()
    assert distances.min(axis=1).max() == pytest.approx(radius, abs=1e-5)


def test_settling_gives_the_statistics_of_the_data():
    inputs = keras.Input((12, 12, 1))
    norm = keras.layers.BatchNormalization(momentum=0.5)
    features = norm(keras.layers.Conv2D(4, 3, use_bias=False)(inputs))
    embedder = models.build_embedder(keras.Model(inputs, features), "gap", 6)
    images = make_images(8) * 3 + 1
    before = [np.array(weight) for weight in embedder.trainable_variables]
    convolved = np.asarray(keras.Model(inputs, norm.input)(images))
    models.calibrate_batch_norm(embedder, tf.data.Dataset.from_tensors(images).repeat(30))
    np.testing.assert_allclose(norm.moving_mean, convolved.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, convolved.var(axis=(0, 1, 2)), rtol=1e-2)
    for weight, same in zip(embedder.trainable_variables, before):
        np.testing.assert_array_equal(weight, same)


def test_embed_arrays_and_data_sets():
    embedder = models.build_embedder(small_backbone(), "gap", 6)
    images, labels = make_images(7), np.arange(7)
    expected = np.asarray(embedder(images))
    np.testing.assert_allclose(models.embed(embedder, images, batch_size=3), expected, atol=1e-6)
    embeddings, got = models.embed(embedder, tf.data.Dataset.from_tensor_slices((images, labels)).batch(2))
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    np.testing.assert_array_equal(got, labels)


class CountsTraces(keras.layers.Layer):
    """Counts how often a graph is made of it."""

    count = 0

    def call(self, inputs):
        self.count += 1
        return inputs


def test_a_network_is_traced_once_whatever_the_size_of_the_last_batch():
    layer, traces = CountsTraces(), []
    embedder = keras.Sequential([keras.Input((3,)), layer])
    points = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")
    before = layer.count
    np.testing.assert_array_equal(models.embed(embedder, points, batch_size=3), points)
    traces.append(layer.count - before)
    forward = models.inference_function(embedder)
    for size in (4, 7, 1):
        np.testing.assert_array_equal(forward(points[:size]), points[:size])
        np.testing.assert_array_equal(forward(tf.constant(points[:size])), points[:size])
    traces.append(layer.count - before - traces[0])
    assert traces == [1, 1] and forward.experimental_get_tracing_count() == 1


def test_functions_of_dicts_and_of_known_sizes():
    calls = []

    def total(batch):
        calls.append(1)
        return batch["a"] + batch["b"]

    forward = compiled_for_batches(total)
    for size in (3, 2, 5):
        np.testing.assert_array_equal(forward({"a": np.ones((size, 2)), "b": tf.ones((size, 2), tf.float64)}), 2.0)
    assert len(calls) == 1
    # This one cannot be traced for any size.
    flat = compiled_for_batches(lambda images: tf.reshape(images, (images.shape[0] * 2,)), may_need_sizes=True)
    for _ in range(2):
        assert flat(np.zeros((3, 2), "float32")).shape == (6,)


def test_each_network_may_be_traced(caplog, monkeypatch):
    """TensorFlow warns of five traces of one function. These are traces of six functions."""
    monkeypatch.setattr(logging.getLogger("tensorflow"), "handlers", [caplog.handler])
    points = np.zeros((2, 3), "float32")
    for _ in range(6):
        models.embed(keras.Sequential([keras.Input((3,)), keras.layers.Activation("relu")]), points)
    assert "retracing" not in caplog.text


def test_images_of_other_sizes_share_a_graph():
    embedder = keras.Sequential([keras.Input((None, None, 1)), keras.layers.GlobalAveragePooling2D()])
    forward = models.inference_function(embedder)
    for size in (2, 3, 4, 5):
        np.testing.assert_allclose(forward(np.full((2, size, size, 1), size, "float32")), [[size], [size]])
    assert forward.experimental_get_tracing_count() == 2


def test_a_graph_does_not_accept_images_of_another_size():
    """The second shape relaxes a graph, which would then accept any."""
    embedder = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.GlobalAveragePooling2D()])
    forward = models.inference_function(embedder)
    forward(np.zeros((2, 4, 4, 1), "float32"))
    with pytest.raises(ValueError, match=r"Received: a batch of shape \(1, 5, 5, 1\)"):
        forward(np.zeros((1, 5, 5, 1), "float32"))


def test_images_in_bytes_are_warned_about():
    """Floats in 0–255, as from keras.utils.image_dataset_from_directory."""
    embedder = models.build_embedder(small_backbone(), embedding_size=4, input_range=(-1, 1))
    images = 255 * make_images()
    model = models.MetricModel(embedder)
    model.compile("sgd", "c2", run_eagerly=True)
    for use in (lambda: models.embed(embedder, images), lambda: model.fit(images, np.zeros(5, int), verbose=0)):
        with pytest.warns(UserWarning, match="in 0–255, but the embedder expects 0–1. Received: values up to 25"):
            use()
    of_bytes = keras.Sequential([keras.Input((12, 12, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        models.embed(embedder, images / 255)
        models.embed(of_bytes, images)


def test_layers_in_place_of_names():
    embedder = models.build_embedder(
        small_backbone(), keras.layers.GlobalMaxPooling2D(name="pooling"), 6, layers.L2Clip(0.5, name="normalization")
    )
    assert np.linalg.norm(embedder(make_images() * 50), axis=1).max() <= 0.5 + 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(backbone="resnet20"), "needs an input_shape"),
        (dict(pooling="median"), "Unknown pooling. Received: 'median'"),
        (dict(normalization="l1"), "Unknown normalization"),
        (dict(embedding_size=0), "embedding_size=0"),
        (dict(pooling=keras.layers.GlobalMaxPooling2D(), pooling_options={"a": 1}), "apply only to a pooling given by"),
        (dict(backbone=keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])), "must return a feature map"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        models.build_embedder(**{"backbone": small_backbone(), **options})


def test_models_without_a_pooling_layer():
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no layer named 'pooling'"):
        models.pooling_maps(plain, np.zeros((1, 4), "float32"))
    with pytest.raises(ValueError, match="no prototypes to adapt"):
        models.adapt_pooling(models.build_embedder(small_backbone(), "gap", 6), make_images())
    with pytest.raises(ValueError, match="nothing to embed"):
        models.embed(plain, np.zeros((0, 4), "float32"))
