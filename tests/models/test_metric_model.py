"""MetricModel: the training step, evaluation over the whole set, serialisation."""

import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from learning_loss import LearningLoss

from tfdml import layers, losses, metrics, models
from tfdml.metrics import retrieval_metrics

# How Keras runs a step.
EAGER, GRAPH, XLA = {"run_eagerly": True}, {"jit_compile": False}, {"jit_compile": True}


def in_integration(*values):
    return pytest.param(*values, marks=pytest.mark.integration)


@pytest.mark.parametrize(("with_proxies", "mode"), [in_integration(False, GRAPH), (True, XLA), (True, EAGER)])
def test_steps_equal_gradient_descent_by_hand(blobs, linear_embedder, with_proxies, mode):
    points, labels = blobs[0][:32], blobs[1][:32]
    proxies = layers.ClassProxies(4, 2, embedding_size=2, initializer=keras.initializers.RandomNormal(seed=1))
    model = models.MetricModel(linear_embedder(), proxies if with_proxies else None)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c1", **mode)
    kernel, targets = tf.Variable(linear_embedder().weights[0]), tf.Variable(proxies().embeddings)
    loss, expected_losses = losses.get("c1"), []
    for _ in range(4):
        with tf.GradientTape() as tape:
            embeddings = points @ kernel
            references = layers.References(targets, np.repeat(np.arange(4), 2))
            values = (
                loss.against(labels, embeddings, references) if with_proxies else loss.call(labels, embeddings)
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


@pytest.mark.parametrize(
    ("with_proxies", "in_batch_weight", "mode"),
    [
        (True, 0.3, XLA), in_integration(True, None, GRAPH), (False, None, EAGER), (False, 0.3, EAGER),
        (True, 0.0, EAGER),
    ],
)  # fmt: skip
def test_steps_with_a_memory_equal_steps_by_hand(blobs, linear_embedder, with_proxies, in_batch_weight, mode):
    # A loss without a hinge: rounding of compiled code does not decide whether a pair counts.
    batches = [(blobs[0][start : start + 16], blobs[1][start : start + 16]) for start in range(0, 96, 16)]
    memory = layers.CrossBatchMemory(40, 2, warmup_steps=2)
    proxies = layers.ClassProxies(4, 2, embedding_size=2, initializer=keras.initializers.RandomNormal(seed=1))
    model = models.MetricModel(linear_embedder(), [proxies, memory] if with_proxies else memory, in_batch_weight)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss="supervised_contrastive", **mode)
    kernel, targets = tf.Variable(linear_embedder().weights[0]), tf.Variable(proxies().embeddings)
    weight = 1.0 if in_batch_weight is None else in_batch_weight
    loss, expected_losses, past = losses.get("supervised_contrastive"), [], []
    for step, (points, labels) in enumerate(batches):
        with tf.GradientTape() as tape:
            embeddings = points @ kernel
            values = weight * loss.call(labels, embeddings)
            if step >= 2:
                remembered = [np.concatenate(part)[-40:] for part in zip(*past)]
                values += loss.against(labels, embeddings, layers.References(*remembered))
            if with_proxies:
                references = layers.References(targets, np.repeat(np.arange(4), 2))
                values += loss.against(labels, embeddings, references)
            value = tf.reduce_mean(values)
        past.append((embeddings.numpy(), labels))
        variables = [kernel, targets] if with_proxies else [kernel]
        for variable, gradient in zip(variables, tape.gradient(value, variables, unconnected_gradients="zero")):
            variable.assign_sub(0.05 * gradient)
        expected_losses.append(float(value))
    batches = tf.data.Dataset.from_tensor_slices(blobs).batch(16)
    # Keras' own progress is a mean over the epoch: an epoch a batch gives the losses of the batches.
    history = model.fit(batches.repeat(), steps_per_epoch=1, epochs=6, verbose=0)
    np.testing.assert_allclose(history.history["loss"], expected_losses, rtol=1e-4, atol=1e-6)
    model.evaluate(*blobs, verbose=0)
    np.testing.assert_allclose(model.embedder.weights[0], kernel, atol=1e-4)
    np.testing.assert_allclose(proxies().embeddings, targets, atol=1e-4)
    # Validation puts nothing in.
    assert (int(memory.samples_seen), int(memory.batches_seen)) == (96, 6)


def test_what_is_compared_by_default(linear_embedder):
    proxies, memory = layers.ClassProxies(4, embedding_size=2), layers.CrossBatchMemory(8, 2)
    cases = [(None, 1, None), (proxies, 0, proxies), ([proxies], 0, proxies), (memory, 1, None)]
    for references, weight, found in [*cases, ((memory, proxies), 1, proxies)]:
        model = models.MetricModel(linear_embedder(), references)
        assert model.in_batch_weight == weight
        assert model.proxies is found
    assert models.MetricModel(linear_embedder(), memory).references == (memory,)


def test_what_a_loss_learns_is_trained_and_changes_with_the_loss(blobs, linear_embedder, tmp_path):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=LearningLoss(), **EAGER)
    assert len(model.trainable_variables) == 2 and model.loss_parameters is model.metric_loss.parameters
    with tf.GradientTape() as tape:
        target = tf.Variable(1.0)
        distances = tf.norm(model.embedder(blobs[0])[:, None] - model.embedder(blobs[0])[None], axis=-1)
        positive = (blobs[1][:, None] == blobs[1][None]) & ~np.eye(96, dtype=bool)
        value = tf.reduce_sum(tf.square(distances[positive] - target)) / 96
    model.fit(*blobs, batch_size=96, epochs=1, verbose=0)
    expected = 1.0 - 0.01 * float(tape.gradient(value, target))
    assert float(model.metric_loss.parameters.value) == pytest.approx(expected, abs=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert float(again.metric_loss.parameters.value) == float(model.metric_loss.parameters.value)
    model.compile(optimizer="sgd", loss=LearningLoss())
    assert len(model.trainable_variables) == 2
    model.compile(optimizer="sgd", loss="c2", **EAGER)
    assert len(model.trainable_variables) == 1 and model.loss_parameters is None
    model.train_on_batch(*blobs)


@pytest.mark.parametrize("form", ["keras", "weights.h5", "checkpoint"])
def test_every_checkpoint_holds_memory_proxies_and_what_the_loss_learns(blobs, linear_embedder, tmp_path, form):
    def build():
        references = [layers.ClassProxies(4, 2, embedding_size=2), layers.CrossBatchMemory(50, 2, warmup_steps=1)]
        model = models.MetricModel(linear_embedder(), references, in_batch_weight=0.5)
        model.compile(
            optimizer=keras.optimizers.Adam(0.01), loss=LearningLoss(),
            reference_optimizer=keras.optimizers.Adam(0.1, beta_2=0.99), weight_decay=0.01, **EAGER,
        )  # fmt: skip
        return model

    model = build()
    model.fit(*blobs, epochs=1, verbose=0)
    if form == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    else:
        again = build()
        if form == "weights.h5":
            model.save_weights(tmp_path / "model.weights.h5")
            again.load_weights(tmp_path / "model.weights.h5")
        else:
            path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
            tf.train.Checkpoint(model=again).restore(path).expect_partial()
    assert (again.in_batch_weight, again.weight_decay, again.warmup_steps) == (0.5, 0.01, 0)
    assert again.reference_optimizer.beta_2 == 0.99
    assert int(again.references[1].samples_seen) == 96
    assert len(again.weights) == len(model.weights)
    for ours, theirs in zip(model.weights, again.weights):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert int(again.reference_optimizer.iterations) == int(again.optimizer.iterations) == 3
    for fitted in (model, again):
        fitted.run_eagerly = True
        fitted.fit(*blobs, epochs=1, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_the_warm_up_is_saved(tmp_path):
    embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(2, name="embedding")])
    model = models.MetricModel(embedder)
    model.compile(optimizer="adam", loss="c2", warmup_steps=9)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").warmup_steps == 9


@pytest.mark.parametrize(("policy", "mode"), [("mixed_float16", GRAPH), ("mixed_bfloat16", EAGER)])
def test_memory_under_mixed_precision(blobs, policy, mode, dtype_policy):
    dtype_policy(policy)
    embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2), layers.L2Clip()])
    memory = layers.CrossBatchMemory(64, 2)
    model = models.MetricModel(embedder, [layers.ClassProxies(4, 2, embedding_size=2), memory])
    model.compile(keras.optimizers.SGD(0.01), "c2", reference_optimizer=keras.optimizers.SGD(0.1), **mode)
    history = model.fit(*blobs, epochs=6, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][-1] < history.history["loss"][1]
    assert memory().embeddings.dtype == tf.float32
    assert np.asarray(memory().valid).all()


def test_validation_logs_are_exact_and_over_the_whole_set(blobs, linear_embedder):
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2", **EAGER)
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
    model.compile(optimizer="sgd", loss="c2", **GRAPH)
    # The last batch is smaller.
    model.evaluate(points, labels, batch_size=40, verbose=0)
    model.embed_batch(points[:40])
    count = len(traces)
    for _ in range(3):
        model.fit(points, labels, batch_size=40, validation_data=(points, labels), verbose=0)
        model.embed_batch(points[:40])
    # The step of training is traced, once for each size of a batch.
    assert len(traces) <= count + 2
    count = len(traces)
    model.evaluate(points, labels, batch_size=40, verbose=0)
    model.fit(points, labels, batch_size=40, validation_data=(points, labels), verbose=0)
    assert len(traces) == count


def test_evaluation_does_not_round_as_other_batches_make_it(blobs, linear_embedder):
    """A graph that other shapes have relaxed can round otherwise; a resumed training has not seen these shapes."""
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2")
    for size in (7, 9, 11):
        model.embed_batch(points[:size])
    model.evaluate(points, labels, batch_size=48, verbose=0)
    model.embed_batch(points[:13])
    embed_batch, _ = model._evaluation_functions
    assert embed_batch is not model._inference_function and embed_batch.experimental_get_tracing_count() == 1


def test_evaluate_loss_is_the_mean_over_samples(blobs, linear_embedder):
    points, labels = blobs[0][:40], blobs[1][:40]
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2))
    model.compile(optimizer="sgd", loss="c1", **EAGER)
    weights = np.linspace(0, 2, 40)
    loss = losses.get("c1")
    embeddings = np.asarray(model.embedder(points))
    terms = np.concatenate([loss.call(labels[i : i + 16], embeddings[i : i + 16]) for i in (0, 16, 32)])
    result = model.evaluate(points, labels, batch_size=16, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx(terms.mean(), rel=1e-5)
    result = model.evaluate(points, labels, sample_weight=weights, batch_size=16, verbose=0, return_dict=True)
    assert result["loss"] == pytest.approx((weights * terms).mean(), rel=1e-5)


def test_queries_are_searched_for_in_the_gallery(blobs, linear_embedder):
    points, labels = blobs[0][:50], blobs[1][:50]
    is_query = np.arange(50) % 3 == 0
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="c2", geometry=True, **EAGER)
    batches = tf.data.Dataset.from_tensor_slices((points, {"label": labels, "is_query": is_query})).batch(16)
    found = model.evaluate(batches, verbose=0, return_dict=True)
    embeddings = np.asarray(model.embedder(points))
    expected = metrics.query_gallery_metrics(embeddings, labels, is_query)
    among_themselves = metrics.retrieval_metrics(embeddings, labels)
    assert found["map_at_r"] == pytest.approx(expected["map_at_r"]) != pytest.approx(among_themselves["map_at_r"])
    assert found["precision_at_1"] == pytest.approx(expected["precision_at_1"])
    history = model.fit(points, labels, batch_size=25, validation_data=batches, verbose=0).history
    assert history["val_map_at_r"] == pytest.approx([expected["map_at_r"]], abs=1e-6)


def test_learns_and_predicts(blobs, linear_embedder):
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss="c2", **GRAPH)
    before = model.evaluate(points, labels, verbose=0, return_dict=True)["map_at_r"]
    model.fit(points, labels, batch_size=32, epochs=25, verbose=0)
    assert model.evaluate(points, labels, verbose=0, return_dict=True)["map_at_r"] > before + 0.2
    np.testing.assert_allclose(model.predict(points, verbose=0), model.embedder(points), atol=1e-6)


@pytest.mark.parametrize(
    ("policy", "mode"), [in_integration("mixed_float16", GRAPH), ("mixed_bfloat16", EAGER)]
)
def test_mixed_precision(blobs, policy, mode, dtype_policy):
    dtype_policy(policy)
    embedder = keras.Sequential([keras.Input((8,)), keras.layers.Dense(2), layers.L2Clip()])
    model = models.MetricModel(embedder, layers.ClassProxies(4, 2, embedding_size=2))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="c2", **mode)
    before = embedder.get_weights()[0].copy()
    history = model.fit(*blobs, epochs=6, verbose=0, validation_data=blobs)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert np.abs(embedder.get_weights()[0] - before).max() > 0
    assert np.isfinite(history.history["val_map_at_r"]).all()


@pytest.mark.parametrize("with_proxies", [False, True])
def test_round_trip(blobs, linear_embedder, with_proxies, tmp_path):
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, 2, embedding_size=2) if with_proxies else None)
    model.compile(optimizer=keras.optimizers.Adam(0.01), loss=losses.get("c2", negative_margin=0.7), **EAGER)
    model.fit(*blobs, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    assert again.metric_loss.get_config() == model.metric_loss.get_config()
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)
    for fitted in (model, again):
        fitted.run_eagerly = True
        fitted.fit(*blobs, epochs=1, shuffle=False, verbose=0)
    for weight, other in zip(model.get_weights(), again.get_weights()):
        np.testing.assert_allclose(weight, other, atol=1e-6)


def test_losses_of_layers_count(blobs):
    dense = keras.layers.Dense(2, use_bias=False, kernel_regularizer=keras.regularizers.L2(10.0))
    model = models.MetricModel(keras.Sequential([keras.Input((8,)), dense]))
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="c2", **EAGER)
    kernel = dense.get_weights()[0]
    loss = model.train_on_batch(*blobs)
    metric = float(tf.reduce_mean(losses.get("c2").call(blobs[1], blobs[0] @ kernel)))
    assert float(np.ravel(loss)[0]) == pytest.approx(metric + 10.0 * np.sum(kernel**2), rel=1e-4)


def test_embeddings_that_are_not_finite_have_metrics_nan(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss="c2", **EAGER)
    model.embedder.set_weights([np.full((8, 2), np.nan)])
    result = model.evaluate(*blobs, verbose=0, return_dict=True)
    assert np.isnan(result["map_at_r"])


def test_errors(blobs, linear_embedder):
    model = models.MetricModel(linear_embedder(), layers.ClassProxies(4, embedding_size=2))
    with pytest.raises(ValueError, match="compares samples within a batch only"):
        model.compile(loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="computes retrieval metrics of the whole dataset"):
        model.compile(loss="c2", metrics=["accuracy"])
    model.compile(loss="c2", **EAGER)
    with pytest.raises(ValueError, match="without labels"):
        model.evaluate(tf.data.Dataset.from_tensor_slices(blobs[0]).batch(8), verbose=0)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        model.evaluate(tf.data.Dataset.from_tensor_slices(blobs).take(0).batch(8), verbose=0)
    with pytest.raises(TypeError, match="'surprise'"):
        model.evaluate(*blobs, surprise=1)
    with pytest.raises(ValueError, match="within a batch only.*ClassProxies, CrossBatchMemory"):
        references = [layers.ClassProxies(4, embedding_size=2), layers.CrossBatchMemory(8, 2)]
        models.MetricModel(linear_embedder(), references).compile(loss=keras.losses.MeanSquaredError())
    with pytest.raises(TypeError, match="a layer or a list of layers. Received: 'proxies'"):
        models.MetricModel(linear_embedder(), "proxies")
    with pytest.raises(ValueError, match="in_batch_weight=-1. Expected: in_batch_weight >= 0"):
        models.MetricModel(linear_embedder(), in_batch_weight=-1)
    with pytest.raises(ValueError, match="nothing to compare with"):
        models.MetricModel(linear_embedder(), in_batch_weight=0)
    model = models.MetricModel(linear_embedder(), layers.CrossBatchMemory(8, 3))
    model.compile(loss="c2", **EAGER)
    with pytest.raises(ValueError, match="differ in size"):
        model.fit(*blobs, verbose=0)


@pytest.mark.skipif(keras.__version__ >= "3" or sys.version_info >= (3, 12), reason="TensorFlow Addons needs Keras 2")
@pytest.mark.parametrize(
    "name", ["TripletSemiHardLoss", in_integration("TripletHardLoss"), in_integration("LiftedStructLoss")]
)
def test_losses_of_tensorflow_addons_train(blobs, linear_embedder, name):
    addons = pytest.importorskip("tensorflow_addons")
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=getattr(addons.losses, name)(), **EAGER)
    before = model.evaluate(*blobs, verbose=0, return_dict=True)["map_at_r"]
    model.fit(*blobs, batch_size=96, epochs=15, verbose=0)
    assert model.evaluate(*blobs, verbose=0, return_dict=True)["map_at_r"] > before


def test_geometry_of_a_validation(blobs, linear_embedder):
    points, labels = blobs
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=losses.get("triplet", margin=0.3), geometry=True, **EAGER)
    logs = model.evaluate(points, labels, verbose=0, return_dict=True)
    embeddings = points @ linear_embedder().get_weights()[0]
    for name, value in metrics.geometry_metrics(embeddings, labels).items():
        assert logs[name] == pytest.approx(value, rel=1e-5)
    largest, smallest = metrics.distance_range(embeddings, labels)
    assert logs["margin_slack"] == pytest.approx(largest - smallest - 0.3, rel=1e-5)
    history = model.fit(points, labels, epochs=1, verbose=0, validation_data=blobs).history
    logged = {"val_mean_covering_radius", "val_interclass_distance", "val_class_spread", "val_margin_slack"}
    assert logged <= set(history)
    model.compile(optimizer="sgd", loss="multi_similarity", geometry=True, **EAGER)
    assert "margin_slack" not in model.evaluate(points, labels, verbose=0, return_dict=True)
    model.embedder.set_weights([np.full((8, 2), np.nan)])
    nothing = model.evaluate(points, labels, verbose=0, return_dict=True)
    assert np.isnan(nothing["class_spread"])
    assert model.get_compile_config()["geometry"] is True


def test_margins_without_room_are_warned_about(blobs, linear_embedder):
    backbone = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3)])
    clipped = models.build_embedder(backbone, "gap", 4, "clip")
    with pytest.warns(UserWarning, match="l2 distance of 3 between classes.*allows at most 2. Received: TripletLoss"):
        models.MetricModel(clipped).compile(loss=losses.get("triplet", margin=3.0))
    with pytest.warns(UserWarning, match="squared_l2 distance of 4.5 .*at most 4"):
        loss = losses.get("contrastive", negative_margin=4.5, distance="squared_l2")
        models.MetricModel(clipped).compile(loss=loss)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        models.MetricModel(clipped).compile(loss=losses.get("triplet", margin=2.0))
        # Nothing is known of where a linear embedder ends.
        model = models.MetricModel(linear_embedder())
        model.compile(loss=losses.get("triplet", margin=300.0), geometry=True, **EAGER)
        for _ in range(2):
            model.evaluate(*blobs, verbose=0)
    with pytest.warns(UserWarning, match="No triplet of these samples .* require a difference of 300") as caught:
        logs = [model.evaluate(*blobs, verbose=0, return_dict=True) for _ in range(5)]
    assert len(caught) == 1 and logs[0]["margin_slack"] < 0


def test_boundaries_of_classes_in_training_and_evaluation(blobs, linear_embedder):
    """Validation has other classes, which have no boundary of their own; training must not."""
    points, labels = blobs
    loss = losses.MarginLoss(learn_beta=True, num_classes=4)
    model = models.MetricModel(linear_embedder())
    model.compile(optimizer="sgd", loss=loss, **EAGER)
    for unseen in (labels + 4, labels - 9):
        logs = model.fit(points, labels, validation_data=(points, unseen), batch_size=96, verbose=0).history
        assert np.isfinite(logs["val_loss"]).all() and np.isfinite(logs["loss"]).all()
        with pytest.raises(ValueError, match="Labels are out of range for MarginLoss"):
            model.fit(points, unseen, batch_size=96, verbose=0)
    model.compile(optimizer="sgd", loss=loss, **XLA)
    with pytest.raises(ValueError, match="Labels are out of range for MarginLoss"):
        model.fit(points, labels + 4, batch_size=96, verbose=0)
