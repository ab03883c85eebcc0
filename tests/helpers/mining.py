"""Checks for every miner. A loop returns the masks of the selected pairs, written from the rule of the miner.

A loop is a function `loop(anchor)` from an `Anchor` of `brute_force` to two Boolean arrays: the selected positives and
the selected negatives.
"""

import keras
import numpy as np
import tensorflow as tf
from brute_force import EDGES, anchors, l2, random_batch

from tfdml import losses, miners
from tfdml.layers import References

# Integer distances, so that ties are exact.
TIES = (np.float64([[0.0], [1.0], [-1.0], [2.0], [-2.0], [3.0], [3.0], [-3.0]]), np.array([0, 0, 0, 1, 1, 1, 2, 0]))


def masks_of(loop, x, labels, references=None, reference_labels=None):
    """Masks of the selected positive and negative pairs, `(batch, references)`."""
    shape = (len(x), len(x) if references is None else len(references))
    positives, negatives = np.zeros(shape, bool), np.zeros(shape, bool)
    for anchor in anchors(x, labels, references, reference_labels):
        own, other = loop(anchor)
        positives[anchor.index, anchor.positive_indices[own].astype(int)] = True
        negatives[anchor.index, anchor.negative_indices[other].astype(int)] = True
    return positives, negatives


def batches():
    """Batches compared with themselves: random ones, extreme ones, and one with ties."""
    for seed in range(4):
        yield random_batch(seed, batch=12, classes=2 + seed)[:2]
    for x, labels in EDGES.values():
        yield x, np.array(labels)
    yield TIES
    yield random_batch(5, batch=128, classes=20, dim=8)[:2]


def check_choice_of(miner, loop):
    """Check that the miner selects the pairs of the loop, in the batch and against references, also invalid ones."""
    for x, labels in batches():
        assert_same(miner(labels, x), masks_of(loop, x, labels))
    for seed in range(3):
        x, labels, references, reference_labels = random_batch(seed, batch=12)
        expected = masks_of(loop, x, labels, references, reference_labels)
        assert_same(miner(labels, x, References(references, reference_labels)), expected)
        exists = np.arange(len(references)) % 3 > 0
        chosen = miner(labels, x, References(references, reference_labels, exists))
        existing = masks_of(loop, x, labels, references[exists], reference_labels[exists])
        assert_same([mask.numpy()[:, exists] for mask in chosen], existing)
        assert not any(np.any(mask.numpy()[:, ~exists]) for mask in chosen)


def check_same_everywhere(miner):
    """Check that eager mode, graph (without static shapes) and XLA select the same pairs."""
    large = random_batch(0, batch=100, classes=9)[:2]
    edges = TIES, EDGES["no positive"], EDGES["one sample"], large
    for dtype in ("float32", "float64"):
        unknown = [tf.TensorSpec([None], tf.int64), tf.TensorSpec([None, None], dtype)]
        graph = tf.function(lambda labels, x: miner(labels, x), input_signature=unknown)
        compiled = tf.function(graph, jit_compile=True)
        for function, batches in ((graph, edges), (compiled, (TIES, large) if dtype == "float32" else (large,))):
            for x, labels in batches:
                x, labels = tf.constant(x, dtype), tf.constant(labels, tf.int64)
                assert_same(function(labels, x), [mask.numpy() for mask in miner(labels, x)])


def check_round_trip(miner, name):
    """Check that the miner is restored from its configuration and found by its name."""
    again = miners.get(keras.saving.serialize_keras_object(miner))
    assert type(again) is type(miner) is type(miners.get(name))
    assert again.get_config() == miner.get_config()


def check_loss_on_mined_pairs(miner):
    """Check that a loss with the miner equals the loop over the selected pairs, without a gradient of the selection."""
    x, labels, references, reference_labels = random_batch(1, batch=12)
    loss = losses.get("hadsell", miner=miner)
    again = losses.get(keras.saving.serialize_keras_object(loss))
    assert again.miner.get_config() == miner.get_config()
    for others, other_labels in ((None, None), (references, reference_labels)):
        given = None if others is None else References(others, other_labels)
        positives, negatives = (mask.numpy() for mask in miner(labels, x, given))
        with tf.GradientTape() as tape:
            variable = tf.Variable(x)
            values = again.call(labels, variable) if given is None else again.against(labels, variable, given)
            value = tf.reduce_mean(values)
        distances = np.stack([l2(sample, x if others is None else others) for sample in x])
        terms = positives * distances**2 + negatives * np.maximum(1.0 - distances, 0.0) ** 2
        np.testing.assert_allclose(value, np.sum(terms) / np.sum(positives | negatives))
        assert np.all(np.isfinite(tf.convert_to_tensor(tape.gradient(value, variable))))


def assert_same(masks, expected):
    """Check the masks of positives and of negatives."""
    for mask, wanted in zip(masks, expected):
        np.testing.assert_array_equal(mask, wanted)
