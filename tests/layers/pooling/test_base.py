"""Building blocks of the poolings: weighting, unit vectors, square roots."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers.pooling import Pooling, WeightedPooling
from tfdml.layers.pooling.base import flatten_places, lengths_of, safe_sqrt, unit_vectors


class FirstChannel(WeightedPooling):
    """Attends to the places where the first channel is active."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def attention(self, features):
        return self.factor * tf.nn.relu(features[..., 0])


def test_weighted_mean_and_shares():
    features = np.array([[[1.0, 2.0], [3.0, 4.0], [-1.0, 8.0]], [[0.0, 1.0], [-2.0, 1.0], [0.0, 5.0]]])
    layer = FirstChannel(factor=2.0, dtype="float64")
    np.testing.assert_allclose(layer(features), [[20 / 3, 28 / 3], [0.0, 0.0]])
    np.testing.assert_allclose(layer.pooling_weights(features), [[0.25, 0.75, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    assert FirstChannel.from_config(layer.get_config()).factor == 2.0


def test_a_pooling_states_its_formula():
    with pytest.raises(NotImplementedError):
        Pooling()(tf.zeros((1, 2, 3)))
    with pytest.raises(NotImplementedError):
        WeightedPooling()(tf.zeros((1, 2, 3)))


def test_flatten_places_keeps_what_is_known():
    assert flatten_places(tf.zeros((2, 3, 4, 5))).shape == (2, 12, 5)
    bag = tf.zeros((2, 3, 4))
    assert flatten_places(bag) is bag

    @tf.function(input_signature=[tf.TensorSpec((None, None, 4, 5), tf.float32)])
    def flat(maps):
        bags = flatten_places(maps)
        assert bags.shape.as_list() == [None, None, 5]
        return bags

    np.testing.assert_array_equal(flat(tf.ones((2, 3, 4, 5))), np.ones((2, 12, 5)))


def test_zero_vectors_have_no_direction_and_no_gradient():
    vectors = tf.constant([[3.0, 4.0], [0.0, 0.0]])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(vectors)
        units, lengths = unit_vectors(vectors), lengths_of(vectors)
        first = units[:, 0]
    np.testing.assert_allclose(units, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(lengths, [5.0, 0.0])
    np.testing.assert_allclose(tape.gradient(first, vectors), [[0.128, -0.096], [0.0, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(lengths, vectors), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e13, 1e20, 1e30])
def test_lengths_of_vectors_whose_squares_overflow(scale):
    vectors = tf.constant([[3.0, 4.0], [0.0, -2.0]]) * scale
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(vectors)
        units, lengths = unit_vectors(vectors), lengths_of(vectors)
        first = units[:, 0]
    np.testing.assert_allclose(units, [[0.6, 0.8], [0.0, -1.0]], rtol=1e-6)
    np.testing.assert_allclose(lengths / scale, [5.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(scale * tape.gradient(first, vectors), [[0.128, -0.096], [0.5, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(lengths, vectors), [[0.6, 0.8], [0.0, -1.0]], rtol=1e-6)


def test_safe_sqrt():
    values = tf.constant([4.0, 0.0, 1e-30])
    with tf.GradientTape() as tape:
        tape.watch(values)
        roots = safe_sqrt(values)
    np.testing.assert_allclose(roots, [2.0, 0.0, 1e-15], rtol=1e-6)
    np.testing.assert_allclose(tape.gradient(roots, values), [0.25, 0.0, 5e14], rtol=1e-6)
