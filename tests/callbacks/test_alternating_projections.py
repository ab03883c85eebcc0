"""The outer loop: when a problem ends, what the next one starts from, what is refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from scripted_ccp import Scripted, build, dataset, k_center_loop

from tfdml import callbacks, models
from tfdml.metrics import covering_radius


def test_first_proxies_are_k_centers_of_the_pool(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=6)
    history = model.fit(points, labels, epochs=1, verbose=0, callbacks=[callback, Scripted([0.1])])
    embeddings = points @ linear_embedder().get_weights()[0]
    for label in range(4):
        pool = embeddings[labels == label][:6]
        chosen = k_center_loop(pool, [], 2)
        np.testing.assert_allclose(np.asarray(model.proxies.proxies)[label], chosen, atol=1e-5)
    assert history.history["projection"] == [0]
    pools = np.concatenate([embeddings[labels == label][:6] for label in range(4)])
    radius = covering_radius(
        pools, np.asarray(model.proxies().embeddings), np.repeat(np.arange(4), 6), np.repeat(np.arange(4), 2),
        reduction="mean",
    )  # fmt: skip
    assert history.history["covering_radius"][0] == pytest.approx(float(radius), rel=1e-5)


def test_a_problem_ends_after_its_patience_at_its_best_weights(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    draws = []

    def pool(draw):
        draws.append(draw)
        return dataset(points, labels).shuffle(10, seed=draw)

    # The best is epoch 1, then two validations without a better one; the next problem is judged by itself.
    scripted = Scripted([0.2, 0.5, 0.4, 0.5, 0.3, 0.2])
    callback = callbacks.AlternatingProjections(pool, pool_size=5, patience=2)
    history = model.fit(points, labels, epochs=4, verbose=0, callbacks=[scripted, callback]).history
    assert history["projection"] == [0, 0, 0, 0]
    assert history["projection_steps"] == [3, 6, 9, 12]
    assert int(model.projection) == 1
    assert draws == [0, 1]
    np.testing.assert_array_equal(model.embedder.get_weights()[0], scripted.kernels[1])
    np.testing.assert_array_equal(np.asarray(model.anchor.copies[0]), scripted.kernels[1])
    assert (int(model.wait), float(model.best_value)) == (0, -np.inf)
    history = model.fit(points, labels, initial_epoch=4, epochs=6, verbose=0, callbacks=[scripted, callback]).history
    assert history["projection"] == [1, 1]
    assert history["projection_steps"] == [3, 6]
    assert float(model.best_value) == pytest.approx(0.3)
    assert draws == [0, 1]


def test_next_proxies_are_chosen_given_the_old_ones(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=24, patience=1)
    scripted = Scripted([0.5, 0.4])
    callback_before = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.proxies.assign(np.full((4, 2, 2), 0.25, "float32"))
    )
    model.fit(points, labels, epochs=2, verbose=0, callbacks=[callback_before, scripted, callback])
    embeddings = points @ scripted.kernels[0]
    for label in range(4):
        expected = k_center_loop(embeddings[labels == label], np.full((2, 2), 0.25), 2)
        np.testing.assert_allclose(np.asarray(model.proxies.proxies)[label], expected, atol=1e-4)


def test_pool_size_one_takes_random_samples(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=1)
    model.fit(points, labels, epochs=1, verbose=0, callbacks=[Scripted([0.1]), callback])
    embeddings = points @ linear_embedder().get_weights()[0]
    for label in range(4):
        first_two = embeddings[labels == label][:2]
        proxies = np.asarray(model.proxies.proxies)[label]
        np.testing.assert_allclose(np.sort(proxies, axis=0), np.sort(first_two, axis=0), atol=1e-5)


def test_a_class_with_fewer_images_than_proxies(blobs, linear_embedder):
    points, labels = blobs
    keep = (labels != 3) | (np.cumsum(labels == 3) <= 1)
    model = build(linear_embedder, per_class=3)
    callback = callbacks.AlternatingProjections(dataset(points[keep], labels[keep]), pool_size=5, patience=1)
    scripted = Scripted([0.5, 0.4])
    converged = np.random.default_rng(1).normal(size=(4, 3, 2)).astype("float32")
    before = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: model.proxies.assign(converged))
    model.fit(points, labels, epochs=2, verbose=0, callbacks=[before, scripted, callback])
    proxies = np.asarray(model.proxies.proxies)[3]
    only = points[labels == 3][0] @ scripted.kernels[0]
    np.testing.assert_allclose(proxies[0], only, atol=1e-4)
    np.testing.assert_array_equal(proxies[1:], converged[3, 1:])


@pytest.mark.integration
def test_what_each_problem_did(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    proxies_at_the_end = []
    before = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: proxies_at_the_end.append(np.asarray(model.proxies.proxies).copy())
    )
    # Problems of three and of two validations.
    scripted = Scripted([0.2, 0.5, 0.4, 0.6, 0.5])
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=6, patience=1)
    history = model.fit(points, labels, epochs=5, verbose=0, callbacks=[before, scripted, callback]).history
    first, second = callback.projections
    assert [(p["projection"], p["first_step"], p["steps"]) for p in (first, second)] == [(0, 0, 9), (1, 9, 6)]
    assert [p["best"] for p in (first, second)] == [pytest.approx(0.5), pytest.approx(0.6)]
    radii = [history["covering_radius"][0], history["covering_radius"][3]]
    assert [p["covering_radius"] for p in (first, second)] == radii
    # The weights of the second validation are one further than the first, those of the first one from the beginning.
    np.testing.assert_allclose(first["weight_change"], 2.0 * 4.0, rtol=1e-5)
    np.testing.assert_allclose(second["weight_change"], 1.0 * 4.0, rtol=1e-5)
    converged = proxies_at_the_end[1]
    pool = np.stack([(points @ scripted.kernels[1])[labels == label][:6] for label in range(4)])
    radii = [np.linalg.norm(p[:, None] - c, axis=2).min(axis=1).max() for p, c in zip(pool, converged)]
    assert first["converged_covering_radius"] == pytest.approx(np.mean(radii), rel=1e-4)
    spread = np.linalg.norm(converged[:, 0] - converged[:, 1], axis=1).mean()
    assert first["converged_proxy_diversity"] == pytest.approx(spread, rel=1e-5)
    assert history["proxy_diversity"][1] == pytest.approx(spread, rel=1e-5)
    assert first["selection_seconds"] >= 0
    assert callbacks.AlternatingProjections(None).projections == []


def test_outer_patience_stops_with_the_best_weights_of_all(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    # The second problem is the best, the third and the fourth bring nothing better; the fifth would never begin.
    scripted = Scripted([0.5, 0.4, 0.6, 0.7, 0.1, 0.65, 0.1, 0.7, 0.1, 0.9, 0.1])
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=6, patience=1, outer_patience=2)
    history = model.fit(points, labels, epochs=11, verbose=0, callbacks=[scripted, callback]).history
    assert history["projection"] == [0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert callback.is_over
    assert [problem["best"] for problem in callback.projections] == pytest.approx([0.5, 0.7, 0.65, 0.7])
    np.testing.assert_array_equal(model.embedder.get_weights()[0], scripted.kernels[3])
    assert (int(model.incumbent_projection), float(model.incumbent_value)) == (1, np.float32(0.7))


def test_without_a_patience_the_first_problem_does_not_end(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=6, patience=None, outer_patience=1)
    history = model.fit(points, labels, epochs=5, verbose=0, callbacks=[callback, Scripted([0.5, 0.4, 0.3, 0.2, 0.1])])
    assert history.history["projection"] == [0] * 5 and not callback.projections and not callback.is_over


def test_without_outer_patience_problems_go_on(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=6, patience=1)
    history = model.fit(*blobs, epochs=6, verbose=0, callbacks=[Scripted([0.5, 0.4, 0.3, 0.2, 0.1, 0.0]), callback])
    assert history.history["projection"] == [0, 0, 1, 1, 2, 2] and not callback.is_over


@pytest.mark.parametrize("batch", [1, 7, 96])
def test_the_pool_is_the_first_images_of_each_class_in_the_stream(blobs, linear_embedder, batch):
    points, labels = blobs
    order = np.random.default_rng(0).permutation(96)
    points, labels = points[order], labels[order]
    # Of class 2 there are two images.
    keep = (labels != 2) | (np.cumsum(labels == 2) <= 2)
    points, labels = points[keep], labels[keep]
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels, batch), pool_size=5)
    callback.set_model(model)
    pool, exists = callback._embed_pool(draw=0)
    embeddings = points @ linear_embedder().get_weights()[0]
    for label in range(4):
        expected = embeddings[labels == label][:5]
        assert exists[label].sum() == len(expected) == (2 if label == 2 else 5)
        np.testing.assert_allclose(pool[label][exists[label]], expected, atol=1e-5)


def test_a_missing_metric_is_warned_about(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=3)
    with pytest.warns(UserWarning, match="'val_map_at_r' is not in the logs.*loss"):
        model.fit(*blobs, epochs=1, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("name", ["pool_size", "patience", "outer_patience"])
def test_bad_counts(name):
    with pytest.raises(ValueError, match=f"Received: {name}=0"):
        callbacks.AlternatingProjections(None, **{name: 0})


def test_bad_pools(blobs, linear_embedder):
    points, labels = blobs

    def fit(pool, **options):
        # What is trained on has proxies: it is the pool that is wrong.
        sound = np.minimum(labels, options.get("num_classes", 4) - 1)
        build(linear_embedder, **options).fit(
            points, sound, verbose=0, callbacks=[callbacks.AlternatingProjections(pool, pool_size=3)]
        )

    with pytest.raises(ValueError, match="lacks 1 classes. Received: no image of \\[2\\]"):
        fit(dataset(points[labels != 2], labels[labels != 2]))
    with pytest.raises(ValueError, match="labels 0..3. Expected: 0..2"):
        fit(dataset(points, labels), num_classes=3)
    spoilt = np.where((labels == 1)[:, None], np.nan, points)
    with pytest.raises(ValueError, match="Images must be finite. Received: NaN or infinity in image 1 "):
        fit(dataset(spoilt, labels))
    with pytest.raises(ValueError, match="pool is endless"):
        fit(dataset(points, labels).repeat())
    with pytest.raises(ValueError, match="without labels"):
        fit(tf.data.Dataset.from_tensor_slices(points).batch(8))
    plain = models.MetricModel(linear_embedder())
    plain.compile(optimizer="sgd", loss="c2")
    with pytest.raises(TypeError, match="Received: MetricModel"):
        plain.fit(points, labels, verbose=0, callbacks=[callbacks.AlternatingProjections(dataset(points, labels))])
