"""ArcFace against a loop over angles, beyond 180°, and where the gradient of the angle is infinite."""

import numpy as np
import pytest
import tensorflow as tf
from brute_force import anchors, check_gradients, check_values, cosine

from tfdml.layers import References
from tfdml.losses.arc_face import ArcFaceLoss


def loop_of(margin, scale):
    """The formula in terms of angles."""
    radians = np.deg2rad(margin)

    def loop(*batch):
        values = []
        for anchor in anchors(*batch):
            cosines = np.clip(cosine(anchor.x, anchor.positives), -1.0, 1.0)
            angles = np.arccos(cosines) + radians
            targets = np.exp(scale * np.where(angles <= np.pi, np.cos(angles), cosines - radians * np.sin(radians)))
            others = np.sum(np.exp(scale * cosine(anchor.x, anchor.negatives)))
            values.append(np.mean(-np.log(targets / (targets + others))) if len(targets) else 0.0)
        return np.mean(values)

    return loop


@pytest.mark.parametrize("options", [dict(margin=28.6, scale=64.0), dict(margin=80.0, scale=2.0), dict(margin=0.0)])
def test_equals_the_loop(options):
    options = {"scale": 16.0, **options}
    check_values(ArcFaceLoss(**options), loop_of(**options))
    check_gradients(ArcFaceLoss(**options), loop_of(**options))


@pytest.mark.parametrize("margin", [10.0, 28.6, 90.0])
def test_the_larger_the_angle_the_larger_the_value(margin):
    angles = np.linspace(0.0, np.pi, 200)
    x = np.stack([np.cos(angles), np.sin(angles), np.zeros(200)], axis=1)
    references = References(np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), np.array([0, 1]))
    values = ArcFaceLoss(margin, scale=4.0).against(np.zeros(200, int), x, references).numpy()
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradient_is_finite_along_and_against_the_reference(dtype):
    """The derivative of the angle with respect to the cosine is infinite at 0° and 180°."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(20, 5)), 2, axis=0) * np.tile([1.0, -1.0], 20)[:, None]
    # Each sample has two references of its class: one in its direction and one opposite.
    x, labels = tf.constant(x.astype(dtype)), np.repeat(np.arange(20), 2)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        values = ArcFaceLoss().against(labels, x, References(tf.identity(x), labels)), ArcFaceLoss().call(labels, x)
    for value in values:
        assert np.all(np.isfinite(value))
        gradient = tape.gradient(value, x).numpy()
        assert np.all(np.isfinite(gradient)) and np.max(np.abs(gradient)) < 1e3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-1.0), "margin=-1.0. Expected: 0 <= margin <= 90"),
        (dict(margin=91.0), "Expected: 0 <= margin <= 90"),
        (dict(scale=0.0), "Expected: scale > 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ArcFaceLoss(**options)
