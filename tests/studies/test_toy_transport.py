"""The linear program compared with its known solution, and smoothing with the linear program."""

import numpy as np
import pytest
import tensorflow as tf

from studies.toy_transport import BLUE, RED, feature_map, linear_program, smoothed_plan, toy_transport
from tfdml import layers


@pytest.fixture(scope="module")
def costs():
    return np.random.default_rng(0).uniform(0.0, 1.0, (3, 30))


def test_the_map_is_half_informative():
    features, informative = feature_map()
    assert features.shape == (10, 10, 3) and informative.sum() == 50
    assert 0.0 <= features.min() and features.max() <= 1.0
    assert (features[informative][:, 1] < features[informative].max(axis=1)).all()
    assert (features[~informative].argmax(axis=1) == 1).all()


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
def test_linear_program_takes_the_cheapest(costs, ratio):
    plan = linear_program(costs, ratio)
    # By hand: features in the order of their lowest cost, each completely, the last one partly.
    expected, left = np.zeros_like(plan), ratio
    for feature in np.argsort(costs.min(axis=0)):
        expected[costs[:, feature].argmin(), feature] = min(left, 1 / 30)
        left -= expected[:, feature].sum()
    np.testing.assert_allclose(plan, expected, atol=1e-9)


def test_smoothing_costs_at_most_its_entropy(costs):
    """The entropy of a plan is at most log(m + 1), so the cost rises by at most log(m + 1) / ε."""
    exact = linear_program(costs, 0.3)
    gaps = [np.sum(costs * (smoothed_plan(costs, 0.3, smoothing) - exact)) for smoothing in (1.0, 10.0, 100.0, 1e4)]
    assert all(-1e-12 <= gap <= np.log(4) / e for gap, e in zip(gaps, (1.0, 10.0, 100.0, 1e4)))
    assert (np.diff(gaps) < 1e-12).all()
    np.testing.assert_allclose(smoothed_plan(costs, 0.3, 1e5), exact, atol=1e-6)


def test_the_layer_pools_with_these_weights(tmp_path):
    plans = toy_transport(str(tmp_path), smoothings=[5.0], quick=True)[0.2]
    pooling = layers.GeneralizedSumPooling(2, ratio=0.2, smoothing=5.0)
    features = feature_map()[0][None].astype("float32")
    pooling.build(features.shape)
    pooling.prototype_embeddings.assign(tf.constant([RED, BLUE], tf.float32))
    weights = pooling.pooling_weights(features).numpy().ravel()
    np.testing.assert_allclose(weights, plans[5.0].sum(axis=0) / 0.2, atol=1e-6)


def test_report(tmp_path):
    results = toy_transport(str(tmp_path), quick=True)
    assert set(results) == {0.2} and "linear_program" in results[0.2]
    lines = (tmp_path / "toy_transport.csv").read_text().splitlines()
    assert len(lines) == 1 + 5 and "linear program,0." in lines[-1]
    assert all((tmp_path / f"{name}.png").stat().st_size > 1000 for name in ("weights", "distance"))
