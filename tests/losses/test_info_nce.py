"""The InfoNCE loss against a loop over positive pairs."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml.losses.info_nce import InfoNCELoss
from tfdml.losses.supervised_contrastive import SupervisedContrastiveLoss


def loop_of(temperature):
    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            of_negatives = np.sum(np.exp(cosine(anchor.x, anchor.negatives) / temperature))
            of_positives = np.exp(cosine(anchor.x, anchor.positives) / temperature)
            if len(of_positives):
                total += np.mean([-np.log(each / (each + of_negatives)) for each in of_positives])
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_equals_the_loop(temperature):
    check_values(InfoNCELoss(temperature), loop_of(temperature))
    check_gradients(InfoNCELoss(temperature), loop_of(temperature), atol=2e-6)


def test_with_one_positive_each_it_is_the_supervised_contrastive_loss():
    x, labels = np.random.default_rng(0).normal(size=(12, 4)), np.tile(np.arange(6), 2)
    np.testing.assert_allclose(InfoNCELoss(0.2).call(labels, x), SupervisedContrastiveLoss(0.2).call(labels, x))


def test_other_positives_take_no_part():
    """Three equal samples and one opposite: each pair is log(1 + e^-2), regardless of the number of positives."""
    x = np.array([[1.0], [2.0], [3.0], [-1.0]])
    values = InfoNCELoss(temperature=1.0).call([0, 0, 0, 1], x)
    np.testing.assert_allclose(values, [np.log1p(np.exp(-2.0))] * 3 + [0.0])


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_bad_options(temperature):
    with pytest.raises(ValueError, match="temperature=.*. Expected: temperature > 0"):
        InfoNCELoss(temperature=temperature)
