"""Gradient checkpointing: the same gradients, and errors for layers that must not be computed twice."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, models
from tfdml._utils.keras_compat import tensorflow_variable
from tfdml.backbones.batch_normalization import Normalizer
from tfdml.models import checkpointing


def residual(frozen="statistics", name="backbone"):
    """Three residual blocks with frozen batch normalization."""
    keras.utils.set_random_seed(0)
    features = images = keras.Input((8, 8, 3))
    for block in range(3):
        inner = keras.layers.Conv2D(3, 3, padding="same", name=f"{name}_{block}_conv")(features)
        inner = Normalizer(0.9, frozen)(inner, f"{name}_{block}_norm")
        inner = keras.layers.ReLU()(inner)
        features = keras.layers.Add(name=f"{name}_{block}_add")([features, inner])
    return keras.Model(images, features, name=name)


def make_images():
    return np.random.default_rng(0).random((4, 8, 8, 3)).astype("float32")


def gradients(forward, embedder, mode):
    variables = [tensorflow_variable(variable) for variable in embedder.trainable_variables]

    def step(images):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(tf.sin(3.0 * forward(images)))
        return value, tape.gradient(value, variables)

    return (tf.function(step) if mode == "graph" else step)(tf.constant(make_images()))


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("input_range", [(0, 1), (0, 255)])
def test_gradients_are_those_without(input_range, mode):
    # With another range, the backbone is one layer of the embedder.
    embedder = models.build_embedder(residual(), "generalized_mean", 4, input_range=input_range)
    forward = checkpointing.checkpointed(embedder)
    value, found = gradients(forward, embedder, mode)
    expected_value, expected = gradients(lambda images: embedder(images, training=True), embedder, mode)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    for one, other in zip(found, expected):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_blocks_are_recomputed_in_the_backward_pass():
    calls = []

    class Count(keras.layers.Layer):
        def call(self, inputs):
            calls.append(self.name)
            return tf.identity(inputs)

    features = images = keras.Input((4,))
    for number in range(6):
        features = Count(name=f"count_{number}")(keras.layers.Dense(4)(features))
    model = keras.Model(images, features)
    segments = checkpointing._segments(model)
    assert 1 < len(segments) < 6
    forward = checkpointing.checkpointed(model)
    calls.clear()
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(forward(tf.ones((2, 4))))
    assert len(calls) == 6
    tape.gradient(value, [tensorflow_variable(variable) for variable in model.trainable_variables])
    # The second time, the last segment comes first.
    assert len(calls) == 12 and sorted(calls[:6]) == sorted(calls[6:]) and calls[6] != "count_0"


def test_cuts_of_a_residual_network():
    model = residual()
    cuts = checkpointing._cuts(model, checkpointing._nodes(model))
    # Nothing can be cut inside a block, whose input is still needed.
    names = [checkpointing.producer_of(cut.tensor)[0].name for cut in cuts]
    assert names == [f"backbone_{block}_add" for block in range(3)]


@pytest.mark.parametrize("name", ["pooling", "embedding"])
def test_the_embedder_stays_as_it_was(name, tmp_path):
    embedder = models.build_embedder(residual(), "generalized_mean", 4)
    before, weights = embedder.get_layer(name).output, embedder.count_params()
    checkpointing.checkpointed(embedder)
    assert embedder.get_layer(name).output is before and embedder.count_params() == weights
    assert models.local_features(embedder)(make_images()).shape == (4, 8, 8, 4)
    embedder.save(tmp_path / "embedder.keras")
    again = keras.models.load_model(tmp_path / "embedder.keras")
    np.testing.assert_allclose(again(make_images()), embedder(make_images()), atol=1e-6)


@pytest.mark.integration
def test_training_steps_and_files(tmp_path):
    results = []
    for checkpointed in (False, True):
        embedder = models.build_embedder(residual(), "gap", 4)
        proxies = layers.ClassProxies(2, embedding_size=4, initializer=keras.initializers.RandomNormal(seed=1))
        model = models.MetricModel(embedder, proxies)
        model.compile(keras.optimizers.SGD(0.1), "c2", gradient_checkpointing=checkpointed)
        results.append([model.train_on_batch(make_images(), np.array([0, 1, 0, 1])) for _ in range(2)])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").gradient_checkpointing is True


def with_layer(layer):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), layer, keras.layers.Dense(2)])


def flipping():
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.RandomFlip(), keras.layers.Flatten()])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: residual("none"), "moving statistics would be updated twice.*BatchNormalization 'backbone_0"),
        (lambda: with_layer(keras.layers.Dropout(0.5)), "random numbers would differ.*Received: Dropout"),
        (lambda: with_layer(keras.layers.GaussianNoise(0.5)), "Received: GaussianNoise"),
        (flipping, "random numbers would differ.*Received: RandomFlip"),
        (lambda: with_layer(keras.layers.ActivityRegularization(l2=0.1)), "Received: ActivityRegularization"),
        (lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), "form a single segment"),
    ],
)
def test_networks_that_cannot_be_checkpointed(make, message):
    with pytest.raises(ValueError, match=message):
        models.MetricModel(make()).compile("sgd", "c2", gradient_checkpointing=True)


def test_a_model_without_symbolic_tensors():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="one input and one output. Received: Own"):
        checkpointing.checkpointed(Own())


def test_attributes_are_not_checkpointed():
    model = models.MetricModel(with_layer(keras.layers.ReLU()))
    model.zero_shot = layers.ZeroShotPrediction(2, 2)
    with pytest.raises(ValueError, match="gradient_checkpointing=True with a zero-shot loss"):
        model.compile("sgd", "c2", gradient_checkpointing=True)
