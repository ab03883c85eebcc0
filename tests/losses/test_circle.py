"""The circle loss against a loop over anchors, and its gradients with frozen weights."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, cosine, random_batch

from tfdml.losses.circle import CircleLoss


def loop_of(margin, scale):
    def loop(*batch, weights_at=None):
        """`weights_at`: another batch, from which the weights are computed; they are constants then."""
        total = 0.0
        for anchor, base in zip(anchors(*batch), anchors(*(weights_at or batch))):
            s_p, s_n = cosine(anchor.x, anchor.positives), cosine(anchor.x, anchor.negatives)
            alpha_p = np.maximum(1 + margin - cosine(base.x, base.positives), 0.0)
            alpha_n = np.maximum(cosine(base.x, base.negatives) + margin, 0.0)
            of_positives = np.sum(np.exp(-scale * alpha_p * (s_p - (1 - margin))))
            of_negatives = np.sum(np.exp(scale * alpha_n * (s_n - margin)))
            total += np.log1p(of_positives * of_negatives)
        return total / len(batch[0])

    return loop


@pytest.mark.parametrize(("margin", "scale"), [(0.4, 80.0), (0.25, 8.0), (0.0, 1.0), (1.0, 2.0)])
def test_equals_the_loop(margin, scale):
    check_values(CircleLoss(margin, scale), loop_of(margin, scale))


@pytest.mark.parametrize(("margin", "scale"), [(0.4, 80.0), (0.25, 8.0), (0.0, 1.0)])
def test_gradients_hold_the_weights(margin, scale):
    loop, base = loop_of(margin, scale), random_batch(3, batch=7, dim=3)
    check_gradients(
        CircleLoss(margin, scale), lambda *batch: loop(*batch, weights_at=base[: len(batch)]), atol=1e-6 * scale
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-0.1), "margin=-0.1. Expected: 0 <= margin <= 1"),
        (dict(margin=1.1), "margin=1.1. Expected: 0 <= margin <= 1"),
        (dict(scale=0.0), "scale=0.0. Expected: scale > 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CircleLoss(**options)
