import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from tfdml.metrics import class_spread, covering_radius, geometry, proxy_spread

GENERATOR = np.random.default_rng(0)
POINTS = GENERATOR.normal(size=(60, 4)).astype(np.float32)
CENTERS = GENERATOR.normal(size=(12, 4)).astype(np.float32)
POINT_LABELS = np.repeat([5, 7, 9], 20)
CENTER_LABELS = np.tile([9, 7, 5, 6], 3)


def radii_by_scipy():
    radii = []
    for label in (5, 7, 9):
        distances = cdist(POINTS[POINT_LABELS == label], CENTERS[CENTER_LABELS == label])
        radii.append(max(min(row) for row in distances))
    return radii


def test_covering_radius_of_each_class():
    radii = covering_radius(POINTS, CENTERS, POINT_LABELS, CENTER_LABELS, reduction=None)
    assert radii.dtype == np.float64
    np.testing.assert_allclose(radii, radii_by_scipy(), rtol=1e-12)


@pytest.mark.parametrize("reduction, reduce", [("max", np.max), ("mean", np.mean)])
def test_reductions(reduction, reduce):
    received = covering_radius(POINTS, CENTERS, POINT_LABELS, CENTER_LABELS, reduction)
    assert isinstance(received, float)
    assert received == pytest.approx(reduce(radii_by_scipy()))


def test_covering_radius_without_labels_is_of_one_class():
    expected = cdist(POINTS, CENTERS).min(axis=1).max()
    assert covering_radius(POINTS, CENTERS) == pytest.approx(expected, rel=1e-12)
    assert covering_radius(POINTS, CENTERS, reduction=None).shape == (1,)


def test_covering_radius_goes_block_by_block(monkeypatch):
    whole = covering_radius(POINTS, CENTERS)
    monkeypatch.setattr(geometry, "_BLOCK_BYTES", 1)
    assert covering_radius(POINTS, CENTERS) == whole


def test_covering_radius_by_hand_with_names_and_tensors():
    points = tf.constant([[0.0, 0.0], [3.0, 4.0], [10.0, 0.0], [10.0, 2.0]])
    radii = covering_radius(points, [[0.0, 0.0], [10.0, 3.0]], list("aabb"), list("ab"), reduction=None)
    np.testing.assert_allclose(radii, [5.0, 3.0])


def test_points_that_are_centers_are_at_distance_zero():
    far = POINTS + np.float32(1e4)
    assert covering_radius(far, far[::-1]) == 0.0


def test_a_class_without_centers():
    with pytest.raises(ValueError, match=r"Received: points without a center in 2 classes, such as \[5, 9\]"):
        covering_radius(POINTS, CENTERS, POINT_LABELS, np.full(12, 7))


@pytest.mark.parametrize("labels", [{"point_labels": POINT_LABELS}, {"center_labels": CENTER_LABELS}])
def test_labels_of_one_side(labels):
    with pytest.raises(ValueError, match=f"Received: {next(iter(labels))} alone"):
        covering_radius(POINTS, CENTERS, **labels)


def test_class_spread():
    expected = []
    for label in (5, 7, 9):
        members = POINTS[POINT_LABELS == label].astype(np.float64)
        expected.append(np.mean([np.sqrt(sum((row - members.mean(axis=0)) ** 2)) for row in members]))
    np.testing.assert_allclose(class_spread(POINTS, POINT_LABELS, reduction=None), expected, rtol=1e-12)
    assert class_spread(POINTS, POINT_LABELS) == pytest.approx(np.mean(expected))
    assert class_spread(POINTS, POINT_LABELS, "max") == pytest.approx(np.max(expected))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 3), st.integers(0, 1000))
def test_proxy_spread_equals_scipy(classes, per_class, dim, seed):
    proxies = np.random.default_rng(seed).normal(size=(classes, per_class, dim)).astype(np.float32)
    spread = proxy_spread(proxies)
    assert spread.shape == (classes,) and spread.dtype == np.float64
    np.testing.assert_allclose(spread, [pdist(proxies[c]).mean() for c in range(classes)], rtol=1e-12)


def test_proxy_spread_of_collapsed_and_of_single_proxies_is_zero():
    collapsed = tf.fill((3, 4, 2), 0.3)
    np.testing.assert_array_equal(proxy_spread(collapsed), np.zeros(3))
    np.testing.assert_array_equal(proxy_spread(np.ones((5, 1, 2))), np.zeros(5))


@pytest.mark.parametrize("proxies", [np.ones((3, 2)), np.ones((0, 2, 2)), np.ones((2, 0, 2))])
def test_proxy_spread_wrong_shape(proxies):
    with pytest.raises(ValueError, match=r"expected \(classes, k, d\)"):
        proxy_spread(proxies)


def test_wrong_values():
    with pytest.raises(
        ValueError, match=r"Received: points of shape \(60, 4\) and centers of shape \(12, 3\)"
    ):
        covering_radius(POINTS, CENTERS[:, :3])
    with pytest.raises(ValueError, match=r"Received: point_labels of shape \(59,\); expected \(60,\)"):
        covering_radius(POINTS, CENTERS, POINT_LABELS[1:], CENTER_LABELS)
    with pytest.raises(ValueError, match=r"Received: center_labels of shape \(11,\); expected \(12,\)"):
        covering_radius(POINTS, CENTERS, POINT_LABELS, CENTER_LABELS[1:])
    with pytest.raises(ValueError, match="Received: centers with NaN or infinity in 1 of 12 rows"):
        covering_radius(POINTS, np.where(np.arange(12)[:, None] == 3, np.nan, CENTERS))
    with pytest.raises(ValueError, match="Received: proxies with NaN or infinity in 4 of 4 rows"):
        proxy_spread(np.full((2, 2, 2), np.inf))
    for function, arguments in ((covering_radius, (POINTS, CENTERS)), (class_spread, (POINTS, POINT_LABELS))):
        with pytest.raises(ValueError, match="Received: reduction='sum'; expected one of"):
            function(*arguments, reduction="sum")
