"""CCPModel: Algorithm 1's step against gradients by hand, its state in every kind of checkpoint."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import callbacks, layers, losses, models


def build(linear_embedder, optimizer=None, jit_compile=False, **options):
    proxies = layers.ClassProxies(4, 2, embedding_size=2, initializer=keras.initializers.RandomNormal(seed=1))
    model = models.CCPModel(linear_embedder(), proxies, **options)
    model.compile(optimizer=optimizer or keras.optimizers.SGD(0.1), loss="c1", jit_compile=jit_compile)
    return model


@pytest.mark.integration
@pytest.mark.parametrize(("in_batch_weight", "jit_compile"), [(0.0, False), (0.3, True)])
def test_steps_equal_algorithm_1_by_hand(blobs, linear_embedder, in_batch_weight, jit_compile):
    points, labels = blobs[0][:32], blobs[1][:32]
    # Steps of 0.1 multiply rounding by five each, until the hinge of one more pair is zero in one of the two.
    strength, rate = 0.7, 0.02
    model = build(
        linear_embedder, keras.optimizers.SGD(rate), jit_compile, projection_weight=strength,
        in_batch_weight=in_batch_weight,
    )  # fmt: skip
    kernel = tf.Variable(linear_embedder().weights[0])
    proxies = tf.Variable(model.proxies().embeddings)
    loss = losses.get("c1")
    for problem in range(2):
        anchor = kernel.numpy()
        for _ in range(3):
            with tf.GradientTape() as tape:
                embeddings = points @ kernel
                references = layers.References(proxies, np.repeat(np.arange(4), 2))
                value = tf.reduce_mean(
                    loss.against(labels, embeddings, references) + in_batch_weight * loss.call(labels, embeddings)
                )
            kernel_gradient, proxy_gradient = tape.gradient(value, [kernel, proxies])
            pull = strength * (kernel - anchor) if problem > 0 else 0.0
            kernel.assign_sub(rate * (kernel_gradient + pull))
            proxies.assign_sub(rate * proxy_gradient)
        model.fit(points, labels, batch_size=32, epochs=3, shuffle=False, verbose=0)
        np.testing.assert_allclose(model.embedder.weights[0], kernel, atol=1e-5)
        np.testing.assert_allclose(model.proxies().embeddings, proxies, atol=1e-5)
        next_proxies = np.random.default_rng(problem).normal(size=(4, 2, 2)).astype("float32")
        model.begin_projection(next_proxies)
        proxies.assign(next_proxies.reshape(8, 2))
    assert int(model.projection) == 2
    assert int(model.projection_start) == 6


def test_without_pull_it_is_plain_proxy_training(blobs, linear_embedder):
    ccp = build(linear_embedder, projection_weight=0.0)
    plain = models.MetricModel(linear_embedder(), layers.ClassProxies(4, 2, embedding_size=2))
    plain.proxies.assign(ccp.proxies.proxies)
    plain.compile(optimizer=keras.optimizers.SGD(0.1), loss="c1", jit_compile=False)
    for model in (ccp, plain):
        model.run_eagerly = True
        model.fit(*blobs, epochs=3, shuffle=False, verbose=0)
    np.testing.assert_array_equal(ccp.embedder.get_weights()[0], plain.embedder.get_weights()[0])
    np.testing.assert_array_equal(ccp.proxies().embeddings, plain.proxies().embeddings)


def test_a_memory_beside_the_proxies(blobs, linear_embedder):
    proxies, memory = layers.ClassProxies(4, 2, embedding_size=2), layers.CrossBatchMemory(48, 2)
    model = models.CCPModel(linear_embedder(), [memory, proxies])
    assert model.in_batch_weight == 1 and model.proxies is proxies
    assert models.CCPModel(linear_embedder(), proxies).in_batch_weight == 0
    optimizers = {"optimizer": keras.optimizers.SGD(0.01), "reference_optimizer": keras.optimizers.SGD(0.1)}
    model.compile(loss="c2", run_eagerly=True, **optimizers)
    model.fit(*blobs, epochs=1, verbose=0)
    assert int(memory.samples_seen) == 96
    remembered = np.array(memory.embeddings)
    model.begin_projection(np.ones((4, 2, 2), "float32"))
    np.testing.assert_array_equal(proxies.proxies, np.ones((4, 2, 2)))
    np.testing.assert_array_equal(memory.embeddings, remembered)
    assert len(model.solution) == 2


@pytest.mark.integration
def test_a_strong_pull_holds_the_weights(blobs, linear_embedder):
    moved = {}
    batches = tf.data.Dataset.from_tensor_slices(blobs).repeat().batch(32)
    for strength in (0.0, 1e4):
        model = build(linear_embedder, keras.optimizers.SGD(1e-4), projection_weight=strength)
        model.begin_projection(np.asarray(model.proxies.proxies))
        model.fit(batches, steps_per_epoch=300, verbose=0)
        moved[strength] = np.abs(model.embedder.get_weights()[0] - linear_embedder().get_weights()[0]).max()
    assert moved[1e4] < 0.05 * moved[0.0]


def test_frozen_weights_are_not_pulled(blobs):
    frozen, free = keras.layers.Dense(4, trainable=False), keras.layers.Dense(2)
    model = models.CCPModel(
        keras.Sequential([keras.Input((8,)), frozen, free]),
        layers.ClassProxies(4, embedding_size=2),
        projection_weight=1.0,
    )
    model.compile(optimizer="sgd", loss="c2")
    model.begin_projection(np.asarray(model.proxies.proxies))
    for weight in (*frozen.weights, *free.weights):
        weight.assign(weight + 1.0)
    size = sum(int(np.prod(weight.shape)) for weight in free.weights)
    assert float(model.projection_penalty()) == pytest.approx(0.5 * size, rel=1e-5)


@pytest.mark.parametrize("form", ["keras", "weights.h5", "checkpoint"])
def test_every_checkpoint_holds_the_state(blobs, linear_embedder, tmp_path, form):
    model = build(linear_embedder, projection_weight=0.5)
    model.fit(*blobs, epochs=1, verbose=0)
    model.best_value.assign(0.25)
    model.best.copy_from(model.solution)
    model.begin_projection(np.ones((4, 2, 2), "float32"))
    model.best_value.assign(0.5)
    model.wait.assign(2)
    model.fit(*blobs, epochs=1, verbose=0)
    if form == "keras":
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    else:
        again = build(linear_embedder, projection_weight=0.5)
        if form == "weights.h5":
            model.save_weights(tmp_path / "model.weights.h5")
            again.load_weights(tmp_path / "model.weights.h5")
        else:
            path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
            tf.train.Checkpoint(model=again).restore(path).expect_partial()
    assert again.get_config()["projection_weight"] == 0.5
    assert (int(again.projection), int(again.projection_start)) == (1, 3)
    assert (float(again.best_value), int(again.wait)) == (0.5, 2)
    for ours, theirs in zip(model.weights, again.weights):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert np.abs(np.asarray(again.anchor.copies[0]) - np.asarray(again.embedder.weights[0])).max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(projection_weight=-1.0), "projection_weight=-1.0"),
        (dict(in_batch_weight=-0.1), "in_batch_weight=-0.1"),
        (dict(projection_decay=1.5), "projection_decay=1.5. Expected: 0 <= projection_decay <= 1"),
        (dict(references=None), "exactly one ClassProxies layer. Received: references=None"),
        (dict(references=layers.CrossBatchMemory(4, 2)), "exactly one ClassProxies layer. Received: references="),
        (dict(references=[layers.ClassProxies(4, embedding_size=2)] * 2), "exactly one ClassProxies layer"),
    ],
)
def test_bad_input(linear_embedder, options, message):
    with pytest.raises(ValueError, match=message):
        references = layers.ClassProxies(4, embedding_size=2)
        models.CCPModel(**{"embedder": linear_embedder(), "references": references, **options})


def test_the_pull_decays_from_problem_to_problem(blobs, linear_embedder):
    model = build(linear_embedder, projection_weight=0.5, projection_decay=0.25)
    kernel = model.embedder.weights[0]
    expected = [0.0, 0.5, 0.125, 0.03125]
    for weight in expected:
        start = np.asarray(kernel).copy()
        kernel.assign(start + 2.0)
        # Before the first problem has ended the anchor is the first weights.
        assert float(model.projection_penalty()) == pytest.approx(weight / 2 * 4.0 * start.size, rel=1e-5)
        assert model.weight_change() == pytest.approx(2.0 * np.sqrt(start.size), rel=1e-5)
        model.begin_projection(np.asarray(model.proxies.proxies))
    assert models.CCPModel.from_config(model.get_config()).projection_decay == 0.25


def test_the_best_of_a_problem_and_of_all_problems(blobs, linear_embedder):
    model = build(linear_embedder)
    kernel, proxies = model.embedder.weights[0], np.zeros((4, 2, 2), "float32")
    # Problem by problem: validations, whether each is the problem's best, and what is kept of all after it.
    story = [([0.3, 0.5, 0.4], [True, True, False], (0.5, 0)), ([0.2, 0.45], [True, True], (0.5, 0)),
             ([float("nan"), 0.6, 0.6], [False, True, False], (0.6, 2))]  # fmt: skip
    moved = 0
    for values, best, (kept, problem) in story:
        model.wait.assign(0)
        for value, is_best in zip(values, best):
            moved += 1
            kernel.assign(np.full((8, 2), moved))
            assert model.take_validation(value) is is_best
            if is_best:
                assert np.asarray(model.best.copies[0])[0, 0] == moved and int(model.wait) == 0
        assert (float(model.incumbent_value), int(model.incumbent_projection)) == (np.float32(kept), problem)
        model.begin_projection(proxies)
    assert np.asarray(model.incumbent.copies[0])[0, 0] == 7


PAIR_LOSSES = [name for name in losses.names() if name not in ("in_batch_negatives", "pair_contrastive")]


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_every_loss_takes_part(blobs, linear_embedder, name):
    """A step against proxies in the second problem moves embedder and proxies and stays finite."""
    points, labels = blobs
    proxies = layers.ClassProxies(4, 2, embedding_size=2, initializer=keras.initializers.RandomNormal(seed=1))
    model = models.CCPModel(linear_embedder(), proxies, in_batch_weight=0.5)
    model.compile(optimizer=keras.optimizers.SGD(0.05), loss=name, run_eagerly=True)
    model.begin_projection(np.random.default_rng(0).normal(size=(4, 2, 2)).astype("float32"))
    before = [np.asarray(weight).copy() for weight in (*model.embedder.weights, proxies.proxies)]
    history = model.fit(points[:32], labels[:32], batch_size=16, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    for old, weight in zip(before, (*model.embedder.weights, proxies.proxies)):
        assert np.isfinite(np.asarray(weight)).all() and np.abs(np.asarray(weight) - old).max() > 0


@pytest.mark.integration
@pytest.mark.parametrize("per_class", [1, 3, 16])
def test_proxies_per_class(blobs, linear_embedder, per_class):
    proxies = layers.ClassProxies(4, per_class, embedding_size=2)
    model = models.CCPModel(linear_embedder(), proxies)
    model.compile(optimizer="sgd", loss="c2", run_eagerly=True)
    callback = callbacks.AlternatingProjections(tf.data.Dataset.from_tensor_slices(blobs).batch(32), patience=1)
    history = model.fit(*blobs, validation_data=blobs, epochs=4, verbose=0, callbacks=[callback]).history
    assert history["projection"][-1] >= 0 and np.isfinite(history["loss"]).all()
    assert history["proxy_diversity"][0] > 0 if per_class > 1 else set(history["proxy_diversity"]) == {0.0}
    assert np.isfinite(np.asarray(proxies.proxies)).all()
