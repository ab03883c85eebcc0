"""Hard mining against a loop."""

import numpy as np
import pytest
from brute_force import cosine, l2
from mining import TIES, check_choice_of, check_loss_on_mined_pairs, check_round_trip, check_same_everywhere

from tfdml.miners import HardMiner

DISTANCES = {"l2": l2, "squared_l2": lambda *of: l2(*of) ** 2, "cosine": lambda *of: 1.0 - cosine(*of)}


def loop_of(distance):
    def loop(anchor):
        own = DISTANCES[distance](anchor.x, anchor.positives)
        other = DISTANCES[distance](anchor.x, anchor.negatives)
        # Within rounding error of the extremum, for duplicates. Other distances in these tests differ by more.
        return own >= np.max(own, initial=0.0) - 1e-7, other <= np.min(other, initial=np.inf) + 1e-7

    return loop


@pytest.mark.parametrize("distance", ["l2", "squared_l2"])
def test_equals_the_loop(distance):
    check_choice_of(HardMiner(distance), loop_of(distance))


def test_cosine_equals_the_loop():
    x, labels = np.random.default_rng(0).normal(size=(12, 3)), np.repeat(np.arange(4), 3)
    positives, negatives = HardMiner("cosine")(labels, x)
    for i in range(12):
        cosines = cosine(x[i], x)
        own = np.flatnonzero((labels == labels[i]) & (np.arange(12) != i))
        other = np.flatnonzero(labels != labels[i])
        assert np.flatnonzero(positives[i]) == [own[np.argmin(cosines[own])]]
        assert np.flatnonzero(negatives[i]) == [other[np.argmax(cosines[other])]]


def test_equals_of_the_extreme_count():
    _, negatives = HardMiner()(TIES[1], TIES[0])
    assert np.flatnonzero(negatives[0]).tolist() == [3, 4]  # at 2 and at -2


def test_same_everywhere():
    check_same_everywhere(HardMiner())


def test_with_a_loss_and_round_trip():
    check_loss_on_mined_pairs(HardMiner())
    check_round_trip(HardMiner("cosine"), "hard")


def test_bad_distance():
    with pytest.raises(ValueError, match="distance='manhattan'"):
        HardMiner("manhattan")
