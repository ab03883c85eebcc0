"""Average pooling at first, prototypes of learnt features then."""

import keras
import numpy as np
import pytest

from tfdml import callbacks, layers, models, ops


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.random((24, 6, 6, 1)).astype("float32"), np.tile(np.arange(4), 6)


def make_model(pooling="gsp", kind=models.MetricModel, references=None, rate=0.05, run_eagerly=True, **options):
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(5, 3, activation="relu")])
    options = options or ({"prototypes": 6, "ratio": 0.3, "smoothing": 20.0} if pooling == "gsp" else {})
    embedder = models.build_embedder(backbone, pooling, 3, pooling_options=options)
    model = kind(embedder, references)
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="triplet", run_eagerly=run_eagerly, jit_compile=False)
    return model


def fit(model, images, epochs, *more, **options):
    return model.fit(*images, batch_size=12, shuffle=False, epochs=epochs, verbose=0, callbacks=[*more], **options)


@pytest.mark.integration
def test_it_trains_by_the_average_first(images):
    model, average = make_model(run_eagerly=False), make_model("gap")
    prototypes = ("prototype_embeddings",)
    average.embedder.set_weights(
        [np.asarray(weight) for weight in model.embedder.weights if not weight.name.split(":")[0].endswith(prototypes)]
    )
    warmup = callbacks.PrototypeWarmup(images[0], epochs=2)
    losses = fit(model, images, 3, warmup).history["loss"]
    of_average = fit(average, images, 3).history["loss"]
    np.testing.assert_allclose(losses[:2], of_average[:2], rtol=1e-4)
    # The graph is another one from there on.
    assert losses[2] != pytest.approx(of_average[2], rel=1e-3)
    assert model.embedder.get_layer("pooling").ratio == 0.3


def test_prototypes_are_k_centers_of_the_learnt_features(images):
    model = make_model()
    fit(model, images, 2, callbacks.PrototypeWarmup(images[0], epochs=2, seed=3))
    pooling = model.embedder.get_layer("pooling")
    features = np.asarray(models.local_features(model.embedder)(images[0])).reshape(-1, 3)
    features = features / np.maximum(1.0, np.linalg.norm(features, axis=1, keepdims=True))
    distances = np.linalg.norm(np.asarray(pooling.prototype_embeddings)[:, None] - features, axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-6)
    # No feature is farther from the prototypes than the closest two of them are from each other: greedy k-center.
    between = np.asarray(ops.pairwise_distances(pooling.prototype_embeddings))[~np.eye(6, dtype=bool)]
    assert distances.min(axis=0).max() <= between.min() + 1e-6


@pytest.mark.integration
def test_evaluation_and_proxies_follow_the_present_pooling(images):
    """Neither validation nor the pool of the next proxies may go by the graph of the warm-up."""
    # A rate of 0: only the pooling changes.
    proxies = layers.ClassProxies(4, 1, embedding_size=3)
    model = make_model(kind=models.CCPModel, references=proxies, rate=0.0, run_eagerly=False)
    validation = {"validation_data": images}
    warmup = callbacks.PrototypeWarmup(images[0], epochs=1)
    # The first epoch is passed over; the third is the second without anything better.
    projections = callbacks.AlternatingProjections(_dataset(images), pool_size=1, patience=1, start_from_epoch=1)
    history = fit(model, images, 3, projections, warmup, **validation).history
    assert history["projection"] == [0, 0, 0] and int(model.projection) == 1
    assert history["val_loss"][1] == history["val_loss"][2] != history["val_loss"][0]
    firsts = images[0][[0, 1, 2, 3]]
    np.testing.assert_allclose(np.asarray(model.proxies.proxies)[:, 0], models.embed(model.embedder, firsts), atol=1e-6)


def _dataset(images):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(images).batch(12)


@pytest.mark.parametrize("done", [2, *(pytest.param(done, marks=pytest.mark.integration) for done in (1, 3))])
def test_resume_equals_no_interruption(images, tmp_path, done):
    def run(path, until, first=False):
        model = make_model()
        warmup = callbacks.PrototypeWarmup(images[0], epochs=2)
        stopping = callbacks.RetrievalEarlyStopping(5, start_from_epoch=2)
        backup = callbacks.TrainingBackup(path, callbacks=[stopping, warmup])
        fit(model, images, until, stopping, warmup, backup, validation_data=images,
            initial_epoch=backup.initial_epoch)  # fmt: skip
        return model, stopping

    whole, stopping = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", done)
    resumed, stopping_again = run(tmp_path / "parts", 4)
    for one, other in zip(whole.get_weights(), resumed.get_weights()):
        np.testing.assert_array_equal(one, other)
    assert stopping.best_epoch == stopping_again.best_epoch >= 2


def test_a_training_that_ends_during_the_warm_up_leaves_the_ratio(images):
    model = make_model()
    fit(model, images, 1, callbacks.PrototypeWarmup(images[0], epochs=5))
    assert model.embedder.get_layer("pooling").ratio == 0.3


@pytest.mark.parametrize("run_eagerly", [True, pytest.param(False, marks=pytest.mark.integration)])
def test_steps_of_the_average_then_centers_of_pooled_features(images, run_eagerly):
    """Two batches an epoch: the warm-up ends within the second one."""
    model, average = make_model(run_eagerly=run_eagerly), make_model("gap", run_eagerly=run_eagerly)
    average.embedder.set_weights(model.embedder.get_weights()[:-1])
    losses = {}
    for name, one in (("gsp", model), ("gap", average)):
        log = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs, name=name: losses.setdefault(name, []).append(logs["loss"])
        )
        warmup = [callbacks.PrototypeWarmup(images[0], steps=3, pooled=True)] if name == "gsp" else []
        fit(one, images, 2, log, *warmup)
    # The mean of the losses of an epoch so far: the fourth step is the first one with the prototypes.
    np.testing.assert_allclose(losses["gsp"][:3], losses["gap"][:3], rtol=1e-4)
    assert losses["gsp"][3] != pytest.approx(losses["gap"][3], rel=1e-4)
    assert model.embedder.get_layer("pooling").ratio == 0.3


def test_prototypes_are_pooled_features(images):
    model = make_model(rate=0.0)
    fit(model, images, 1, callbacks.PrototypeWarmup(images[0], steps=1, pooled=True))
    features = np.asarray(models.local_features(model.embedder)(images[0])).mean(axis=(1, 2))
    features = features / np.maximum(1.0, np.linalg.norm(features, axis=1, keepdims=True))
    prototypes = np.asarray(model.embedder.get_layer("pooling").prototype_embeddings)
    distances = np.linalg.norm(prototypes[:, None] - features, axis=-1)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-6)


def test_state_of_the_steps():
    warmup = callbacks.PrototypeWarmup(np.zeros((2, 6, 6, 1)), steps=5)
    assert warmup.get_state() == {"is_over": False, "steps_done": 0}
    warmup.set_state({"is_over": False, "steps_done": 4})
    assert warmup.get_state() == {"is_over": False, "steps_done": 4}
    # The state of an earlier version.
    warmup.set_state({"is_over": True})
    assert warmup.get_state() == {"is_over": True, "steps_done": 0}


def test_bad_input(images):
    with pytest.raises(ValueError, match="steps=0"):
        callbacks.PrototypeWarmup(images[0], steps=0)
    with pytest.raises(ValueError, match="epochs=0"):
        callbacks.PrototypeWarmup(images[0], epochs=0)
    warmup = callbacks.PrototypeWarmup(images[0])
    with pytest.raises(TypeError, match="has no prototypes. Received: GlobalAveragePooling"):
        fit(make_model("gap"), images, 1, warmup)
    plain = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(4)])
    plain.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(TypeError, match="needs a MetricModel. Received: Sequential"):
        fit(plain, images, 1, warmup)
