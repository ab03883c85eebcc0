"""Hard-negative mining against a loop."""

import numpy as np
import pytest
from brute_force import cosine, l2
from mining import check_choice_of, check_loss_on_mined_pairs, check_round_trip, check_same_everywhere

from tfdml.miners import HardNegativeMiner

DISTANCES = {"l2": l2, "squared_l2": lambda *of: l2(*of) ** 2, "cosine": lambda *of: 1.0 - cosine(*of)}


@pytest.mark.parametrize("distance", DISTANCES)
def test_equals_the_loop(distance):
    def loop(anchor):
        accepted = DISTANCES[distance](anchor.x, anchor.negatives) < 0.75
        return np.ones(len(anchor.positives), bool), accepted

    check_choice_of(HardNegativeMiner(0.75, distance), loop)


def test_with_a_loss_and_round_trip():
    check_same_everywhere(HardNegativeMiner())
    check_loss_on_mined_pairs(HardNegativeMiner(1.5))
    check_round_trip(HardNegativeMiner(0.7, "cosine"), "hard_negative")


def test_bad_arguments():
    with pytest.raises(ValueError, match="threshold=0. Expected: threshold > 0"):
        HardNegativeMiner(0)
    with pytest.raises(ValueError, match="distance='l1'"):
        HardNegativeMiner(distance="l1")
