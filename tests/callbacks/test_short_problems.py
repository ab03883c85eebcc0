"""Problems of CCP that a number of steps ends, what they start from, and where their pool comes from."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_ccp import Scripted, build, dataset, k_center_loop

from tfdml import callbacks, layers, models
from tfdml.callbacks.alternating_projections import proxies_near_pool


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
    assert np.isnan(callback.projections[0]["best"]) and callback.projections[1]["best"] == pytest.approx(0.1)


def test_no_problem_ends_before_validation_counts(blobs, linear_embedder):
    model = build(linear_embedder)
    callback = callbacks.AlternatingProjections(dataset(*blobs), pool_size=5, max_steps=2, start_from_epoch=1)
    fit(model, blobs, callback)
    assert [problem["first_step"] for problem in callback.projections] == [0, 5, 7][:2]
    assert [problem["steps"] for problem in callback.projections] == [5, 2]


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
    for name, value in (("max_steps", 0), ("max_steps_growth", 0.5), ("restore", "worst"), ("given", "far")):
        with pytest.raises(ValueError, match=name):
            callbacks.AlternatingProjections(None, **{name: value})
    callback = callbacks.AlternatingProjections(dataset(*blobs), refresh="memory")
    with pytest.raises(ValueError, match="recent_size"):
        build(linear_embedder).fit(*blobs, verbose=0, callbacks=[callback])
