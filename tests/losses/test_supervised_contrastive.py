"""The supervised contrastive loss against a loop over anchors."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml.losses.supervised_contrastive import SupervisedContrastiveLoss


def loop_of(temperature):
    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            if len(anchor.positives):
                of_positives = np.exp(cosine(anchor.x, anchor.positives) / temperature)
                of_negatives = np.exp(cosine(anchor.x, anchor.negatives) / temperature)
                total -= np.mean(np.log(of_positives / (np.sum(of_positives) + np.sum(of_negatives))))
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_equals_the_loop(temperature):
    check_values(SupervisedContrastiveLoss(temperature), loop_of(temperature))
    check_gradients(SupervisedContrastiveLoss(temperature), loop_of(temperature), atol=2e-6)


def test_best_batch():
    """Two classes at opposite points: each of two positives has half of the softmax."""
    x = np.array([[1.0], [2.0], [3.0], [-1.0], [-2.0], [-3.0]], "float32")
    values = SupervisedContrastiveLoss(temperature=0.05).call([0, 0, 0, 1, 1, 1], x)
    np.testing.assert_allclose(values, np.log(2.0), rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_bad_options(temperature):
    with pytest.raises(ValueError, match="temperature=.*. Expected: temperature > 0"):
        SupervisedContrastiveLoss(temperature=temperature)
