"""MetricModel and CCPModel with the loss of embeddings expressed by prototypes of other classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, losses, models

CLASSES = 4


def make_model(kind=models.MetricModel, references=None, normalization="l2", ratio=1.0, attributes=True, **options):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 6, 1))
    backbone = keras.Model(inputs, keras.layers.Conv2D(5, 3, activation="relu")(inputs))
    pooling = layers.GeneralizedSumPooling(6, ratio, return_attributes=attributes, name="pooling")
    embedder = models.build_embedder(backbone, pooling, embedding_size=3, normalization=normalization)
    options = {"cross_batch": layers.CrossBatchPrototypes(0.1), "cross_batch_weight": 0.2, **options}
    model = kind(embedder, references, **options)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", run_eagerly=True)
    return model


@pytest.fixture
def batch():
    return np.random.default_rng(0).random((12, 6, 6, 1)).astype("float32"), np.repeat(np.arange(CLASSES), 3)


def zero_shot():
    return layers.ZeroShotPrediction(CLASSES, 4, initializer=keras.initializers.RandomNormal(seed=1))


@pytest.mark.parametrize(
    ("normalization", "with_zero_shot", "with_proxies"),
    [
        ("clip", True, False),
        pytest.param("l2", False, False, marks=pytest.mark.integration),
        pytest.param(None, False, True, marks=pytest.mark.integration),
    ],
)
def test_a_step_equals_one_by_hand(batch, normalization, with_zero_shot, with_proxies):
    def make():
        options = {"zero_shot": zero_shot(), "zero_shot_weight": 0.3} if with_zero_shot else {}
        start = keras.initializers.RandomNormal(seed=2)
        references = layers.ClassProxies(CLASSES, embedding_size=3, initializer=start) if with_proxies else None
        return make_model(references=references, normalization=normalization, **options)

    model, twin, (images, labels) = make(), make(), batch
    loss = losses.get("c2")

    def normalized(vectors):
        norms = tf.norm(vectors, axis=1, keepdims=True)
        return {"l2": vectors / norms, "clip": vectors / tf.maximum(norms, 1.0), None: vectors}[normalization]

    def compared(embeddings):
        return loss.against(labels, embeddings, twin.proxies()) if with_proxies else loss.call(labels, embeddings)

    with tf.GradientTape() as tape:
        features = models.local_features(twin.embedder)(images, training=True)
        unnormalized, attributes = twin.embedder.get_layer("pooling")(features)
        expressed = twin.cross_batch(attributes, unnormalized, labels)[0]
        values = 0.2 * compared(normalized(expressed))
        if with_zero_shot:
            values += 0.3 * twin.zero_shot(attributes, tf.constant(labels))
        values += (0.5 if with_zero_shot else 0.8) * compared(normalized(unnormalized))
        value = tf.reduce_mean(values)
    variables = twin.trainable_variables
    gradients = tape.gradient(value, variables)
    history = model.fit(images, labels, batch_size=12, shuffle=False, verbose=0)
    assert history.history["loss"][0] == pytest.approx(float(value), rel=1e-4)
    for variable, gradient, start in zip(model.trainable_variables, gradients, variables):
        expected = start - 0.1 * tf.convert_to_tensor(gradient)
        np.testing.assert_allclose(tf.convert_to_tensor(variable), expected, atol=1e-4)


def test_one_class_leaves_the_loss_alone(batch):
    images, labels = batch[0], np.zeros(12, int)
    model, plain = make_model(), make_model(cross_batch=None)
    found = [each.train_on_batch(images, labels) for each in (model, plain)]
    assert found[0] == pytest.approx(0.8 * found[1], rel=1e-5)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


@pytest.mark.integration
def test_weight_0_is_plain_training(batch):
    model, plain = make_model(cross_batch_weight=0.0), make_model(cross_batch=None)
    for each in (model, plain):
        each.fit(*batch, batch_size=12, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(model.embedder.get_weights(), plain.embedder.get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_round_trip_goes_on_alike(batch, tmp_path):
    model = make_model()
    model.fit(*batch, batch_size=12, shuffle=False, verbose=0)
    assert len(model.weights) == len(make_model(cross_batch=None).weights)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.cross_batch_weight == 0.2 and again.cross_batch.ridge == 0.1
    fits = [each.fit(*batch, batch_size=12, epochs=2, shuffle=False, verbose=0).history for each in (model, again)]
    np.testing.assert_allclose(fits[0]["loss"], fits[1]["loss"], rtol=1e-5)


@pytest.mark.integration
def test_with_ccp(batch):
    model = make_model(models.CCPModel, layers.ClassProxies(CLASSES, embedding_size=3))
    model.fit(*batch, batch_size=12, verbose=0)
    assert all(np.isfinite(weight).all() for weight in model.embedder.get_weights())


@pytest.mark.integration
def test_xla_agrees_with_eager(batch):
    model, eager = make_model(ratio=0.4), make_model(ratio=0.4)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", jit_compile=True)
    for each in (model, eager):
        each.fit(*batch, batch_size=12, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(model.embedder.get_weights(), eager.embedder.get_weights()):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_errors():
    proxies = layers.ClassProxies(CLASSES, embedding_size=3)
    with pytest.raises(ValueError, match="with cross-batch prototypes. Expected: .*no cross_batch"):
        make_model(references=proxies).compile(loss="c2", mixing=models.Mixup())
    with pytest.raises(ValueError, match="not return attributes.*Received: GeneralizedSumPooling"):
        make_model(attributes=False)
    with pytest.raises(ValueError, match="cross_batch_weight=1.5. Expected: 0 <= cross_batch_weight <= 1"):
        make_model(cross_batch_weight=1.5)
    with pytest.raises(ValueError, match="zero_shot_weight=0.9 and cross_batch_weight=0.2. Expected: a sum of at most"):
        make_model(zero_shot=zero_shot(), zero_shot_weight=0.9)
