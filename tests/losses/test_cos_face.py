"""CosFace against a loop."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml.losses.cos_face import CosFaceLoss


def loop_of(margin, scale):
    def loop(*batch):
        values = []
        for anchor in anchors(*batch):
            targets = np.exp(scale * (cosine(anchor.x, anchor.positives) - margin))
            others = np.sum(np.exp(scale * cosine(anchor.x, anchor.negatives)))
            values.append(np.mean(-np.log(targets / (targets + others))) if len(targets) else 0.0)
        return np.mean(values)

    return loop


@pytest.mark.parametrize("options", [dict(margin=0.35, scale=64.0), dict(margin=0.0, scale=2.0)])
def test_equals_the_loop(options):
    check_values(CosFaceLoss(**options), loop_of(**options))
    check_gradients(CosFaceLoss(**options), loop_of(**options))


def test_large_scales_do_not_overflow():
    """The cosines are -1 with the only positive and 1 with the only negative: a difference of 2 plus the margin."""
    x, labels = np.float32([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1])
    np.testing.assert_allclose(CosFaceLoss(margin=0.5, scale=1e4).call(labels, x)[0], 2.5e4)


@pytest.mark.parametrize(
    ("options", "message"), [(dict(margin=-0.1), "margin=-0.1"), (dict(scale=0.0), "Expected: scale > 0")]
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        CosFaceLoss(**options)
