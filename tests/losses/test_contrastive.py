"""The contrastive loss against a double loop, its gradients against finite differences, and edge cases."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values, cosine, l2

from tfdml import losses
from tfdml.layers import References

FORMS = {
    "c1": dict(positive_margin=0.0, negative_margin=0.5, distance="cosine", average="anchor"),
    "c2": dict(positive_margin=0.2, negative_margin=0.6, distance="l2", average="nonzero"),
    "hadsell": dict(negative_margin=1.0, distance="l2", power=2, average="pairs"),
    "bell_bala": dict(negative_margin=1.0, distance="squared_l2", average="pairs"),
    "squared": dict(positive_margin=0.0, negative_margin=1.0, distance="squared_l2", average="nonzero"),
    "l2_anchor": dict(positive_margin=0.1, negative_margin=0.9, distance="l2", average="anchor"),
}


def distances(x, others, kind):
    return 1.0 - cosine(x, others) if kind == "cosine" else l2(x, others) ** (2 if kind == "squared_l2" else 1)


def loop_of(name):
    """The formula as a loop over samples."""
    loss = losses.ContrastiveLoss(**FORMS[name])

    def loop(*batch):
        pulls, pushes = [np.zeros(0)], [np.zeros(0)]
        for anchor in anchors(*batch):
            pull = distances(anchor.x, anchor.positives, loss.distance) - loss.positive_margin
            push = loss.negative_margin - distances(anchor.x, anchor.negatives, loss.distance)
            pulls.append(np.maximum(pull, 0.0) ** loss.power)
            pushes.append(np.maximum(push, 0.0) ** loss.power)
        pulls, pushes = np.concatenate(pulls), np.concatenate(pushes)
        if loss.average == "anchor":
            return (np.sum(pulls) + np.sum(pushes)) / len(batch[0])
        if loss.average == "pairs":
            return (np.sum(pulls) + np.sum(pushes)) / max(len(pulls) + len(pushes), 1)
        return sum(np.sum(terms) / max(np.count_nonzero(terms), 1) for terms in (pulls, pushes))

    return loop


@pytest.mark.parametrize("name", FORMS)
def test_equals_the_loop(name):
    check_values(losses.ContrastiveLoss(**FORMS[name]), loop_of(name))
    check_gradients(losses.ContrastiveLoss(**FORMS[name]), loop_of(name))


def test_duplicates_are_no_nonzero_pairs():
    """Neither through their distance nor through its rounding error."""
    x = np.random.default_rng(0).normal(size=(6, 32)).astype("float32")
    x, labels = np.concatenate([x, x, x + np.float32(0.3)]), np.tile(np.arange(6), 3)
    loss = losses.ContrastiveLoss(distance="cosine")
    expected = float(tf.reduce_mean(loss.call(labels, x.astype("float64"))))
    assert float(tf.reduce_mean(loss.call(labels, x))) == pytest.approx(expected, rel=1e-4)


def test_labels_beyond_float32_do_not_collide():
    x = np.array([[0.0], [0.1]], "float32")
    labels = np.array([2**24, 2**24 + 1])
    assert float(tf.reduce_mean(losses.get("c2").call(labels, x))) == pytest.approx(0.4)


def test_references_that_do_not_exist_take_no_part():
    loss, x, labels = losses.get("c2"), np.array([[0.0], [0.3]]), np.array([0, 1])
    references = References(np.array([[0.1], [0.2], [9.0]]), np.array([0, 1, 0]), np.array([True, True, False]))
    without = References(references.embeddings[:2], references.labels[:2])
    np.testing.assert_allclose(loss.against(labels, x, references), loss.against(labels, x, without))


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
        (dict(positive_margin=0.6), "Expected: 0 <= positive_margin < negative_margin"),
        (dict(distance="manhattan"), "distance='manhattan'"),
        (dict(average="classes"), "average='classes'"),
        (dict(power=3), "power=3"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        losses.ContrastiveLoss(**options)


@pytest.mark.parametrize(
    ("labels", "embeddings", "message"),
    [
        (np.zeros((4, 2), int), np.zeros((4, 3)), "Labels must be a vector. Received: shape \\(4, 2\\)"),
        (np.zeros(3, int), np.zeros((4, 3)), "3 labels and 4 embeddings"),
        (np.zeros(4, int), np.zeros((4, 3, 2)), "Embeddings must be a matrix"),
    ],
)
def test_shape_mistakes(labels, embeddings, message):
    with pytest.raises(ValueError, match=message):
        losses.get("c2").call(labels, embeddings)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_arguments_in_the_wrong_order(shape):
    labels, embeddings = np.zeros(shape, int), np.zeros((4, 3))
    loss = losses.get("c2")
    with pytest.raises(ValueError, match="Labels come first, then embeddings."):
        loss.call(embeddings, labels)
    with pytest.raises(ValueError, match="Labels come first, then embeddings."):
        loss.against(embeddings, labels, References(embeddings, labels))


def test_references_of_another_size():
    with pytest.raises(ValueError, match="differ in size"):
        losses.get("c2").against(np.zeros(2, int), np.zeros((2, 3)), References(np.zeros((2, 4)), np.zeros(2, int)))


def test_compiles_into_a_plain_keras_model():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 16)
    x = (np.eye(4)[labels] + 0.1 * rng.normal(size=(64, 4))).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=losses.get("c1"), jit_compile=False)
    before = loop_of("c1")(model.predict(x, verbose=0), labels)
    model.fit(x, labels, epochs=15, batch_size=32, verbose=0)
    assert loop_of("c1")(model.predict(x, verbose=0), labels) < 0.8 * before
