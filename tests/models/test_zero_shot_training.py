"""MetricModel and CCPModel with the zero-shot prediction loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, losses, models

CLASSES = 4


def make_embedder(seed=0, **options):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 1))
    backbone = keras.Model(inputs, keras.layers.Conv2D(5, 3, activation="relu")(inputs))
    pooling = layers.GeneralizedSumPooling(6, **{"return_attributes": True, "name": "pooling", **options})
    return models.build_embedder(backbone, pooling, embedding_size=3)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.random((12, 6, 6, 1)).astype("float32"), np.repeat(np.arange(CLASSES), 3)


def make_model(weight=0.3, kind=models.MetricModel, references=None, **options):
    embedder = make_embedder(**options)
    zero_shot = layers.ZeroShotPrediction(CLASSES, 4, initializer=keras.initializers.RandomNormal(seed=1))
    model = kind(embedder, references, zero_shot=zero_shot, zero_shot_weight=weight)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", run_eagerly=True)
    return model


@pytest.mark.parametrize(
    ("ratio", "jit_compile"), [(0.4, False), (1.0, False), pytest.param(0.4, True, marks=pytest.mark.integration)]
)
def test_a_step_equals_one_by_hand(batch, ratio, jit_compile):
    model, twin = make_model(ratio=ratio), make_model(ratio=ratio)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", jit_compile=jit_compile)
    images, labels = batch
    with tf.GradientTape() as tape:
        embeddings, attributes = models.with_attributes(twin.embedder)(images, training=True)
        metric = losses.get("c2").call(labels, embeddings)
        value = tf.reduce_mean(0.7 * metric + 0.3 * twin.zero_shot(attributes, tf.constant(labels)))
    variables = twin.trainable_variables
    gradients = tape.gradient(value, variables)
    history = model.fit(images, labels, batch_size=12, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(float(value), rel=1e-5)
    for variable, gradient, start in zip(model.trainable_variables, gradients, variables):
        expected = start - 0.1 * tf.convert_to_tensor(gradient)
        np.testing.assert_allclose(tf.convert_to_tensor(variable), expected, atol=1e-5)


def test_weight_0_is_plain_training(batch):
    with_it, plain = make_model(0.0), models.MetricModel(make_embedder(return_attributes=False))
    plain.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", run_eagerly=True)
    for model in (with_it, plain):
        model.fit(*batch, batch_size=12, epochs=3, shuffle=False, verbose=0)
    for one, other in zip(with_it.embedder.get_weights(), plain.embedder.get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_round_trip_goes_on_alike(batch, tmp_path):
    model = make_model(references=layers.ClassProxies(CLASSES, embedding_size=3))
    model.compile(optimizer=keras.optimizers.Adam(0.01), reference_optimizer="adam", loss="c2", run_eagerly=True)
    model.fit(*batch, batch_size=12, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.zero_shot_weight == 0.3 and again.zero_shot.embedding_size == 4
    fits = [each.fit(*batch, batch_size=12, epochs=2, shuffle=False, verbose=0).history for each in (model, again)]
    np.testing.assert_allclose(fits[0]["loss"], fits[1]["loss"], rtol=1e-5)
    # The label embeddings are trained by the first optimizer, the proxies by the second.
    trained = [{variable.name for variable in variables} for _, variables in model.optimizer_groups()]
    assert len(model.optimizer_groups()[1][1]) == 1 and not trained[0] & trained[1]


def test_ccp_restores_the_label_embeddings_too(batch):
    model = make_model(kind=models.CCPModel, references=layers.ClassProxies(CLASSES, embedding_size=3))
    best = np.array(model.zero_shot.label_embeddings)
    model.best.copy_from(model.solution)
    model.fit(*batch, batch_size=12, verbose=0)
    assert np.any(np.array(model.zero_shot.label_embeddings) != best)
    model.best.restore(model.solution)
    np.testing.assert_array_equal(np.array(model.zero_shot.label_embeddings), best)


def test_errors():
    zero_shot = layers.ZeroShotPrediction(CLASSES, 4)
    with pytest.raises(ValueError, match="not return attributes.*Received: GeneralizedSumPooling"):
        models.MetricModel(make_embedder(return_attributes=False), zero_shot=zero_shot)
    with pytest.raises(ValueError, match="zero_shot_weight=1.5. Expected: 0 <= zero_shot_weight <= 1"):
        models.MetricModel(make_embedder(), zero_shot=zero_shot, zero_shot_weight=1.5)
