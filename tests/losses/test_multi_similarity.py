"""The multi-similarity loss against a loop."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml import losses

FORMS = {
    "default": dict(),
    "thesis, Cars196": dict(alpha=14.35, beta=75.83, base=0.66),
    "without mining": dict(alpha=1.0, beta=10.0, base=0.2, epsilon=None),
}


def loop_of(name):
    loss = losses.MultiSimilarityLoss(**FORMS[name])

    def loop(*batch):
        total = 0.0
        for anchor in anchors(*batch):
            positive, negative = cosine(anchor.x, anchor.positives), cosine(anchor.x, anchor.negatives)
            if loss.epsilon is not None:
                # Without the other side there is nothing to compare with, so nothing is selected.
                hard_positive = positive[positive < max(negative, default=-np.inf) + loss.epsilon]
                negative = negative[negative > min(positive, default=np.inf) - loss.epsilon]
                positive = hard_positive
            total += np.log1p(np.sum(np.exp(-loss.alpha * (positive - loss.base)))) / loss.alpha
            total += np.log1p(np.sum(np.exp(loss.beta * (negative - loss.base)))) / loss.beta
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize("name", FORMS)
def test_equals_the_loop(name):
    check_values(losses.MultiSimilarityLoss(**FORMS[name]), loop_of(name))
    check_gradients(losses.MultiSimilarityLoss(**FORMS[name]), loop_of(name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(alpha=0), "alpha=0. Expected: alpha > 0"),
        (dict(beta=-1), "beta=-1. Expected: beta > 0"),
        (dict(base=2), "base=2. Expected: -1 <= base <= 1"),
        (dict(epsilon=-0.1), "epsilon=-0.1. Expected: epsilon >= 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        losses.MultiSimilarityLoss(**options)
