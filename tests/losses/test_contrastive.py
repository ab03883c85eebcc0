"""The contrastive loss against a double loop, its gradients against finite differences, its edges."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import losses
from tfdml.layers import References

FORMS = {
    "c1": dict(positive_margin=0.0, negative_margin=0.5, distance="cosine", average="anchor"),
    "c2": dict(positive_margin=0.2, negative_margin=0.6, distance="l2", average="nonzero"),
    "hadsell": dict(positive_margin=0.0, negative_margin=1.0, distance="squared_l2", average="nonzero"),
    "l2_anchor": dict(positive_margin=0.1, negative_margin=0.9, distance="l2", average="anchor"),
}


def distance(x, y, kind):
    if kind == "cosine":
        return 1.0 - x @ y / np.sqrt((x @ x) * (y @ y))
    squared = np.sum((x - y) ** 2)
    return squared if kind == "squared_l2" else np.sqrt(squared)


def loop(embeddings, labels, form, references=None, reference_labels=None):
    """The formula, pair by pair."""
    in_batch = references is None
    others, other_labels = (embeddings, labels) if in_batch else (references, reference_labels)
    sides = {True: [], False: []}
    for i, x in enumerate(embeddings):
        for j, y in enumerate(others):
            if in_batch and i == j:
                continue
            d = distance(x, y, form["distance"])
            positive = labels[i] == other_labels[j]
            term = d - form["positive_margin"] if positive else form["negative_margin"] - d
            sides[positive].append(max(term, 0.0))
    if form["average"] == "anchor":
        return (sum(sides[True]) + sum(sides[False])) / len(embeddings)
    return sum(sum(terms) / max(np.count_nonzero(terms), 1) for terms in sides.values())


@pytest.mark.parametrize("name", FORMS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), batch=st.integers(1, 7), classes=st.integers(1, 4), count=st.integers(1, 6))
def test_equals_the_loop(name, seed, batch, classes, count):
    rng = np.random.default_rng(seed)
    loss = losses.ContrastiveLoss(**FORMS[name])
    x, labels = rng.normal(size=(batch, 3)) * 0.4, rng.integers(0, classes, batch)
    refs, ref_labels = rng.normal(size=(count, 3)) * 0.4, rng.integers(0, classes, count)
    np.testing.assert_allclose(loss(labels, x.astype("float32")), loop(x, labels, FORMS[name]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.mean(loss.call(labels, x)), loop(x, labels, FORMS[name]), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        np.mean(loss.against(x, labels, References(refs, ref_labels))),
        loop(x, labels, FORMS[name], refs, ref_labels), rtol=1e-9, atol=1e-12,
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_gradient_equals_finite_differences(name):
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(6, 3)) * 0.4, np.array([0, 0, 1, 1, 1, 2])
    variable = tf.Variable(x)
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(losses.ContrastiveLoss(**FORMS[name]).call(labels, variable))
    numerical = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        numerical[index] = (loop(x + step, labels, FORMS[name]) - loop(x - step, labels, FORMS[name])) / 2e-6
    np.testing.assert_allclose(tape.gradient(value, variable), numerical, atol=1e-6)


EDGES = {
    "one class": (np.random.default_rng(0).normal(size=(4, 3)), [5, 5, 5, 5]),
    "no positive": (np.random.default_rng(1).normal(size=(4, 3)), [0, 1, 2, 2**31 - 1]),
    "one sample": (np.random.default_rng(2).normal(size=(1, 3)), [0]),
    "all equal": (np.ones((4, 3)), [0, 0, 1, 1]),
    "all zero": (np.zeros((4, 3)), [0, 0, 1, 1]),
    "duplicates": (np.repeat(np.random.default_rng(3).normal(size=(2, 3)), 2, axis=0), [0, 0, 1, 1]),
}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_edges_are_finite(name, edge, dtype):
    embeddings, labels = EDGES[edge]
    loss = losses.ContrastiveLoss(**FORMS[name])
    variable = tf.Variable(tf.cast(embeddings, dtype))
    with tf.GradientTape() as tape:
        values = loss.call(np.array(labels), variable)
        mean = tf.reduce_mean(values)
    assert values.shape == (len(labels),)
    gradient = tape.gradient(mean, variable)
    assert np.isfinite(tf.cast(gradient, tf.float32)).all()
    if edge not in ("all zero",):
        expected = loop(tf.cast(variable, tf.float64).numpy(), labels, FORMS[name])
        np.testing.assert_allclose(mean, expected, atol=1e-5)
    if edge == "one sample":
        assert mean == 0.0
        assert not np.any(tf.cast(gradient, tf.float32))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla(jit_compile):
    rng = np.random.default_rng(4)
    x, labels = rng.normal(size=(512, 8)).astype("float32"), rng.integers(0, 40, 512)
    loss = losses.get("c2")
    compiled = tf.function(loss.call, jit_compile=jit_compile)
    np.testing.assert_allclose(compiled(labels, x), loss.call(labels, x), rtol=1e-4, atol=1e-5)


def test_labels_beyond_float32_do_not_collide():
    x = np.array([[0.0], [0.1]], "float32")
    labels = np.array([2**24, 2**24 + 1])
    assert float(tf.reduce_mean(losses.get("c2").call(labels, x))) == pytest.approx(0.4)


def test_references_that_do_not_exist_take_no_part():
    loss, x, labels = losses.get("c2"), np.array([[0.0], [0.3]]), np.array([0, 1])
    references = References(np.array([[0.1], [0.2], [9.0]]), np.array([0, 1, 0]), np.array([True, True, False]))
    without = References(references.embeddings[:2], references.labels[:2])
    np.testing.assert_allclose(loss.against(x, labels, references), loss.against(x, labels, without))


def test_column_of_labels_and_sample_weights():
    x, labels = np.random.default_rng(5).normal(size=(4, 3)), np.array([0, 0, 1, 1])
    loss, weights = losses.get("c2"), np.array([0.0, 1.0, 2.0, 0.5])
    np.testing.assert_allclose(loss.call(labels[:, None], x), loss.call(labels, x))
    weighted = float(loss(labels, x.astype("float32"), sample_weight=weights))
    assert weighted == pytest.approx(np.mean(weights * loss.call(labels, x)), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(positive_margin=-0.1), "positive_margin=-0.1"),
        (dict(positive_margin=0.6), "expected 0 <= positive_margin < negative_margin"),
        (dict(distance="manhattan"), "metric='manhattan'"),
        (dict(average="pairs"), "average='pairs'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        losses.ContrastiveLoss(**options)


@pytest.mark.parametrize(
    ("labels", "embeddings", "message"),
    [
        (np.zeros((4, 2), int), np.zeros((4, 3)), "Labels must be .* shape \\(4, 2\\)"),
        (np.zeros(3, int), np.zeros((4, 3)), "3 labels and 4 embeddings"),
        (np.zeros(4, int), np.zeros((4, 3, 2)), "Embeddings must be"),
    ],
)
def test_shape_mistakes(labels, embeddings, message):
    with pytest.raises(ValueError, match=message):
        losses.get("c2").call(labels, embeddings)


def test_references_of_another_size():
    with pytest.raises(ValueError, match="differ in size"):
        losses.get("c2").against(np.zeros((2, 3)), np.zeros(2, int), References(np.zeros((2, 4)), np.zeros(2, int)))


def test_compiles_into_a_plain_keras_model():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 16)
    x = (np.eye(4)[labels] + 0.1 * rng.normal(size=(64, 4))).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=losses.get("c1"))
    before = loop(model.predict(x, verbose=0), labels, FORMS["c1"])
    model.fit(x, labels, epochs=15, batch_size=32, verbose=0)
    assert loop(model.predict(x, verbose=0), labels, FORMS["c1"]) < 0.8 * before
