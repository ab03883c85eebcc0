"""The ranked list loss against a loop over anchors, and its gradients with frozen weights."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values, l2, random_batch

from tfdml.losses.ranked_list import RankedListLoss

FORMS = {
    "default": dict(margin=0.4, negative_boundary=1.2, temperature=10.0, balance=0.5),
    "all negatives alike": dict(margin=0.2, negative_boundary=0.8, temperature=0.0, balance=0.7),
    "no room for positives": dict(margin=1.0, negative_boundary=1.0, temperature=3.0, balance=0.2),
    "positives alone": dict(margin=0.4, negative_boundary=1.0, temperature=1.0, balance=0.0),
    "negatives alone": dict(margin=0.4, negative_boundary=1.0, temperature=1.0, balance=1.0),
}


def loop_of(name):
    margin, alpha, temperature, balance = FORMS[name].values()

    def loop(*batch, weights_at=None):
        """`weights_at`: another batch, from which the weights are computed; they are constants then."""
        total = 0.0
        for anchor, base in zip(anchors(*batch), anchors(*(weights_at or batch))):
            d, fixed = l2(anchor.x, anchor.negatives), l2(base.x, base.negatives)
            weights = np.exp(temperature * (alpha - fixed)) * (fixed < alpha)
            push = np.sum(weights * np.maximum(alpha - d, 0.0)) / max(np.sum(weights), 1e-300)
            pulls = [each - (alpha - margin) for each in l2(anchor.x, anchor.positives) if each > alpha - margin]
            total += (1 - balance) * (np.mean(pulls) if pulls else 0.0) + balance * push
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("name", FORMS)
def test_equals_the_loop(name):
    check_values(RankedListLoss(**FORMS[name]), loop_of(name))


@pytest.mark.parametrize("name", FORMS)
def test_gradients_hold_the_weights(name):
    loop, base = loop_of(name), random_batch(3, batch=7, dim=3)
    check_gradients(RankedListLoss(**FORMS[name]), lambda *batch: loop(*batch, weights_at=base[: len(batch)]))


def test_no_gradient_is_nan_where_pairs_beyond_the_boundary_would_overflow():
    """Without a negative within the boundary, the exponentials of the others must not matter."""
    x = tf.Variable(np.array([[0.0], [0.01], [5.0]], "float32"))
    with tf.GradientTape() as tape:
        values = RankedListLoss(temperature=100.0).call([0, 0, 1], x)
    np.testing.assert_allclose(values, 0.0)
    np.testing.assert_allclose(tape.gradient(values, x), 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-0.1), "margin=-0.1. Expected: 0 <= margin <= 1.2"),
        (dict(margin=1.3), "margin=1.3. Expected: 0 <= margin <= 1.2"),
        (dict(negative_boundary=0.0), "negative_boundary=0.0. Expected: negative_boundary > 0"),
        (dict(temperature=-1.0), "temperature=-1.0. Expected: temperature >= 0"),
        (dict(balance=1.5), "balance=1.5. Expected: 0 <= balance <= 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        RankedListLoss(**options)
