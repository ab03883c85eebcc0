"""The loss on (query, positive) pairs against a loop, with its gradients and shapes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from brute_force import check_unknown_batch_size, cosine, random_batch

from tfdml.layers import References
from tfdml.losses.in_batch_negatives import InBatchNegativesLoss
from tfdml.losses.info_nce import InfoNCELoss


def one_way(queries, positives, ids, temperature):
    total = 0.0
    for i, query in enumerate(queries):
        exponentials = np.exp(cosine(query, positives) / temperature)
        of_negatives = np.sum(exponentials[ids != ids[i]])
        total += np.mean([np.log(1.0 + of_negatives / each) for each in exponentials[ids == ids[i]]])
    return total / len(queries)


def loop(ids, pairs, temperature, symmetric):
    queries, positives = pairs[:, 0], pairs[:, 1]
    forth = one_way(queries, positives, ids, temperature)
    return (forth + one_way(positives, queries, ids, temperature)) / 2 if symmetric else forth


BATCHES = {
    "all ids differ": np.array([4, 2, 7, 1, 9]),
    "the same positive twice": np.array([4, 2, 4, 1, 2]),
    "one id": np.array([3, 3, 3, 3, 3]),
    "one pair": np.array([3]),
    "large ids": np.array([0, 2**31 - 1, 2**31 - 2, 2**31 - 1, 5]),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
def test_equals_the_loop(batch, symmetric):
    ids = BATCHES[batch]
    pairs = np.random.default_rng(0).normal(size=(len(ids), 2, 3))
    loss = InBatchNegativesLoss(temperature=0.2, symmetric=symmetric)
    with tf.GradientTape() as tape:
        variable = tf.Variable(pairs)
        values = loss.call(ids, variable)
        value = tf.reduce_mean(values)
    assert values.shape == (len(ids),)
    np.testing.assert_allclose(value, loop(ids, pairs, 0.2, symmetric), rtol=1e-7, atol=1e-9)
    expected = np.zeros_like(pairs)
    for index in np.ndindex(pairs.shape):
        shift = np.zeros_like(pairs)
        shift[index] = 1e-6
        expected[index] = (loop(ids, pairs + shift, 0.2, symmetric) - loop(ids, pairs - shift, 0.2, symmetric)) / 2e-6
    np.testing.assert_allclose(tape.gradient(value, variable), expected, atol=1e-6)


def test_a_query_is_no_negative_of_another_query():
    """Equal queries whose positives are opposite: only query and positive are compared."""
    pairs = np.array([[[1.0], [1.0]], [[1.0], [-1.0]]])
    values = InBatchNegativesLoss(temperature=1.0).call([0, 1], pairs)
    np.testing.assert_allclose(values, [np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))])


def test_plain_embeddings_against_references():
    x, labels, references, reference_labels = random_batch(0)
    references = References(references, reference_labels)
    np.testing.assert_allclose(
        InBatchNegativesLoss(0.3, symmetric=True).against(labels, x, references),
        InfoNCELoss(0.3).against(labels, x, references),
    )


def test_unknown_batch_size():
    check_unknown_batch_size(InBatchNegativesLoss(symmetric=True), np.arange, sample=(2, 3))


def test_compiles_into_a_plain_keras_model():
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(64, 6))
    # Three of the six features identify the document; the others are noise.
    queries = np.concatenate([documents[:, :3], rng.normal(size=(64, 3))], axis=1)
    pairs, ids = np.stack([queries, documents], axis=1).astype("float32"), np.arange(64)
    model = keras.Sequential([keras.Input((2, 6)), keras.layers.Dense(6, use_bias=False)])
    loss = InBatchNegativesLoss(symmetric=True)
    model.compile(optimizer=keras.optimizers.Adam(0.05), loss=loss, jit_compile=False)
    before = loop(ids, model.predict(pairs, verbose=0), 0.05, True)
    model.fit(pairs, ids, epochs=20, batch_size=32, verbose=0)
    assert loop(ids, model.predict(pairs, verbose=0), 0.05, True) < 0.5 * before


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 2, 3, 1)])
def test_shape_mistakes(shape):
    with pytest.raises(ValueError, match="Embeddings are not pairs. Received: shape"):
        InBatchNegativesLoss().call(np.arange(4), np.zeros(shape))


def test_an_id_for_every_pair():
    with pytest.raises(ValueError, match="3 labels and 4 embeddings"):
        InBatchNegativesLoss().call(np.arange(3), np.zeros((4, 2, 3)))


def test_bad_options():
    with pytest.raises(ValueError, match="temperature=0.0. Expected: temperature > 0"):
        InBatchNegativesLoss(temperature=0.0)
