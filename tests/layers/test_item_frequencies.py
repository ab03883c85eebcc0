"""Frequencies of items: the streaming estimate against a loop, given counts, and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import layers

MODES = {
    "eager": lambda function: function,
    "graph of unknown batch": lambda function: tf.function(
        function, input_signature=[tf.TensorSpec((None,), tf.int64)]
    ),
    "xla": lambda function: tf.function(function, jit_compile=True),
}


@pytest.mark.parametrize("mode", MODES)
def test_estimate_equals_the_loop(mode):
    rng = np.random.default_rng(0)
    frequencies = layers.ItemFrequencies(5, rate=0.3)
    update = MODES[mode](frequencies.update)
    gaps, last = {}, {}
    for step in range(1, 9):
        ids = rng.integers(0, 8, 3)
        update(tf.constant(ids))
        for place in set(ids % 5):
            since = step - last.get(place, 0)
            gaps[place] = 0.7 * gaps[place] + 0.3 * since if place in gaps else since
            last[place] = step
    expected = [gaps.get(place, 9) for place in range(5)]
    np.testing.assert_allclose(frequencies.log_probabilities(np.arange(5)), -np.log(expected), rtol=1e-5)
    np.testing.assert_array_equal(frequencies.log_probabilities([1, 6]), frequencies.log_probabilities([6, 1]))


def test_estimate_converges_to_the_probability_of_a_batch():
    rng = np.random.default_rng(1)
    q = np.array([0.5, 0.3, 0.15, 0.05])
    frequencies = layers.ItemFrequencies(4, rate=0.02)
    update = tf.function(frequencies.update)
    for _ in range(1500):
        update(tf.constant(rng.choice(4, 2, p=q)))
    # An item is in a batch of two with probability 1 - (1 - q)².
    np.testing.assert_allclose(np.exp(frequencies.log_probabilities(range(4))), 1 - (1 - q) ** 2, rtol=0.3)


def test_given_counts():
    frequencies = layers.ItemFrequencies.from_counts([6, 2, 0, 4])
    np.testing.assert_allclose(frequencies.log_probabilities([0, 1, 2, 3]), np.log([6 / 12, 2 / 12, 2 / 12, 4 / 12]))
    frequencies.update([1, 2])
    assert int(frequencies.steps) == 0
    with pytest.raises(ValueError, match=r"out of range for ItemFrequencies\(4, rate=0\). Received: 4"):
        frequencies.log_probabilities([4])


def test_config_and_weights():
    frequencies = layers.ItemFrequencies.from_counts([3, 1], name="f")
    made = layers.ItemFrequencies.from_config(frequencies.get_config())
    made.set_weights(frequencies.get_weights())
    assert (made.size, made.rate, made.name) == (2, 0.0, "f") and not made.trainable_weights
    np.testing.assert_array_equal(made.log_probabilities([0, 1]), frequencies.log_probabilities([0, 1]))
    assert "ItemFrequencies" in keras.saving.serialize_keras_object(frequencies)["registered_name"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.ItemFrequencies(0), "size=0"),
        (lambda: layers.ItemFrequencies(3, rate=1.5), "rate=1.5"),
        (lambda: layers.ItemFrequencies(3).set_counts([1, 2]), r"\(2,\). Expected: \(3,\)"),
        (lambda: layers.ItemFrequencies.from_counts([1, -1]), "values from -1 to 1"),
        (lambda: layers.ItemFrequencies.from_counts([0, 0]), "at least one of them positive"),
        (lambda: layers.ItemFrequencies.from_counts([np.nan, 1]), "finite"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
