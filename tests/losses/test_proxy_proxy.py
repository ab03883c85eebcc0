"""Both proxy-proxy losses against loops over the references."""

import numpy as np
import pytest
from brute_force import check_gradients, check_values, cosine

from tfdml import miners
from tfdml.layers import References
from tfdml.losses.proxy_proxy import ProxyProxyLoss

FORMS = [
    dict(margin=0.1, scale=32.0, through_batch=False),
    dict(margin=0.0, scale=2.0, through_batch=False),
    dict(margin=0.1, scale=8.0, through_batch=True),
]


def loop_of(margin, scale, through_batch):
    """The formula as a loop over references."""

    def similarities(proxy, others, x):
        if not through_batch:
            return cosine(proxy, others)
        return sum(cosine(sample, proxy[None])[0] * cosine(sample, others) for sample in x)

    def loop(x, labels, references=None, reference_labels=None):
        in_batch = references is None
        proxies, proxy_labels = (x, labels) if in_batch else (references, reference_labels)
        pulls, pushes = [], []
        for j, (proxy, label) in enumerate(zip(proxies, proxy_labels)):
            own = (labels == label) & (np.arange(len(x)) != j if in_batch else True)
            if np.any(own):
                pulls.append(np.log(1.0 + np.sum(np.exp(-scale * (cosine(proxy, x[own]) - margin)))))
            others = proxies[proxy_labels != label]
            pushes.append(np.logaddexp.reduce([0.0, *scale * (similarities(proxy, others, x) + margin)]))
        return sum(pulls) / max(len(pulls), 1) + sum(pushes) / len(pushes)

    return loop


@pytest.mark.parametrize("options", FORMS[:2])
def test_equals_the_loop(options):
    check_values(ProxyProxyLoss(**options), loop_of(**options))
    check_gradients(ProxyProxyLoss(**options), loop_of(**options))


def test_second_variation_equals_the_loop():
    options = FORMS[2]
    check_gradients(ProxyProxyLoss(**options), loop_of(**options))
    # A loop over a batch of 256 would need 256³ products, so it uses the matrix here.
    check_values(ProxyProxyLoss(**options), _by_matrices(loop_of(**options), **options))


def _by_matrices(loop, margin, scale, through_batch):
    def fast(x, labels, *references):
        if len(x) < 100:
            return loop(x, labels, *references)
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        cosines, same = unit @ unit.T, labels[:, None] == labels[None, :]
        own = same & ~np.eye(len(x), dtype=bool)
        pulls = np.log(1.0 + np.sum(np.where(own, np.exp(-scale * (cosines - margin)), 0.0), axis=0))
        logits = np.where(same, -np.inf, scale * (cosines @ cosines + margin))
        pushes = np.logaddexp(0.0, np.logaddexp.reduce(logits, axis=1))
        return np.mean(pulls[np.any(own, axis=0)]) + np.mean(pushes)

    return fast


@pytest.mark.parametrize("options", FORMS)
def test_references_that_do_not_exist_are_not_counted(options):
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(4, 3)), np.array([0, 1, 1, 2])
    references, reference_labels = rng.normal(size=(5, 3)), np.array([0, 1, 2, 3, 1])
    exists = np.array([True, True, False, True, False])
    values = ProxyProxyLoss(**options).against(labels, x, References(references, reference_labels, exists))
    expected = loop_of(**options)(x, labels, references[exists], reference_labels[exists])
    np.testing.assert_allclose(values, np.full(4, expected))


def test_samples_do_not_push_proxies():
    """In the first variant proxies push each other; a sample of another class has no effect on them."""
    proxies = References(np.eye(3), np.arange(3))
    far, near = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), np.array([[1.0, 0.0, 0.0], [0.0, 0.9, 0.1]])
    loss = ProxyProxyLoss(scale=1e-3)
    labels = np.array([0, 7])  # no proxy has the second label
    np.testing.assert_array_equal(loss.against(labels, far, proxies), loss.against(labels, near, proxies))


def test_a_miner_chooses_among_the_pairs_of_a_batch():
    x, labels = np.random.default_rng(0).normal(size=(9, 3)), np.repeat(np.arange(3), 3)
    positives, negatives = (mask.numpy() for mask in miners.get("hard")(labels, x))
    cosines = np.stack([cosine(sample, x) for sample in x])
    pulls = np.log(1.0 + np.sum(positives * np.exp(-2.0 * (cosines - 0.1)), axis=0))
    pushes = np.log(1.0 + np.sum(negatives * np.exp(2.0 * (cosines + 0.1)), axis=1))
    values = ProxyProxyLoss(scale=2.0, miner="hard").call(labels, x)
    np.testing.assert_allclose(values, np.full(9, np.mean(pulls[positives.any(axis=0)]) + np.mean(pushes)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(margin=-0.1), "margin=-0.1"),
        (dict(scale=0.0), "Expected: scale > 0"),
        (dict(through_batch="yes"), "through_batch='yes'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ProxyProxyLoss(**options)
