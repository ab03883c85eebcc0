"""Losses of queries and candidate items against loops, their gradients, and the mask of negatives."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml import ops


def mask_loop(item_ids, candidate_ids, query_ids, shared_ids):
    batch, negatives = len(item_ids), np.zeros((len(item_ids), len(candidate_ids)), bool)
    for i in range(batch):
        for j, candidate in enumerate(candidate_ids):
            is_own = candidate == item_ids[i]
            of_query = query_ids is not None and candidate in item_ids[query_ids == query_ids[i]]
            is_itself = shared_ids and candidate == query_ids[i]
            negatives[i, j] = not (is_own or of_query or is_itself or candidate == -1)
    return negatives


def losses_loop(similarities, negatives, temperature, log_q):
    q = np.zeros(similarities.shape[1]) if log_q is None else log_q
    values = []
    for i, row in enumerate(similarities):
        weights = np.exp(row / temperature - q)
        values.append(-np.log(weights[i] / (weights[i] + weights[negatives[i]].sum())))
    return np.array(values)


def sample(seed=0, batch=5, more=4):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 4, batch + more)
    ids[-1] = -1
    query_ids, log_q = rng.integers(0, 4, batch), rng.normal(size=len(ids))
    return rng.normal(size=(batch, batch + more)), ids[:batch], ids, query_ids, log_q


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared_ids", [False, True])
@pytest.mark.parametrize("queries", [False, True])
def test_mask_equals_the_loop(seed, shared_ids, queries):
    _, item_ids, candidate_ids, query_ids, _ = sample(seed)
    query_ids = query_ids if queries or shared_ids else None
    found = ops.query_item_negatives(item_ids, candidate_ids, query_ids, shared_ids)
    np.testing.assert_array_equal(found, mask_loop(item_ids, candidate_ids, query_ids, shared_ids))


def test_the_other_item_of_a_query_is_no_negative_of_it_anywhere():
    """The query 7 has the items 0 and 1; 1 is also the item of another query and in a memory."""
    found = ops.query_item_negatives([0, 1, 1, 2], [0, 1, 1, 2, 1, 5], [7, 7, 8, 9]).numpy().astype(int)
    assert found.tolist() == [[0, 0, 0, 1, 0, 1], [0, 0, 0, 1, 0, 1], [1, 0, 0, 1, 0, 1], [1, 1, 1, 0, 1, 1]]


def test_ids_of_queries_and_items_are_separate_unless_shared():
    assert ops.query_item_negatives([0, 1], [0, 1], [1, 0]).numpy().tolist() == [[False, True], [True, False]]
    assert not ops.query_item_negatives([0, 1], [0, 1], [1, 0], shared_ids=True).numpy().any()


def test_large_ids_do_not_collide():
    assert ops.query_item_negatives([2**53, 1], [2**53, 2**53 + 1]).numpy().tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_losses_and_gradients_equal_the_loop(corrected, temperature):
    similarities, item_ids, candidate_ids, _, log_q = sample(1)
    log_q = log_q if corrected else None
    negatives = mask_loop(item_ids, candidate_ids, None, False)
    variable, tau = tf.Variable(similarities), tf.Variable(temperature, dtype=tf.float64)
    with tf.GradientTape() as tape:
        values = ops.query_item_losses(variable, negatives, tau, log_q)
        total = tf.reduce_sum(values)
    np.testing.assert_allclose(values, losses_loop(similarities, negatives, temperature, log_q), atol=1e-12)
    gradients, of_temperature = tape.gradient(total, (variable, tau))
    for index in np.ndindex(similarities.shape):
        shift = np.zeros_like(similarities)
        shift[index] = 1e-6
        up, down = (losses_loop(similarities + s, negatives, temperature, log_q).sum() for s in (shift, -shift))
        assert float(gradients[index]) == pytest.approx((up - down) / 2e-6, abs=1e-7)
    up, down = (losses_loop(similarities, negatives, temperature + s, log_q).sum() for s in (1e-6, -1e-6))
    assert float(of_temperature) == pytest.approx((up - down) / 2e-6, rel=1e-6)


def test_correction_estimates_the_softmax_over_all_items():
    """Averaged over batches, the corrected sum of exponentials is that over the whole catalog."""
    rng = np.random.default_rng(0)
    q, scores = rng.dirichlet(np.ones(6)), rng.normal(size=6)
    drawn = rng.choice(6, size=200_000, p=q)
    assert np.exp(scores[drawn] - np.log(q[drawn])).mean() == pytest.approx(np.exp(scores).sum(), rel=0.02)


def test_a_constant_factor_of_the_probabilities_does_not_matter():
    similarities, item_ids, candidate_ids, _, log_q = sample(2)
    negatives = mask_loop(item_ids, candidate_ids, None, False)
    found = [ops.query_item_losses(similarities, negatives, 0.5, log_q + shift) for shift in (0, 3.0)]
    np.testing.assert_allclose(*found)


def test_a_query_without_negatives_trains_nothing():
    variable = tf.Variable([[1.0, 2.0], [3.0, 0.5]])
    with tf.GradientTape() as tape:
        values = ops.query_item_losses(variable, tf.zeros((2, 2), tf.bool), 0.1)
    assert values.numpy().tolist() == [0.0, 0.0]
    assert not tape.gradient(values, variable).numpy().any()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_extreme_similarities_stay_finite(dtype):
    values = ops.query_item_losses(tf.constant([[1e4, -1e4], [1e4, -1e4]], dtype), [[False, True], [True, False]], 0.05)
    assert values.dtype == (tf.float64 if dtype == "float64" else tf.float32)
    np.testing.assert_allclose(values, [0.0, 4e5], rtol=1e-3)


def test_shared_ids_need_queries():
    with pytest.raises(ValueError, match="shared_ids=True without query_ids"):
        ops.query_item_negatives([0], [0], shared_ids=True)


def test_ids_are_integers():
    with pytest.raises(ValueError, match="0.5 among labels"):
        ops.query_item_negatives([0.5], [0.5])
