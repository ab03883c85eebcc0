"""MetricModel: the training step, evaluation over the whole set, serialisation."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers, losses, models
from tfdml.metrics import retrieval_metrics


@pytest.mark.parametrize("with_proxies", [False, True])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_equal_gradient_descent_by_hand(blobs, linear_embedder, with_proxies, jit_compile):
    points, labels = blobs[0][:32], blobs[1][:32]
    proxies = layers.ClassProxies(4, 2, dim=2, initializer=keras.initializers.RandomNormal(seed=1))
    model = models.MetricModel(linear_embedder(), proxies if with_proxies else None)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c1", jit_compile=jit_compile)
    kernel, targets = tf.Variable(linear_embedder().weights[0]), tf.Variable(proxies().embeddings)
    loss, expected_losses = losses.get("c1"), []
    for _ in range(4):
        with tf.GradientTape() as tape:
            embeddings = points @ kernel
            references = layers.References(targets, np.repeat(np.arange(4), 2))
            values = (
                loss.against(embeddings, labels, references) if with_proxies else loss.call(labels, embeddings)
            )
            value = tf.reduce_mean(values)
        variables = [kernel, targets] if with_proxies else [kernel]
        for variable, gradient in zip(variables, tape.gradient(value, variables)):
            variable.assign_sub(0.1 * gradient)
        expected_losses.append(float(value))
    history = model.fit(points, labels, batch_size=32, epochs=4, shuffle=False, verbose=0)
    np.testing.assert_allclose(history.history["loss"], expected_losses, rtol=1e-4)
    np.testing.assert_allclose(model.embedder.weights[0], kernel, atol=1e-4)
    np.testing.assert_allclose(proxies().embeddings, targets, atol=1e-4)


def test_validation_logs_are_exact_and_over_the_whole_set(blobs, linear_embedder):
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2")
    seen = {}

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.update(logs)

    data = tf.data.Dataset.from_tensor_slices((points, labels)).batch(7)
    model.fit(points, labels, validation_data=data, epochs=2, verbose=0, callbacks=[Spy()])
    expected = retrieval_metrics(np.asarray(model.embedder(points)), labels)
    for name in ("map_at_r", "precision_at_1", "r_precision", "recall_at_4"):
        assert seen[f"val_{name}"] == pytest.approx(expected[name], abs=1e-9)
    result = model.evaluate(points, labels, batch_size=10, verbose=0, return_dict=True)
    assert result["map_at_r"] == pytest.approx(expected["map_at_r"], abs=1e-9)
    assert list(result.values()) == model.evaluate(points, labels, batch_size=10, verbose=0)


def test_evaluation_does_not_retrace(blobs, linear_embedder):
    points, labels = blobs
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs):
            traces.append(1)
            return inputs

    model = models.MetricModel(keras.Sequential([keras.Input((8,)), linear_embedder(), Counting()]))
    model.compile(optimizer="sgd", loss="c2")
    model.evaluate(points, labels, batch_size=32, verbose=0)
    count = len(traces)
    for _ in range(3):
        model.evaluate(points, labels, batch_size=32, verbose=0)
    assert len(traces) == count


def test_evaluate_loss_is_the_mean_over_samples(blobs, linear_embedder):
    points, labels = blobs[0][:40], blobs[1][:40]
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, dim=2))
    model.compile(optimizer="sgd", loss="c1")
    weights = np.linspace(0, 2, 40)
    loss = losses.get("c1")
    embeddings = np.asarray(model.embedder(points))
    terms = np.concatenate([loss.call(labels[i : i + 16], embeddings[i : i + 16]) for i in (0, 16, 32)])
    result = model.evaluate(points, labels, batch_size=16, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(terms.mean(), rel=1e-5)
    result = model.evaluate(points, labels, sample_weight=weights, batch_size=16, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx((weights * terms).mean(), rel=1e-5)


def test_learns_and_predicts(blobs, linear_embedder):
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss="c2")
    before = model.evaluate(points, labels, verbose=0, return_dict=True)["map_at_r"]
    model.fit(points, labels, batch_size=32, epochs=60, verbose=0)
    assert model.evaluate(points, labels, verbose=0, return_dict=True)["map_at_r"] > before + 0.2
    np.testing.assert_allclose(model.predict(points, verbose=0), model.embedder(points), atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(blobs, policy, dtype_policy):
    dtype_policy(policy)
    embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2), layers.L2Clip()])
    model = models.MetricModel(embedder, layers.ClassProxies(4, 2, dim=2))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2")
    before = embedder.get_weights()[0].copy()
    history = model.fit(*blobs, epochs=12, verbose=0, validation_data=blobs)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert np.abs(embedder.get_weights()[0] - before).max() > 0
    assert np.isfinite(history.history["val_map_at_r"]).all()


@pytest.mark.parametrize("with_proxies", [False, True])
def test_round_trip(blobs, linear_embedder, with_proxies, tmp_path):
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, 2, dim=2) if with_proxies else None)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=losses.get("c2", negative_margin=0.7))
    model.fit(*blobs, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert again.metric_loss.get_config() == model.metric_loss.get_config()
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)
    for fitted in (model, again):
        fitted.fit(*blobs, epochs=1, shuffle=False, verbose=0)
    for weight, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_losses_of_layers_count(blobs):
    dense = keras.layers.Dense(2, use_bias=False, kernel_regularizer=keras.regularizers.L2(10.0))
    model = models.MetricModel(keras.Sequential([keras.Input((8,)), dense]))
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="c2")
    kernel = dense.get_weights()[0]
    loss = model.train_on_batch(*blobs)
    metric = float(tf.reduce_mean(losses.get("c2").call(blobs[1], blobs[0] @ kernel)))
    assert float(np.ravel(loss)[0]) == pytest.approx(metric + 10.0 * np.sum(kernel**2), rel=1e-4)


def test_embeddings_that_are_not_finite_have_metrics_nan(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2")
    model.embedder.set_weights([np.full((8, 2), np.nan)])
    result = model.evaluate(*blobs, verbose=0, return_dict=True)
    assert np.isnan(result["map_at_r"])


def test_errors(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, dim=2))
    with pytest.raises(ValueError, match="Only losses of tfdml"):
        model.compile(loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="its own retrieval metrics"):
        model.compile(loss="c2", metrics=["accuracy"])
    model.compile(loss="c2")
    with pytest.raises(ValueError, match="without labels"):
        model.evaluate(tf.data.Dataset.from_tensor_slices(blobs[0]).batch(8), verbose=0)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        model.evaluate(tf.data.Dataset.from_tensor_slices(blobs).take(0).batch(8), verbose=0)
    with pytest.raises(TypeError, match="'surprise'"):
        model.evaluate(*blobs, surprise=1)


@pytest.mark.skipif(keras.__version__ >= "3" or sys.version_info >= (3, 12), reason="TensorFlow Addons needs Keras 2")
@pytest.mark.parametrize("name", ["TripletSemiHardLoss", "TripletHardLoss", "LiftedStructLoss"])
def test_losses_of_tensorflow_addons_train(blobs, linear_embedder, name):
    addons = pytest.importorskip("tensorflow_addons")
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.Adam(0.02), loss=getattr(addons.losses, name)())
    history = model.fit(*blobs, batch_size=32, epochs=20, verbose=0, validation_data=blobs)
    assert history.history["val_map_at_r"][-1] > history.history["val_map_at_r"][0]
