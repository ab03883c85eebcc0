"""Proxy-NCA against a loop."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, l2

from tfdml.layers import ClassProxies
from tfdml.losses.proxy_nca import ProxyNCALoss


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def loop_of(scale):
    def loop(*batch):
        values = []
        for anchor in anchors(*batch):
            near = np.sum(np.exp(-scale * l2(unit(anchor.x), unit(anchor.positives)) ** 2))
            far = np.sum(np.exp(-scale * l2(unit(anchor.x), unit(anchor.negatives)) ** 2))
            values.append(-np.log(near / far) if near and far else 0.0)
        return np.mean(values)

    return loop


@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_equals_the_loop(scale):
    check_values(ProxyNCALoss(scale), loop_of(scale))
    check_gradients(ProxyNCALoss(scale), loop_of(scale))


def test_large_scales_neither_overflow_nor_vanish():
    """The distances² are 4 to the only positive and 0 to the only negative."""
    x, labels = np.float32([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1])
    np.testing.assert_allclose(ProxyNCALoss(1e4).call(labels, x)[0], 4e4)


def test_several_proxies_of_a_class_are_summed():
    proxies = ClassProxies(num_classes=3, per_class=2, embedding_size=4)()
    x, labels = np.random.default_rng(0).normal(size=(5, 4)), np.array([0, 1, 2, 2, 0])
    expected = loop_of(1.0)(x, labels, proxies.embeddings.numpy().astype("float64"), proxies.labels.numpy())
    np.testing.assert_allclose(np.mean(ProxyNCALoss().against(labels, x, proxies)), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), "1"])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match="Expected: scale > 0"):
        ProxyNCALoss(scale)
