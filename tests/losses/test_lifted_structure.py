"""The lifted structure losses against loops over pairs and over anchors, and TensorFlow Addons."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values, cosine, l2, random_batch

from tfdml.layers import References
from tfdml.losses.lifted_structure import GeneralizedLiftedStructureLoss, LiftedStructureLoss

DISTANCES = ("l2", "squared_l2", "cosine")


def distances(x, others, kind):
    return 1.0 - cosine(x, others) if kind == "cosine" else l2(x, others) ** (2 if kind == "squared_l2" else 1)


def pairwise_loop(margin, distance):
    def loop(x, labels, *references):
        terms = []
        for anchor in anchors(x, labels, *references):
            of_anchor = np.sum(np.exp(margin - distances(anchor.x, anchor.negatives, distance)))
            others = x[labels != anchor.label]  # The negatives of this anchor's positives in the batch.
            for positive in anchor.positives:
                of_positive = np.sum(np.exp(margin - distances(positive, others, distance)))
                apart = distances(anchor.x, positive[None], distance)[0]
                some = of_anchor + of_positive > 0.0
                terms.append(max(np.log(of_anchor + of_positive) + apart, 0.0) ** 2 if some else 0.0)
        return sum(terms) / (2 * max(len(terms), 1))

    return loop


def anchor_loop(margin, distance):
    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            if len(anchor.positives) and len(anchor.negatives):
                pull = np.log(np.sum(np.exp(distances(anchor.x, anchor.positives, distance))))
                push = np.log(np.sum(np.exp(margin - distances(anchor.x, anchor.negatives, distance))))
                total += max(pull + push, 0.0)
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_equals_the_loop_over_pairs(margin, distance):
    loss = LiftedStructureLoss(margin, distance)
    check_values(loss, pairwise_loop(margin, distance))
    check_gradients(loss, pairwise_loop(margin, distance))


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_equals_the_loop_over_anchors(margin, distance):
    loss = GeneralizedLiftedStructureLoss(margin, distance)
    check_values(loss, anchor_loop(margin, distance))
    check_gradients(loss, anchor_loop(margin, distance))


def test_on_cosine_distance_it_is_the_form_on_cosine_similarity():
    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            if len(anchor.positives) and len(anchor.negatives):
                pull = np.log(np.sum(np.exp(0.5 - cosine(anchor.x, anchor.positives))))
                push = np.log(np.sum(np.exp(cosine(anchor.x, anchor.negatives))))
                total += max(pull + push, 0.0)
        return total / len(batch[0])

    check_values(GeneralizedLiftedStructureLoss(), loop)


@pytest.mark.parametrize("margin", [0.3, 1.0])
def test_equals_tensorflow_addons(margin):
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(24, 5)).astype("float32"), np.repeat(np.arange(6), 4)
    theirs = addons.LiftedStructLoss(margin=margin)
    np.testing.assert_allclose(LiftedStructureLoss(margin)(labels, x), theirs(labels, x), rtol=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_where_addons_gives_nan_ours_gives_0(labels):
    addons = pytest.importorskip("tensorflow_addons.losses", exc_type=ImportError)
    x, labels = np.random.default_rng(0).normal(size=(4, 3)).astype("float32"), np.array(labels)
    assert np.isnan(addons.LiftedStructLoss()(labels, x))
    assert float(LiftedStructureLoss()(labels, x)) == 0.0


def test_a_reference_is_set_against_the_batch():
    """One anchor and one positive reference: the positive's negatives are the other samples, not other references."""
    x, labels = np.array([[0.0], [2.0]]), np.array([0, 1])
    references = References(np.array([[1.0], [9.0]]), np.array([0, 2]))
    # Sample 0: log(e^(1 - 9) + e^(1 - 1)) + 1, its only negative reference at 9, the positive's only sample at 1.
    expected = (np.log(np.exp(-8.0) + 1.0) + 1.0) ** 2 / 2.0
    np.testing.assert_allclose(tf.reduce_mean(LiftedStructureLoss().against(labels, x, references)), expected)


def test_large_distances_do_not_overflow():
    """In float32, exp(1 - d) is 0 and exp(d) is infinite here."""
    x, labels, _, _ = random_batch(0, scale=1e3)
    for loss, loop in (
        (LiftedStructureLoss(), pairwise_loop(1.0, "l2")),
        (GeneralizedLiftedStructureLoss(0.5, "l2"), anchor_loop(0.5, "l2")),
    ):
        with tf.GradientTape() as tape:
            variable = tf.Variable(x.astype("float32"))
            values = loss.call(labels, variable)
        assert np.all(np.isfinite(values)) and np.all(np.isfinite(tape.gradient(values, variable)))
        x = 0.1 * x  # Here the loop is still finite in float64.
        np.testing.assert_allclose(loss(labels, x.astype("float32")), loop(x, labels), rtol=1e-5)


@pytest.mark.parametrize("loss", [LiftedStructureLoss, GeneralizedLiftedStructureLoss])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-0.1), "margin=-0.1. Expected: margin >= 0"),
        (dict(distance="manhattan"), "distance='manhattan'. Expected: one of"),
    ],
)
def test_bad_options(loss, options, message):
    with pytest.raises(ValueError, match=message):
        loss(**options)
