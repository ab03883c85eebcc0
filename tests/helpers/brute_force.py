"""Formulas as loops over NumPy arrays, and checks for every loss.

A loop is a function `loop(x, labels, references=None, reference_labels=None)` that returns the loss of a batch as a
number, written from the formula. Without references the batch is compared with itself, and no sample is its own
positive.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfdml.layers import References


class Anchor(NamedTuple):
    """A sample with its positive references `(p, dim)`, its negative ones `(n, dim)`, and their indices."""

    index: int
    x: np.ndarray
    label: int
    positives: np.ndarray
    negatives: np.ndarray
    positive_indices: np.ndarray
    negative_indices: np.ndarray


def anchors(x, labels, references=None, reference_labels=None):
    """The samples of a batch, one by one."""
    others, other_labels = (x, labels) if references is None else (references, reference_labels)
    places = np.arange(len(others))
    for i, (vector, label) in enumerate(zip(x, labels)):
        own = other_labels == label
        positive = places[own if references is not None else own & (places != i)]
        negative = places[~own]
        yield Anchor(i, vector, label, others[positive], others[negative], positive, negative)


def l2(x, others):
    """Distances from a vector to others."""
    return np.sqrt(np.sum((others - x) ** 2, axis=-1))


def cosine(x, others):
    """Cosine similarities of a vector to others; 0 with a zero vector."""
    lengths = np.sqrt(np.sum(x * x)) * np.sqrt(np.sum(others * others, axis=-1))
    return np.divide(others @ x, lengths, out=np.zeros(len(others)), where=lengths > 0)


def random_batch(seed, batch=9, classes=3, dim=4, scale=0.5):
    """Embeddings, labels, references and their labels."""
    rng = np.random.default_rng(seed)
    x, labels = rng.normal(size=(batch, dim)) * scale, rng.integers(0, classes, batch)
    references = rng.normal(size=(batch - 2, dim)) * scale
    return x, labels, references, rng.integers(0, classes, batch - 2)


_rng = np.random.default_rng(7)
EDGES = {
    "one class": (_rng.normal(size=(4, 3)), [5, 5, 5, 5]),
    "no positive": (_rng.normal(size=(4, 3)), [0, 1, 2, 3]),
    "one positive pair, no negative": (_rng.normal(size=(2, 3)), [1, 1]),
    "one sample": (_rng.normal(size=(1, 3)), [0]),
    "large labels": (_rng.normal(size=(6, 3)), [0, 2**31 - 1, 2**31 - 2, 2**31 - 1, 0, 2**31 - 2]),
    "all equal": (np.full((4, 3), 0.5), [0, 0, 1, 1]),
    "duplicates": (np.repeat(_rng.normal(size=(3, 3)), 2, axis=0), [0, 0, 1, 1, 0, 1]),
}


def check_values(loss, loop, rtol=1e-5, atol=1e-5, edges=tuple(EDGES)):
    """Check that the loss equals the loop, in the batch and against references, for random and extreme batches."""
    for seed in range(3):
        x, labels, references, reference_labels = random_batch(seed, classes=2 + seed)
        expected = loop(x, labels)
        np.testing.assert_allclose(np.mean(loss.call(labels, x)), expected, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(loss(labels, x.astype("float32")), expected, rtol=rtol, atol=atol)
        np.testing.assert_allclose(
            np.mean(loss.against(labels, x, References(references, reference_labels))),
            loop(x, labels, references, reference_labels), rtol=1e-7, atol=1e-9,
        )  # fmt: skip
    for edge in edges:
        x, labels = EDGES[edge]
        values = loss.call(np.array(labels), x)
        assert values.shape == (len(labels),)
        np.testing.assert_allclose(np.mean(values), loop(x, np.array(labels)), rtol=1e-7, atol=1e-9, err_msg=edge)
    x, labels, _, _ = random_batch(5, batch=256, classes=20, dim=8)
    np.testing.assert_allclose(np.mean(loss.call(labels, x.astype("float32"))), loop(x, labels), rtol=rtol, atol=atol)


def check_gradients(loss, loop, seed=3, step=1e-6, atol=1e-6):
    """Check that gradients of embeddings and references equal central differences of the loop, in float64."""
    x, labels, references, reference_labels = random_batch(seed, batch=7, dim=3)
    with tf.GradientTape() as tape:
        variable = tf.Variable(x)
        value = tf.reduce_mean(loss.call(labels, variable))
    np.testing.assert_allclose(
        _dense(tape.gradient(value, variable)), _differences(lambda x: loop(x, labels), x, step), atol=atol
    )
    with tf.GradientTape() as tape:
        variables = tf.Variable(x), tf.Variable(references)
        value = tf.reduce_mean(loss.against(labels, variables[0], References(variables[1], reference_labels)))
    of_x, of_references = tape.gradient(value, variables)
    np.testing.assert_allclose(
        _dense(of_x), _differences(lambda x: loop(x, labels, references, reference_labels), x, step), atol=atol
    )
    np.testing.assert_allclose(
        _dense(of_references),
        _differences(lambda references: loop(x, labels, references, reference_labels), references, step), atol=atol,
    )  # fmt: skip


def check_unknown_batch_size(loss, labels_of=lambda batch: np.arange(batch) % 2, sample=(3,)):
    """Check that one graph, with and without XLA, serves batches of several sizes."""
    signature = [tf.TensorSpec((None,), tf.int64), tf.TensorSpec((None, *sample), tf.float32)]
    graph = tf.function(loss.call, input_signature=signature, autograph=False)
    compiled = tf.function(graph, jit_compile=True)
    for function, batches in ((graph, (1, 6, 9)), (compiled, (1, 6))):
        for batch in batches:
            x = np.random.default_rng(batch).normal(size=(batch, *sample)).astype("float32")
            labels = tf.constant(labels_of(batch), tf.int64)
            np.testing.assert_allclose(function(labels, tf.constant(x)), loss.call(labels, x), rtol=1e-4, atol=1e-6)


def _dense(gradient):
    return tf.convert_to_tensor(gradient).numpy()


def _differences(function, x, step):
    result = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        result[index] = (function(x + shift) - function(x - shift)) / (2 * step)
    return result
