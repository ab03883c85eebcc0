"""ProxyNCA++ against a loop."""

import numpy as np
import pytest
from brute_force import anchors, check_gradients, check_values, l2

from tfdml.layers import ClassProxies
from tfdml.losses.proxy_nca_plus_plus import ProxyNCAPlusPlusLoss


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def loop_of(temperature):
    def loop(*batch):
        values = []
        for anchor in anchors(*batch):
            own = np.sum(np.exp(-(l2(unit(anchor.x), unit(anchor.positives)) ** 2) / temperature))
            other = np.sum(np.exp(-(l2(unit(anchor.x), unit(anchor.negatives)) ** 2) / temperature))
            values.append(-np.log(own / (own + other)) if own else 0.0)
        return np.mean(values)

    return loop


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_equals_the_loop(temperature):
    check_values(ProxyNCAPlusPlusLoss(temperature), loop_of(temperature))
    check_gradients(ProxyNCAPlusPlusLoss(temperature), loop_of(temperature))


def test_low_temperatures_neither_overflow_nor_vanish():
    """The distances² are 4 to the only positive and 0 to the only negative."""
    x, labels = np.float32([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, 1])
    np.testing.assert_allclose(ProxyNCAPlusPlusLoss(1e-4).call(labels, x)[0], 4e4)


def test_several_proxies_of_a_class_are_summed():
    proxies = ClassProxies(num_classes=3, per_class=2, embedding_size=4)()
    x, labels = np.random.default_rng(0).normal(size=(5, 4)), np.array([0, 1, 2, 2, 0])
    expected = loop_of(0.1)(x, labels, proxies.embeddings.numpy().astype("float64"), proxies.labels.numpy())
    np.testing.assert_allclose(np.mean(ProxyNCAPlusPlusLoss().against(labels, x, proxies)), expected, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="Expected: temperature > 0"):
        ProxyNCAPlusPlusLoss(temperature)
