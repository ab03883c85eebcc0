"""WELDON: the formula as loops, limits, fewer places than requested, options."""

import numpy as np
import pytest
import tensorflow as tf

from tfdml.layers.pooling import WELDONPooling


@pytest.mark.parametrize(("greatest", "least"), [(1, 1), (3, 2), (2, 0), (20, 20), (50, 1), (3, 99)])
def test_formula(greatest, least):
    features = np.random.default_rng(0).normal(size=(2, 4, 5, 6))
    pooled = WELDONPooling(greatest, least, dtype="float64")(features)
    for index in range(2):
        for k in range(6):
            values = sorted(features[index, ..., k].ravel())
            expected = np.mean(values[-greatest:]) + (np.mean(values[:least]) if least else 0.0)
            np.testing.assert_allclose(pooled[index, k], expected, atol=1e-12)


def test_limits():
    features = np.random.default_rng(0).normal(size=(2, 20, 6))
    np.testing.assert_array_equal(WELDONPooling(1, 0, dtype="float64")(features), features.max(axis=1))
    np.testing.assert_allclose(WELDONPooling(20, 0, dtype="float64")(features), features.mean(axis=1), atol=1e-12)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_fewer_places_than_asked_for_of_unknown_number(jit_compile):
    layer = WELDONPooling(5, 3)
    layer.build((None, None, 6))
    signature = [tf.TensorSpec((None, None, 6), tf.float32)]
    pool = tf.function(lambda bags: layer(bags), input_signature=signature, jit_compile=jit_compile)
    for places in (1, 4, 9):
        features = np.random.default_rng(0).normal(size=(2, places, 6)).astype("float32")
        np.testing.assert_allclose(pool(features), layer(features), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"greatest": 0}, "Received: greatest=0. Expected: an integer >= 1"),
        ({"least": -1}, "Received: least=-1. Expected: an integer >= 0"),
        ({"least": 0.5}, "Received: least=0.5"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        WELDONPooling(**options)
