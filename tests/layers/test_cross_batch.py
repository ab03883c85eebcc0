"""CrossBatchPrototypes against a loop and finite differences; degenerate batches, files and errors."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers import CrossBatchPrototypes

PROTOTYPES, DIM = 5, 3
BATCHES = {
    "grouped": [4, 4, 2, 2, 0, 0, 6, 6],
    "odd number of classes": [3, 1, 0, 3, 1, 0],
    "unequal counts": [2, 2, 2, 2, 2, 6, 0, 0],
    "two classes": [7, 7, 1, 1],
    "two samples": [3, 1],
}


def make_batch(labels, seed=0):
    generator = np.random.default_rng(seed)
    attributes = generator.dirichlet(np.ones(PROTOTYPES), size=len(labels))
    return attributes, generator.normal(size=(len(labels), DIM)), np.asarray(labels)


def by_loop(attributes, embeddings, labels, ridge):
    """Solve the normal equations of each half, augmented by rows for the penalty, with least squares."""
    classes = list(dict.fromkeys(labels.tolist()))
    half = np.array([classes.index(label) % 2 for label in labels])
    expressed = np.zeros_like(embeddings)
    for fitted in (0, 1):
        inputs = np.concatenate([attributes[half == fitted], np.sqrt(ridge) * np.eye(PROTOTYPES)])
        targets = np.concatenate([embeddings[half == fitted], np.zeros((PROTOTYPES, DIM))])
        prototypes = np.linalg.lstsq(inputs, targets, rcond=None)[0]
        for j in np.flatnonzero(half != fitted):
            expressed[j] = sum(attributes[j, i] * prototypes[i] for i in range(PROTOTYPES))
    return expressed


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("ridge", [0.05, 2.0])
def test_equals_the_loop(labels, ridge):
    attributes, embeddings, labels = make_batch(labels)
    expressed, is_split = CrossBatchPrototypes(ridge, dtype="float64")(attributes, embeddings, labels)
    assert bool(is_split)
    np.testing.assert_allclose(expressed, by_loop(attributes, embeddings, labels, ridge), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("labels", BATCHES.values(), ids=BATCHES)
def test_gradients_equal_finite_differences(labels):
    attributes, embeddings, labels = make_batch(labels)
    upstream = np.random.default_rng(3).normal(size=embeddings.shape)
    variables = [tf.Variable(attributes), tf.Variable(embeddings)]
    with tf.GradientTape() as tape:
        expressed, _ = CrossBatchPrototypes(dtype="float64")(*variables, labels)
        value = tf.reduce_sum(expressed * upstream)
    for position, gradient in enumerate(tape.gradient(value, variables)):
        for index in np.ndindex(*gradient.shape):
            sides = []
            for step in (1e-6, -1e-6):
                arguments = [attributes.copy(), embeddings.copy()]
                arguments[position][index] += step
                sides.append(np.sum(upstream * by_loop(*arguments, labels, 0.05)))
            assert float(gradient[index]) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-5, abs=1e-6)


def test_convex_combinations_of_common_prototypes_are_found_again():
    """If all embeddings combine the same prototypes, those fitted to other classes express them."""
    attributes, _, labels = make_batch(np.repeat(np.arange(4), 6))
    embeddings = attributes @ np.random.default_rng(1).normal(size=(PROTOTYPES, DIM))
    expressed, _ = CrossBatchPrototypes(1e-9, dtype="float64")(attributes, embeddings, labels)
    np.testing.assert_allclose(expressed, embeddings, atol=1e-5)


@pytest.mark.parametrize("labels", [[2], [2, 2, 2, 2]])
def test_one_class_is_left_alone(labels):
    variables = [tf.Variable(values) for values in make_batch(labels)[:2]]
    with tf.GradientTape() as tape:
        expressed, is_split = CrossBatchPrototypes(dtype="float64")(*variables, np.array(labels))
        value = tf.reduce_sum(expressed)
    assert not bool(is_split)
    np.testing.assert_array_equal(expressed, variables[1])
    for gradient in tape.gradient(value, variables, unconnected_gradients="zero"):
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.parametrize(
    "attributes",
    [np.zeros((6, PROTOTYPES)), np.full((6, PROTOTYPES), 1 / PROTOTYPES), np.eye(6, PROTOTYPES)],
    ids=["zero", "equal", "one-hot"],
)
def test_values_and_gradients_are_finite(attributes):
    variables = [tf.Variable(attributes, dtype=tf.float32), tf.Variable(np.ones((6, DIM)), dtype=tf.float32)]
    with tf.GradientTape() as tape:
        expressed, _ = CrossBatchPrototypes()(*variables, np.array([0, 0, 1, 1, 2, 2]))
        value = tf.reduce_sum(expressed**2)
    for result in (expressed, *tape.gradient(value, variables)):
        assert np.isfinite(tf.convert_to_tensor(result)).all()


@pytest.mark.integration
def test_graph_of_any_batch_and_half_precision():
    layer = CrossBatchPrototypes()
    kinds = ((None, PROTOTYPES), tf.float32), ((None, DIM), tf.bfloat16), ((None,), tf.int64)
    function = tf.function(layer, input_signature=[tf.TensorSpec(*kind) for kind in kinds])
    for labels in ([0, 1, 0], [4, 4, 1, 1]):
        attributes, embeddings, labels = make_batch(labels)
        batch = tf.cast(attributes, tf.float32), tf.cast(embeddings, tf.bfloat16), tf.constant(labels)
        expressed, _ = function(*batch)
        assert expressed.dtype == tf.float32
        wanted = by_loop(attributes, np.asarray(tf.cast(batch[1], tf.float64)), labels, 0.05)
        np.testing.assert_allclose(expressed, wanted, atol=1e-3)


def test_round_trip_in_a_model(tmp_path):
    inputs = [keras.Input((PROTOTYPES,)), keras.Input((DIM,)), keras.Input((), dtype="int64")]
    layer = CrossBatchPrototypes(0.2, name="cross_batch")
    model = keras.Model(inputs, layer(*inputs)[0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    assert again.get_layer("cross_batch").get_config() == layer.get_config() and not layer.weights
    batch = [tf.cast(values, tensor.dtype) for values, tensor in zip(make_batch(BATCHES["grouped"]), inputs)]
    np.testing.assert_array_equal(again(batch), model(batch))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 5), (3, 2), (4,)), r"do not match. Received: shapes \(4, 5\) and \(3, 2\)"),
        (((4, 2, 5), (4, 2), (4,)), r"of attributes. Received: shape \(4, 2, 5\). Expected: \(batch, prototypes\)"),
        (((4, 5), (4, 2, 2), (4,)), r"rank of embeddings. Received: shape \(4, 2, 2\). Expected: \(batch, dim\)"),
        (((4, 5), (4, 2), (3,)), "one label per"),
    ],
)
def test_bad_shapes(shapes, message):
    with pytest.raises(ValueError, match=message):
        CrossBatchPrototypes()(np.ones(shapes[0]), np.ones(shapes[1]), np.zeros(shapes[2], int))


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan")])
def test_bad_options(ridge):
    with pytest.raises(ValueError, match=f"Received: ridge={ridge}"):
        CrossBatchPrototypes(ridge)
