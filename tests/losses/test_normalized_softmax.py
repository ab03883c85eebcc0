"""The normalized softmax loss against a loop."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml.losses.normalized_softmax import NormalizedSoftmaxLoss


def loop_of(temperature):
    def loop(*batch):
        values = []
        for anchor in anchors(*batch):
            targets = np.exp(cosine(anchor.x, anchor.positives) / temperature)
            others = np.sum(np.exp(cosine(anchor.x, anchor.negatives) / temperature))
            values.append(np.mean(-np.log(targets / (targets + others))) if len(targets) else 0.0)
        return np.mean(values)

    return loop


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equals_the_loop(temperature):
    check_values(NormalizedSoftmaxLoss(temperature), loop_of(temperature))
    check_gradients(NormalizedSoftmaxLoss(temperature), loop_of(temperature))


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="Expected: temperature > 0"):
        NormalizedSoftmaxLoss(temperature)
