"""Proxy-Anchor against a loop over the references."""

import numpy as np
import pytest
from brute_force import check_gradients, check_values, cosine

from tfdml.layers import References
from tfdml.losses.proxy_anchor import ProxyAnchorLoss


def loop_of(margin, scale):
    """The formula as a loop over references."""

    def loop(x, labels, references=None, reference_labels=None):
        in_batch = references is None
        proxies, proxy_labels = (x, labels) if in_batch else (references, reference_labels)
        pulls, pushes = [], []
        for j, (proxy, label) in enumerate(zip(proxies, proxy_labels)):
            others = np.arange(len(x)) != j if in_batch else np.ones(len(x), bool)
            similarities = cosine(proxy, x)
            own, other = similarities[(labels == label) & others], similarities[labels != label]
            if len(own):
                pulls.append(np.log(1.0 + np.sum(np.exp(-scale * (own - margin)))))
            pushes.append(np.log(1.0 + np.sum(np.exp(scale * (other + margin)))))
        return sum(pulls) / max(len(pulls), 1) + sum(pushes) / len(pushes)

    return loop


@pytest.mark.parametrize("options", [dict(margin=0.1, scale=32.0), dict(margin=0.0, scale=2.0)])
def test_equals_the_loop(options):
    check_values(ProxyAnchorLoss(**options), loop_of(**options))
    check_gradients(ProxyAnchorLoss(**options), loop_of(**options))


def test_references_that_do_not_exist_are_not_counted():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 3)), np.array([0, 1, 1, 2])
    references, reference_labels = rng.normal(size=(5, 3)), np.array([0, 1, 2, 3, 1])
    exists = np.array([True, True, False, True, False])
    values = ProxyAnchorLoss().against(labels, x, References(references, reference_labels, exists))
    expected = loop_of(0.1, 32.0)(x, labels, references[exists], reference_labels[exists])
    np.testing.assert_allclose(values, np.full(4, expected))


def test_an_empty_memory_is_worth_nothing():
    references = References(np.ones((3, 2)), np.array([0, 1, 2]), np.zeros(3, bool))
    np.testing.assert_array_equal(ProxyAnchorLoss().against(np.array([0, 1]), np.ones((2, 2)), references), [0.0, 0.0])


@pytest.mark.parametrize(
    ("options", "message"), [(dict(margin=-0.1), "margin=-0.1"), (dict(scale=0.0), "Expected: scale > 0")]
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ProxyAnchorLoss(**options)
