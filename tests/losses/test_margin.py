"""The margin loss against a loop, and its learned boundaries."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import EDGES, anchors, check_gradients, check_values, l2, random_batch

from tfdml import losses
from tfdml.layers import References

FORMS = {
    "fixed": dict(margin=0.2, beta=0.8),
    "global": dict(margin=0.3, beta=0.7, learn_beta=True, beta_weight=0.1),
    "class": dict(margin=0.1, beta=0.6, learn_beta=True, num_classes=3),
}


def make(name):
    loss = losses.MarginLoss(**FORMS[name])
    if name == "class":
        loss.parameters.boundaries.assign([0.5, 0.7, 0.9])
    return loss


def loop_of(name):
    loss = make(name)
    # Rounded to float32, like the weights.
    own = {"fixed": [0.8], "global": [np.float32(0.7)], "class": np.float32([0.5, 0.7, 0.9])}[name]

    def loop(*batch):
        terms, boundaries = [], []
        for anchor in anchors(*batch):
            boundary = np.float64(own[anchor.label] if anchor.label < len(own) else np.float32(np.mean(own)))
            boundaries.append(boundary)
            terms.extend(np.maximum(loss.margin + l2(anchor.x, anchor.positives) - boundary, 0.0))
            terms.extend(np.maximum(loss.margin - l2(anchor.x, anchor.negatives) + boundary, 0.0))
        return sum(terms) / max(np.count_nonzero(terms), 1) + loss.beta_weight * np.mean(boundaries)

    return loop


@pytest.mark.parametrize("name", FORMS)
def test_equals_the_loop(name):
    loss = make(name)
    if name == "class":
        loss.num_classes = 20  # For batches of up to 20 classes, with boundaries for the first three.
        loss.parameters.boundaries = tf.Variable([0.5, 0.7, 0.9, *[0.7] * 17])
    check_values(loss, loop_of(name), edges=[edge for edge in EDGES if edge != "large labels"])
    check_gradients(loss, loop_of(name))


def test_evaluation_takes_unseen_classes():
    """Labels below 0 and beyond the last class use the mean boundary."""
    x, labels = random_batch(0, classes=4)[:2]
    expected = loop_of("class")(x, labels)
    for unseen in (3, 10, 2**31 - 1, -1, -(2**40)):
        found = make("class").call_unseen(np.where(labels == 3, unseen, labels), x)
        np.testing.assert_allclose(np.mean(found), expected, rtol=1e-6)


@pytest.mark.parametrize("label", [3, 1000, -1])
def test_training_takes_no_class_without_a_boundary(label):
    loss, x = make("class"), np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    labels, known = tf.constant([0, 0, 1, label]), tf.constant([0, 0, 1, 2])
    references = References(x, known)
    message = r"Labels are out of range for MarginLoss\(num_classes=3, …\)"
    for score in (loss.call, lambda labels, x: loss.against(labels, x, references)):
        with pytest.raises(ValueError, match=f"{message}. Received: {label}. Expected: 0 <= label < 3"):
            score(labels, x)
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            tf.function(score)(labels, tf.constant(x))
        if label != -1:
            continue
        compiled = tf.function(score, jit_compile=True)
        np.testing.assert_array_equal(np.isnan(compiled(labels, tf.constant(x))), [False, False, False, True])
        np.testing.assert_allclose(compiled(known, tf.constant(x)), score(known, x), rtol=1e-5)


def test_gradient_of_the_boundaries():
    """Each nonzero term moves the boundary of its class: up for a positive pair, down for a negative one."""
    loss, x, labels = make("class"), np.array([[0.0], [1.0], [1.2]]), np.array([0, 0, 1])
    # Terms: (0,1) and (1,0) positive at 1; (1,2) at 0.2, (2,1) at 0.2 negative; (0,2), (2,0) at 1.2 are 0.
    with tf.GradientTape() as tape:
        value = tf.reduce_mean(loss.call(labels, x))
    gradient = tape.gradient(value, tf.convert_to_tensor(loss.parameters.trainable_variables[0]))
    if gradient is None:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss.call(labels, x))
        gradient = tape.gradient(value, loss.parameters.trainable_variables)[0]
    np.testing.assert_allclose(tf.convert_to_tensor(gradient), [-1 / 4, 1 / 4, 0.0], atol=1e-6)


def test_a_plain_model_trains_the_boundary_if_it_has_it():
    keras.utils.set_random_seed(0)
    class Model(keras.Model):
        def __init__(self, loss):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.loss_parameters = loss.parameters

        def call(self, inputs):
            return self.dense(inputs)

    loss = make("global")
    model = Model(loss)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss)
    x, labels = np.random.default_rng(0).normal(size=(16, 4)).astype("float32"), np.repeat(np.arange(4), 4)
    model.fit(x, labels, epochs=3, verbose=0)
    assert abs(float(np.asarray(loss.parameters.boundaries)[0]) - 0.7) > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-1), "margin=-1. Expected: margin >= 0"),
        (dict(beta=0), "beta=0. Expected: beta > 0"),
        (dict(beta_weight=-0.1), "beta_weight=-0.1"),
        (dict(num_classes=3), "num_classes=3 with learn_beta=False. Expected: learn_beta=True"),
        (dict(distance="l1"), "distance='l1'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        losses.MarginLoss(**options)


def test_configurations_of_earlier_versions():
    config = losses.MarginLoss(beta=0.5, learn_beta=True, beta_weight=0.1).get_config()
    config["boundary"], config["boundary_weight"] = config.pop("beta"), config.pop("beta_weight")
    config["trainable"] = "global"
    del config["learn_beta"]
    loss = losses.MarginLoss.from_config(config)
    assert (loss.beta, loss.learn_beta, loss.beta_weight) == (0.5, True, 0.1)
