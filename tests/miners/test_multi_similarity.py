"""Multi-similarity mining against a loop."""

import numpy as np
import pytest
from brute_force import cosine
from mining import check_choice_of, check_loss_on_mined_pairs, check_round_trip, check_same_everywhere

from tfdml.miners import MultiSimilarityMiner


def loop_of(epsilon):
    def loop(anchor):
        own, other = cosine(anchor.x, anchor.positives), cosine(anchor.x, anchor.negatives)
        if not len(own) or not len(other):
            return np.zeros(len(own), bool), np.zeros(len(other), bool)
        return own < np.max(other) + epsilon, other > np.min(own) - epsilon

    return loop


@pytest.mark.parametrize("epsilon", [0.1, 0.4])
def test_equals_the_loop(epsilon):
    check_choice_of(MultiSimilarityMiner(epsilon), loop_of(epsilon))


def test_without_a_tolerance_well_separated_samples_choose_nothing():
    x = np.float32([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.1], [-1.0, -0.1]])
    assert not any(np.any(mask) for mask in MultiSimilarityMiner(0.0)([0, 0, 1, 1], x))
    assert all(np.any(mask) for mask in MultiSimilarityMiner(2.1)([0, 0, 1, 1], x))


def test_same_everywhere():
    check_same_everywhere(MultiSimilarityMiner())


def test_with_a_loss_and_round_trip():
    check_loss_on_mined_pairs(MultiSimilarityMiner())
    check_round_trip(MultiSimilarityMiner(0.3), "multi_similarity")


@pytest.mark.parametrize("epsilon", [-0.1, float("nan"), "0.1"])
def test_bad_epsilon(epsilon):
    with pytest.raises(ValueError, match="Expected: epsilon >= 0"):
        MultiSimilarityMiner(epsilon)
