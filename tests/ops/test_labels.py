"""Valid class labels: eagerly, in graphs and under XLA, which drops assertions."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdml import losses, ops
from tfdml.ops.labels import label_column


@pytest.mark.parametrize(
    "labels",
    [
        [3, -1, 2**40],
        np.array([3, 0], "uint8"),
        np.array([2**32 - 1, 2**31], "uint32"),
        np.array([True, False]),
        np.array([3.0, -0.0, 2.0**24 - 1.0], "float32"),
        np.array([3.0, -(2.0**53) + 1.0]),
        tf.constant([255.0, -7.0], tf.bfloat16),
        tf.constant([2047.0], tf.float16),
        np.array([5, 2**40], object),
        np.array([[1], [2]]),
        np.zeros(0, int),
    ],
    ids=str,
)
def test_whole_numbers_are_taken(labels):
    found = ops.integer_labels(labels)
    assert found.dtype == tf.int64 and ops.integer_labels(found) is not None
    np.testing.assert_array_equal(found, np.asarray(labels).astype("float64").astype("int64"))


BAD_FLOATS = {
    "fraction": ([0.0, 1.5], "Labels must be whole numbers. Received: 1.5 among labels of dtype float32"),
    "not a number": ([0.0, np.nan], "Received: nan among"),
    "infinity": ([np.inf, 1.0], "Received: inf among"),
    "too large": ([2.0**24, 1.0], "whole numbers below 1.67772e\\+07 in size. Received: 1.67772e\\+07 among"),
}


@pytest.mark.parametrize("case", BAD_FLOATS)
def test_other_floats_raise(case):
    labels, message = BAD_FLOATS[case]
    with pytest.raises(ValueError, match=message + ".*encode_labels"):
        ops.integer_labels(np.float32(labels))
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be whole numbers"):
        tf.function(ops.integer_labels)(np.float32(labels))
    np.testing.assert_array_equal(ops.known_labels(np.float32(labels)), [labels[0] == 0.0, labels[0] != 0.0])


@pytest.mark.parametrize(
    "labels",
    [["cat", "dog"], np.array(["cat"]), np.array([b"cat"]), tf.constant(["cat"]), np.array([0, None]), [1j, 2j]],
    ids=str,
)
def test_types_that_are_not_numbers_raise(labels):
    with pytest.raises(ValueError, match="Labels must be integers. Received: labels of dtype .*encode_labels"):
        ops.integer_labels(labels)


def test_columns():
    for labels in ([2, 0], [[2], [0]], np.array([[2], [0]], np.uint8), tf.constant([[2], [0]])):
        assert label_column(labels, count=2).tolist() == [2, 0]
    assert label_column([["oak"], ["elm"]]).tolist() == ["oak", "elm"]
    assert label_column(np.zeros((0, 1), int)).shape == (0,)
    for labels, count in (([[1, 2]], None), (3, None), ([[[1]]], None), ([1, 2], 3)):
        with pytest.raises(ValueError, match="one for each sample. Received: codes of shape .* Expected: .* or "):
            label_column(labels, "codes", count)


def test_labels_of_a_range():
    np.testing.assert_array_equal(ops.check_label_range([0, 2], 3, "proxies"), [0, 2])
    for labels, wrong in (([0, 3], "3"), ([-1, 0], "-1"), ([7, 7, 5], "5, 7")):
        with pytest.raises(ValueError, match=f"out of range for proxies. Received: {wrong}. Expected: 0 <= label < 3"):
            ops.check_label_range(labels, 3, "proxies")
        with pytest.raises(tf.errors.InvalidArgumentError, match="out of range for proxies"):
            tf.function(lambda given: ops.check_label_range(given, 3, "proxies"))(tf.constant(labels))
    np.testing.assert_array_equal(ops.known_labels([-1, 0, 2, 3], 3), [False, True, True, False])


def test_a_loss_of_such_labels():
    """Every loss raises an error where assertions compile, and is NaN under XLA."""
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    good, bad = np.float32([0, 0, 1, 1]), np.float32([0, 0, 0.4, 1])
    loss = losses.get("multi_similarity")
    with pytest.raises(ValueError, match="Received: 0.4 among labels"):
        loss.call(bad, x)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be whole numbers"):
        tf.function(loss.call)(tf.constant(bad), x)
    compiled = tf.function(loss.call, jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(good), x), loss.call(good, x), rtol=1e-5)
    assert np.isnan(tf.reduce_mean(compiled(tf.constant(bad), x)))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_in_a_plain_keras_model(jit_compile):
    """Keras casts labels to float32 before it calls the loss."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(optimizer="sgd", loss=losses.get("c2"), jit_compile=jit_compile, run_eagerly=not jit_compile)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    assert np.isfinite(model.train_on_batch(x, np.array([0, 0, 1, 1])))
    if jit_compile:
        assert np.isnan(model.train_on_batch(x, np.float32([0, 0, 0.5, 1])))
    else:
        with pytest.raises(ValueError, match="Received: 0.5 among labels"):
            model.train_on_batch(x, np.float32([0, 0, 0.5, 1]))
