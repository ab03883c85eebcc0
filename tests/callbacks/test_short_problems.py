"""Problems of CCP that a number of steps ends, what they start from, and where their pool comes from."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_ccp import Scripted, build, dataset, k_center_loop

from tfdml import callbacks, layers, models
from tfdml.callbacks.alternating_projections import proxies_near_pool, with_newest


class Watch(keras.callbacks.Callback):
    """Moves the weights by one each step, before the problem can end, and keeps what it sees."""

    def __init__(self):
        super().__init__()
        self.projections, self.anchors = [], []

    def on_train_batch_end(self, batch, logs=None):
        kernel = self.model.embedder.weights[0]
        kernel.assign(kernel + 1.0)
        self.projections.append(int(self.model.projection))
        self.anchors.append(np.asarray(self.model.anchor.copies[0]).copy())


def fit(model, blobs, callback, epochs=2, values=(0.1, 0.2, 0.3, 0.4), watch=None, initial_epoch=0):
    points, labels = blobs
    used = [*([] if watch is None else [watch]), Scripted(values), callback]
    return model.fit(
        points, labels, batch_size=len(points) // 4, epochs=epochs, initial_epoch=initial_epoch, shuffle=False,
        verbose=0, callbacks=used,
    ).history  # fmt: skip


@pytest.mark.parametrize(("growth", "lengths"), [(1.0, [3, 3]), (1.5, [3, 5])])
def test_a_problem_ends_after_its_steps_and_goes_on_from_there(blobs, linear_embedder, growth, lengths):
    model, watch = build(linear_embedder), Watch()
    callback = callbacks.AlternatingProjections(
        dataset(*blobs), pool_size=5, max_steps=3, max_steps_growth=growth, start_from_epoch=0
    )
    fit(model, blobs, callback, watch=watch)
    assert [problem["steps"] for problem in callback.projections] == lengths
    assert [problem["first_step"] for problem in callback.projections] == [0, lengths[0]]
    assert int(model.projection_start) == sum(lengths)
    # The anchor is what the last step of the problem left. `Scripted` moves the weights once more at an epoch's end.
    np.testing.assert_array_equal(watch.anchors[3], linear_embedder().get_weights()[0] + 3)
    # Ended without a validation, and after one.
    assert np.isnan(callback.projections[0]["best"])
    assert callback.projections[1]["best"] == pytest.approx({3: 0.1, 5: 0.2}[lengths[1]])


def test_no_problem_ends_before_validation_counts(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=2, start_from_epoch=1)
    fit(model, blobs, callback)
    assert [problem["first_step"] for problem in callback.projections] == [0, 4, 6]
    assert [problem["steps"] for problem in callback.projections] == [4, 2, 2]


def test_a_resumed_problem_ends_at_the_same_step(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=6)
    fit(model, blobs, callback, epochs=1)
    other, later = build(linear_embedder), callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=6)
    later.set_state(callback.get_state())
    for variable, value in zip(other.weights, model.get_weights()):
        variable.assign(value)
    fit(other, blobs, later, initial_epoch=1)
    assert [problem["steps"] for problem in later.projections] == [6]


@pytest.mark.parametrize("restore", ["best", "last"])
def test_weights_after_validation_stalled(blobs, linear_embedder, restore):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, patience=1, restore=restore)
    scripted = Scripted([0.5, 0.4])
    points, labels = blobs
    model.fit(points, labels, epochs=2, verbose=0, callbacks=[scripted, callback])
    expected = {"best": scripted.kernels[0], "last": scripted.kernels[1]}[restore]
    np.testing.assert_array_equal(model.embedder.get_weights()[0], expected)
    np.testing.assert_array_equal(np.asarray(model.anchor.copies[0]), scripted.kernels[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_proxies_near_the_pool_equal_a_loop(seed):
    rng = np.random.default_rng(seed)
    points, exists = rng.normal(size=(3, 4, 2)), rng.random((3, 4)) < 0.7
    proxies = 2 * rng.normal(size=(3, 2, 2))
    found = proxies_near_pool(points, exists, proxies)
    for label in range(3):
        pool = points[label][exists[label]]
        isolated = 0.0
        for index, point in enumerate(pool):
            others = [np.linalg.norm(point - other) for place, other in enumerate(pool) if place != index]
            isolated = max(isolated, min(others, default=0.0))
        for index, proxy in enumerate(proxies[label]):
            nearest = min((np.linalg.norm(proxy - point) for point in pool), default=np.inf)
            assert found[label, index] == (nearest <= isolated)


@pytest.mark.parametrize("kind", ["near", "none"])
def test_proxies_far_from_their_class_do_not_count(blobs, linear_embedder, kind):
    points, labels = blobs
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=24, patience=1, given=kind)
    # Class 0 has one proxy on a sample and one far away; the others have far ones only.
    scripted, old = Scripted([0.5, 0.4]), np.full((4, 2, 2), 1e3, "float32")
    kernel = linear_embedder().get_weights()[0] + 1
    old[0, 1] = points[labels == 0][2] @ kernel
    before = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: model.proxies.assign(old))
    model.fit(points, labels, epochs=2, verbose=0, callbacks=[before, scripted, callback])
    for label in range(4):
        initial = old[0, 1:] if (kind, label) == ("near", 0) else []
        expected = k_center_loop(points[labels == label] @ scripted.kernels[0], initial, 2)
        np.testing.assert_allclose(np.asarray(model.proxies.proxies)[label], expected, atol=1e-4)


def remembering(linear_embedder, size):
    model = models.CCPModel(linear_embedder(), layers.ClassProxies(4, 2, embedding_size=2), recent_size=size)
    model.compile(optimizer=keras.optimizers.SGD(0.0), loss="c2", run_eagerly=True)
    return model


def test_a_pool_of_recent_embeddings(blobs, linear_embedder):
    points, labels = blobs
    model = remembering(linear_embedder, len(points) // 2)
    draws = []

    def pool(draw):
        draws.append(draw)
        return dataset(points, labels)

    callback = callbacks.AlternatingProjections(pool, pool_size=6, max_steps=3, refresh="memory", given="none")
    order = np.argsort(labels == 3, kind="stable")
    points, labels = points[order], labels[order]
    fit(model, (points, labels), callback, epochs=1)
    assert draws == [0] and len(callback.projections) == 1
    # Three of four batches are seen, the last two of them remembered.
    batch = len(points) // 4
    seen = slice(batch, 3 * batch)
    embeddings = points[seen] @ linear_embedder().get_weights()[0]
    for label in np.unique(labels[seen]):
        newest = embeddings[labels[seen] == label][::-1][:6]
        expected = k_center_loop(newest, [], 2)
        if len(newest) >= 2:
            np.testing.assert_allclose(np.asarray(model.proxies.proxies)[label], expected, atol=1e-5)
    assert models.CCPModel.from_config(model.get_config()).recent.size == model.recent.size


def test_bad_options(blobs, linear_embedder):
    for name, value in (("max_steps", 0), ("max_steps_growth", 0.5), ("restore", "worst"), ("given", "far"),
                        ("refresh_share", 0.0), ("first_proxies", "last"), ("k_center_on", "loss")):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            callbacks.AlternatingProjections(None, **{name: value})
    callback = callbacks.AlternatingProjections(dataset(*blobs), refresh="memory")
    with pytest.raises(ValueError, match="recent_size"):
        build(linear_embedder).fit(*blobs, verbose=0, callbacks=[callback])


def test_a_problem_that_ends_with_an_epoch_has_its_validation(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=4)
    history = fit(model, blobs, callback)
    assert [(problem["first_step"], problem["steps"]) for problem in callback.projections] == [(0, 4), (4, 4)]
    assert [problem["best"] for problem in callback.projections] == pytest.approx([0.1, 0.2])
    assert history["projection"] == [0, 1] and history["projection_steps"] == [4, 4]
    # The best weights of all problems have the proxies with which they were trained.
    assert int(model.incumbent_projection) == 1


def test_steps_of_a_problem(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=lambda number: 2 + 3 * number)
    fit(model, blobs, callback)
    assert [problem["steps"] for problem in callback.projections] == [2, 5]
    bad = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=lambda number: 0)
    with pytest.raises(ValueError, match=r"max_steps\(0\)=0"):
        fit(build(linear_embedder), blobs, bad)
    # A growth beyond all numbers is no end.
    endless = callbacks.AlternatingProjections(dataset(*blobs), max_steps=1, max_steps_growth=1e300)
    endless.set_model(model)
    assert not endless._is_out_of_steps
    assert callbacks.AlternatingProjections(None).max_steps == 40


@pytest.mark.parametrize(("values", "epochs"), [((0.5, 0.4, 0.6, 0.3), 4), ((0.5, 0.4, 0.3, 0.2), 4)])
def test_outer_patience_counts_problems_with_a_validation(blobs, linear_embedder, values, epochs):
    """Problems of three steps, validations after four: of steps 4, 8, 12, 16 by problems 1, 2, 3, 5."""
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=3, outer_patience=2)
    history = fit(model, blobs, callback, epochs=epochs, values=values)
    if values[2] == 0.6:
        assert len(history["loss"]) == 4 and not callback.is_over and int(model.incumbent_projection) == 3
        return
    # Problem 2 is not better, nor is problem 3, whose last step is that of the third epoch.
    assert len(history["loss"]) == 3 and callback.is_over
    assert (int(model.incumbent_projection), float(model.incumbent_value)) == (1, 0.5)
    assert [problem["projection"] for problem in callback.projections] == [0, 1, 2, 3]
    np.testing.assert_array_equal(model.embedder.get_weights()[0], linear_embedder().get_weights()[0] + 1)


def test_the_best_proxies_are_given_if_training_goes_on_from_the_last_weights(blobs, linear_embedder):
    points, labels = blobs
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=24, patience=1, restore="last")
    scripted = Scripted([0.5, 0.4])
    olds = [np.full((4, 2, 2), value, "float32") for value in (0.25, -3.0)]
    before = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: model.proxies.assign(olds[epoch]))
    model.fit(points, labels, epochs=2, verbose=0, callbacks=[before, scripted, callback])
    for label in range(4):
        expected = k_center_loop(points[labels == label] @ scripted.kernels[1], olds[0][label], 2)
        np.testing.assert_allclose(np.asarray(model.proxies.proxies)[label], expected, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_pool_with_newest_points_equals_a_loop(seed):
    rng = np.random.default_rng(seed)
    counts = [rng.integers(0, 5, size=3), rng.integers(1, 3, size=3)]
    old, new = (
        (rng.normal(size=(3, size, 2)), np.arange(size) < count[:, None]) for size, count in zip((4, 2), counts)
    )
    points, exists = with_newest(old, new)
    for label in range(3):
        expected = [*new[0][label][: counts[1][label]], *old[0][label][: counts[0][label]]]
        expected = expected[: max(counts[0][label], counts[1][label])]
        assert exists[label].tolist() == [place < len(expected) for place in range(4)]
        np.testing.assert_array_equal(points[label][: len(expected)], np.array(expected))


def test_a_pool_refreshed_in_part(blobs, linear_embedder):
    points, labels = blobs
    model, watch = build(linear_embedder), Watch()
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(len(points)), (2, 1)), axis=1)

    def pool(draw):
        return dataset(points[orders[draw]], labels[orders[draw]])

    callback = callbacks.AlternatingProjections(
        pool, pool_size=6, max_steps=3, refresh="partial", refresh_share=0.3, given="none"
    )
    fit(model, blobs, callback, epochs=1, watch=watch)
    first = linear_embedder().get_weights()[0]
    for label in range(4):
        # Two of six images are new.
        of_draw = [points[order][labels[order] == label] for order in orders]
        expected = np.concatenate([of_draw[1][:2] @ (first + 3), of_draw[0][:4] @ first])
        np.testing.assert_allclose(callback._pool[0][label], expected, atol=1e-4)
        np.testing.assert_allclose(
            np.asarray(model.proxies.proxies)[label], k_center_loop(expected, [], 2), atol=1e-4
        )
    later = callbacks.AlternatingProjections(pool, pool_size=6, refresh="partial")
    later.set_state(callback.get_state())
    np.testing.assert_array_equal(later._pool[0], callback._pool[0])


@pytest.mark.parametrize("kind", ["origin", "random", "initial"])
def test_first_proxies(blobs, linear_embedder, kind):
    points, labels = blobs
    model = build(linear_embedder)
    initial = np.asarray(model.proxies.proxies).copy()
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=6, first_proxies=kind)
    callback.set_model(model)
    callback.on_train_begin()
    embeddings = points @ linear_embedder().get_weights()[0]
    for label in range(4):
        pool = embeddings[labels == label]
        expected = {
            "origin": k_center_loop(pool[:6], [np.zeros(2)], 2), "random": pool[:2], "initial": initial[label]
        }[kind]  # fmt: skip
        order = np.lexsort(expected.T) if kind == "random" else [0, 1]
        found = np.asarray(model.proxies.proxies)[label]
        found = found[np.lexsort(found.T)] if kind == "random" else found
        np.testing.assert_allclose(found, expected[order], atol=1e-5)
    assert np.isnan(callback._covering_radius) == (kind == "initial")


def with_head():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    return keras.Model(inputs, layers.L2Clip()(keras.layers.Dense(2, name="embedding")(inputs)))


def test_proxies_from_outputs_before_the_clip(blobs):
    points, labels = np.random.default_rng(0).normal(size=(48, 8)).astype("float32"), np.tile(np.arange(4), 12)
    proxies = layers.ClassProxies(4, 2, embedding_size=2, normalization="clip")
    model = models.CCPModel(with_head(), proxies)
    model.compile(keras.optimizers.SGD(0.0), loss="c2", run_eagerly=True)
    callback = callbacks.AlternatingProjections(dataset(points, labels), pool_size=6, k_center_on="head")
    callback.set_model(model)
    callback.on_train_begin()
    kernel, bias = model.embedder.get_layer("embedding").get_weights()
    heads = points @ kernel + bias
    assert np.linalg.norm(heads, axis=1).max() > 1.0
    for label in range(4):
        expected = k_center_loop(heads[labels == label][:6], [], 2)
        np.testing.assert_allclose(np.asarray(proxies.proxies)[label], expected, atol=1e-5)
    raw = np.asarray(proxies.proxies).reshape(8, 2)
    clipped = raw / np.maximum(1.0, np.linalg.norm(raw, axis=1, keepdims=True))
    np.testing.assert_allclose(np.asarray(proxies().embeddings), clipped, atol=1e-6)


def test_what_cannot_be_chosen_before_the_clip():
    points, labels = np.ones((8, 8), "float32"), np.tile(np.arange(4), 2)
    with pytest.raises(ValueError, match="one of the two"):
        callbacks.AlternatingProjections(None, refresh="memory", k_center_on="head")
    with pytest.raises(ValueError, match="normalization"):
        layers.ClassProxies(4, embedding_size=2, normalization="l1")
    model = models.CCPModel(with_head(), layers.ClassProxies(4, 1, embedding_size=2))
    model.compile(keras.optimizers.SGD(0.0), loss="c2", run_eagerly=True)
    callback = callbacks.AlternatingProjections(dataset(points, labels), k_center_on="head")
    callback.set_model(model)
    with pytest.raises(ValueError, match=r"Received: ClassProxies\(normalization=None\)"):
        callback.on_train_begin()
