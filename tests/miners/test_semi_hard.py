"""Semi-hard mining against a loop over all triplets."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import cosine, l2
from mining import TIES, check_choice_of, check_loss_on_mined_pairs, check_round_trip, check_same_everywhere

from tfdml.miners import SemiHardMiner

DISTANCES = {"l2": l2, "squared_l2": lambda *of: l2(*of) ** 2, "cosine": lambda *of: 1.0 - cosine(*of)}
ROUNDING = 1e-9


def loop_of(margin, distance="l2"):
    """Loops over positive pairs and negatives; distances within rounding error count as equal."""

    def loop(anchor):
        own = DISTANCES[distance](anchor.x, anchor.positives)
        other = DISTANCES[distance](anchor.x, anchor.negatives)
        chosen, choosing = np.zeros(len(other), bool), np.zeros(len(own), bool)
        for p, near in enumerate(own):
            semi_hard = [far for far in other if far > near + ROUNDING and far < near + margin - ROUNDING]
            if semi_hard:
                choosing[p] = True
                chosen |= np.abs(other - min(semi_hard)) < ROUNDING
        return choosing, chosen

    return loop


@pytest.mark.parametrize(
    ("margin", "distance"), [(0.2, "l2"), (1.0, "l2"), (100.0, "l2"), (0.5, "squared_l2"), (0.3, "cosine")]
)
def test_equals_the_loop(margin, distance):
    check_choice_of(SemiHardMiner(margin, distance), loop_of(margin, distance))


def test_bounds_are_strict_and_equals_of_the_nearest_count():
    x, labels = TIES
    positives, negatives = SemiHardMiner(margin=1.5)(labels, x)
    # The first sample is at 0, its positives at 1, 1, 3, its negatives at 2, 2, 3, 3. The positives at 1 select
    # the two at 2, and no negative is beyond 3.
    assert np.flatnonzero(positives[0]).tolist() == [1, 2]
    assert np.flatnonzero(negatives[0]).tolist() == [3, 4]
    # A difference of exactly the margin is too large.
    assert not np.any(SemiHardMiner(margin=1.0)(labels, x).positives[0])


def test_same_everywhere():
    check_same_everywhere(SemiHardMiner(margin=0.5))


def test_same_within_a_compiled_gradient():
    """Also if XLA computes distances separately for the selection and for the loss."""
    rng = np.random.default_rng(0)
    x, labels = tf.constant(rng.normal(size=(200, 16)).astype("float32")), rng.integers(0, 20, 200)

    def mined(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            positives, negatives = SemiHardMiner()(labels, x)
            distances = tf.reduce_sum(tf.square(x[:, None] - x[None]), axis=-1)
            value = tf.reduce_sum(tf.where(positives, distances, 0.0) - tf.where(negatives, distances, 0.0))
        return positives, negatives, tape.gradient(value, x)

    eager, compiled = mined(x), tf.function(mined, jit_compile=True)(x)
    for mask, expected in zip(compiled[:2], eager[:2]):
        np.testing.assert_array_equal(mask, expected)
    np.testing.assert_allclose(compiled[2], eager[2], rtol=1e-4, atol=1e-3)


def test_with_a_loss_and_round_trip():
    check_loss_on_mined_pairs(SemiHardMiner(margin=0.5))
    check_round_trip(SemiHardMiner(0.3, "cosine"), "semi_hard")


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(margin=0.0), "Expected: margin > 0"), (dict(distance="manhattan"), "distance='manhattan'")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SemiHardMiner(**options)
