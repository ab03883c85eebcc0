"""Distance-weighted sampling: which negatives can be drawn, how many, and how often."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from brute_force import l2, random_batch
from mining import assert_same, batches, check_loss_on_mined_pairs, check_round_trip, check_same_everywhere

from tfdml.layers import References
from tfdml.miners import DistanceWeightedMiner

DIMENSION, CUTOFF, NONZERO_CUTOFF = 6, 0.5, 1.4
# The last two are never drawn; the first two have the same weight.
DISTANCES = np.array([0.2, 0.4, 0.7, 0.9, 1.1, 1.35, 1.45, 1.9])
DRAWS = 20_000


def at_distance(distances):
    """Unit vectors at the given distances from the first axis, in all directions."""
    rest = np.random.default_rng(0).normal(size=(len(distances), DIMENSION - 1))
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    cosines = 1.0 - np.square(distances)[:, None] / 2.0
    return np.concatenate([cosines, np.sqrt(1.0 - cosines**2) * rest], axis=1)


def chances():
    """The probability of each to be drawn first: inverse density, from the formula."""
    d = np.maximum(DISTANCES, CUTOFF)
    density = d ** (DIMENSION - 2) * (1.0 - 0.25 * d**2) ** ((DIMENSION - 3) / 2)
    weights = np.where(DISTANCES < NONZERO_CUTOFF, 1.0 / density, 0.0)
    return weights / weights.sum()


def frequencies(positives, distances=DISTANCES, seed=0, lengths=1.0):
    """The share of samples on the first axis that drew each negative."""
    x = np.zeros((DRAWS, DIMENSION), "float32")
    x[:, 0] = lengths
    references = np.concatenate([at_distance(distances), at_distance(np.full(positives, 0.3))]).astype("float32")
    labels = np.repeat([1, 0], [len(distances), positives])
    chosen = DistanceWeightedMiner(CUTOFF, NONZERO_CUTOFF, seed)(
        np.zeros(DRAWS, int), x, References(references, labels)
    )
    assert np.all(chosen.positives[:, len(distances) :])
    return np.mean(chosen.negatives, axis=0)[: len(distances)]


def assert_close_to(expected, observed):
    """Within four standard deviations of a share of the given number of draws."""
    assert np.all(np.abs(observed - expected) <= 4.0 * np.sqrt(expected * (1.0 - expected) / DRAWS)), observed


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_one_is_drawn_as_often_as_its_weight_says(seed):
    assert_close_to(chances(), frequencies(positives=1, seed=seed))


def test_two_are_drawn_one_after_the_other_without_replacement():
    first, both = chances(), np.zeros(len(DISTANCES))
    for a, b in itertools.permutations(np.flatnonzero(first), 2):
        both[[a, b]] += first[a] * first[b] / (1.0 - first[a])
    assert_close_to(both, frequencies(positives=2))


def test_all_are_drawn_if_there_are_too_few():
    np.testing.assert_array_equal(frequencies(positives=7), DISTANCES < NONZERO_CUTOFF)


def test_equal_weights_if_all_are_far():
    far = np.array([1.45, 1.6, 1.75, 1.95])
    assert_close_to(np.full(4, 0.25), frequencies(positives=1, distances=far))


def test_draws_of_different_batches_follow_the_weights_too():
    """One sample in many batches: the bits of the embeddings change the draw; their length does not change weights."""
    references = np.concatenate([at_distance(DISTANCES), at_distance([0.3])]).astype("float32")
    labels = np.repeat([1, 0], [len(DISTANCES), 1])
    miner, axis = DistanceWeightedMiner(CUTOFF, NONZERO_CUTOFF), np.eye(1, DIMENSION, dtype="float32")

    def draw(length):
        return miner([0], length * axis, References(references, labels)).negatives[0]

    lengths = np.linspace(0.5, 2.0, 2000, dtype="float32")
    draws = tf.function(lambda: tf.map_fn(draw, lengths, fn_output_signature=tf.bool))()
    drawn = np.mean(draws, axis=0)[: len(DISTANCES)]
    expected = chances()
    assert np.all(np.abs(drawn - expected) <= 4.0 * np.sqrt(expected * (1.0 - expected) / len(lengths)))


def test_in_high_dimensions_the_nearest_are_drawn():
    """In 512 dimensions the densities of the two distances, 0.56 and 1.17, differ by a factor of 10^125."""
    x = np.eye(3, 512, dtype="float32")
    x[1, :2], x[2, :3] = [1.0, 0.64], [1.0, 0.0, 3.0]
    miner = DistanceWeightedMiner()
    for length in np.linspace(1.0, 2.0, 20, dtype="float32"):
        references = References(np.concatenate([x[1:], x[:1]]), np.array([1, 2, 0]))
        assert miner([0], length * x[:1], references).negatives.numpy().tolist() == [[True, False, False]]


def test_as_many_negatives_as_positives_in_the_batch_and_against_references():
    def check(masks, x, labels, others, other_labels, in_batch):
        unit, other_units = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-9) for v in (x, others))
        for i, (positives, negatives) in enumerate(zip(*(mask.numpy() for mask in masks))):
            own = (other_labels == labels[i]) & ~(in_batch & (np.arange(len(others)) == i))
            np.testing.assert_array_equal(positives, own)
            allowed, near = other_labels != labels[i], l2(unit[i], other_units) < NONZERO_CUTOFF
            allowed &= near | ~np.any(allowed & near)
            assert not np.any(negatives & ~allowed)
            assert np.sum(negatives) == min(np.sum(own), np.sum(allowed))

    miner = DistanceWeightedMiner(CUTOFF, NONZERO_CUTOFF)
    for x, labels in batches():
        check(miner(labels, x), x, labels, x, labels, True)
    x, labels, references, reference_labels = random_batch(0, batch=40)
    check(miner(labels, x, References(references, reference_labels)), x, labels, references, reference_labels, False)
    exists = np.arange(len(references)) % 2 == 0
    chosen = miner(labels, x, References(references, reference_labels, exists))
    existing = [tf.boolean_mask(mask, exists, axis=1) for mask in chosen]
    check(existing, x, labels, references[exists], reference_labels[exists], False)
    assert not any(np.any(mask.numpy()[:, ~exists]) for mask in chosen)


def test_draw_is_a_function_of_seed_and_embeddings():
    x, labels = random_batch(0, batch=60, classes=6)[:2]
    for dtype in ("float32", "float64"):
        batch = x.astype(dtype)
        assert_same(DistanceWeightedMiner(seed=3)(labels, batch), DistanceWeightedMiner(seed=3)(labels, batch))
        moved = batch.copy()
        moved[0, 0] = np.nextafter(moved[0, 0], batch.dtype.type(9.0))
        for other in (DistanceWeightedMiner(seed=4)(labels, batch), DistanceWeightedMiner(seed=3)(labels, moved)):
            assert np.any(other.negatives != DistanceWeightedMiner(seed=3)(labels, batch).negatives)


def test_same_everywhere():
    check_same_everywhere(DistanceWeightedMiner())


def test_with_a_loss_and_round_trip():
    check_loss_on_mined_pairs(DistanceWeightedMiner())
    check_round_trip(DistanceWeightedMiner(0.4, 1.2, seed=7), "distance_weighted")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(cutoff=0.0), "Expected: 0 < cutoff < nonzero_cutoff"),
        (dict(cutoff=1.4), "Expected: 0 < cutoff < nonzero_cutoff"),
        (dict(cutoff=-1.0), "cutoff=-1.0"),
        (dict(nonzero_cutoff=2.1), "Expected: 0 <= nonzero_cutoff <= 2"),
        (dict(seed=-1), "Expected: an integer >= 0"),
        (dict(seed=0.5), "Expected: an integer >= 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DistanceWeightedMiner(**options)
