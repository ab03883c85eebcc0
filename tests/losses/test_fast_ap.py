"""The FastAP loss against a loop over anchors and bins."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_unknown_batch_size, check_values, cosine

from tfdml.losses.fast_ap import FastAPLoss


def histogram(distances, bins):
    """The triangular pulse of each distance at each center, summed over the distances."""
    step = 4.0 / bins
    centers = np.linspace(0.0, 4.0, bins + 1)
    return np.array([np.sum(np.maximum(1.0 - np.abs(distances - center) / step, 0.0)) for center in centers])


def loop_of(bins):
    def loop(*batch):
        values = []
        for anchor in anchors(*batch):
            if not len(anchor.positives):
                continue
            of_positives = histogram(2.0 - 2.0 * cosine(anchor.x, anchor.positives), bins)
            of_all = of_positives + histogram(2.0 - 2.0 * cosine(anchor.x, anchor.negatives), bins)
            average = 0.0
            for k in range(bins + 1):
                if of_positives[k] > 0.0:
                    average += of_positives[k] * np.sum(of_positives[: k + 1]) / np.sum(of_all[: k + 1])
            values.append(1.0 - average / len(anchor.positives))
        return sum(values) / max(len(values), 1)

    return loop


@pytest.mark.parametrize("bins", [1, 3, 10])
def test_equals_the_loop(bins):
    check_values(FastAPLoss(bins), loop_of(bins))
    check_gradients(FastAPLoss(bins), loop_of(bins))


def test_best_and_worst_batch():
    """Positives equal to the anchor and opposite negatives rank perfectly; the reverse does not."""
    x = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    np.testing.assert_allclose(FastAPLoss().call([0, 0, 1, 1], x), 0.0, atol=1e-9)
    # The only positive comes last, after both negatives or tied with one of them: precision 1 / 3.
    np.testing.assert_allclose(FastAPLoss().call([0, 1, 0, 1], x), 2.0 / 3.0)


def test_not_a_number_stays_one():
    """NaN does not become an index outside of the histogram."""
    x = np.array([[np.nan, 0.0], [1.0, 0.0], [0.0, 1.0]], "float32")
    assert np.isnan(tf.reduce_mean(FastAPLoss().call([0, 0, 1], x)))


def test_unknown_batch_size():
    check_unknown_batch_size(FastAPLoss())


@pytest.mark.parametrize("bins", [0, -1, 2.5])
def test_bad_options(bins):
    with pytest.raises(ValueError, match="bins=.*. Expected: an integer >= 1"):
        FastAPLoss(bins=bins)
