import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist, pdist

from tfdml.metrics import (
    class_spread,
    covering_radius,
    distance_range,
    geometry,
    geometry_metrics,
    interclass_distance,
    mean_covering_radius,
    proxy_spread,
)

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
    with pytest.raises(ValueError, match=r"Expected: \(classes, k, d\)"):
        proxy_spread(proxies)


def test_wrong_values():
    with pytest.raises(
        ValueError, match=r"Received: points of shape \(60, 4\) and centers of shape \(12, 3\)"
    ):
        covering_radius(POINTS, CENTERS[:, :3])
    with pytest.raises(ValueError, match=r"Received: point_labels of shape \(59,\). Expected: \(60,\)"):
        covering_radius(POINTS, CENTERS, POINT_LABELS[1:], CENTER_LABELS)
    with pytest.raises(ValueError, match=r"Received: center_labels of shape \(11,\). Expected: \(12,\)"):
        covering_radius(POINTS, CENTERS, POINT_LABELS, CENTER_LABELS[1:])
    with pytest.raises(ValueError, match="Received: centers with NaN or infinity in 1 of 12 rows"):
        covering_radius(POINTS, np.where(np.arange(12)[:, None] == 3, np.nan, CENTERS))
    with pytest.raises(ValueError, match="Received: proxies with NaN or infinity in 4 of 4 rows"):
        proxy_spread(np.full((2, 2, 2), np.inf))
    for function, arguments in ((covering_radius, (POINTS, CENTERS)), (class_spread, (POINTS, POINT_LABELS))):
        with pytest.raises(ValueError, match="Received: reduction='sum'. Expected: one of"):
            function(*arguments, reduction="sum")


def greedy_radii(points):
    """Radii of covers by one, two, … points, from loops over a distance matrix."""
    distances = cdist(points, points)
    chosen = [int(np.argmin(distances.max(axis=1)))]
    radii = []
    while True:
        to_nearest = [min(distances[i, c] for c in chosen) for i in range(len(points))]
        radii.append(max(to_nearest))
        if len(chosen) == len(points):
            return radii
        chosen.append(int(np.argmax(to_nearest)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 1000))
def test_mean_covering_radius_equals_loops(counts, dim, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    points = np.random.default_rng(seed).normal(size=(len(labels), dim))
    expected = [np.mean(greedy_radii(points[labels == c])) for c in range(len(counts))]
    np.testing.assert_allclose(mean_covering_radius(points, labels, None), expected, rtol=1e-9, atol=1e-12)
    assert mean_covering_radius(points, labels) == pytest.approx(np.mean(expected), abs=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 2**25])
@pytest.mark.parametrize("metric", ["l2", "squared_l2", "cosine"])
def test_distances_between_and_within_classes(monkeypatch, metric, block_bytes):
    monkeypatch.setattr(geometry, "_BLOCK_BYTES", block_bytes)
    distances = cdist(POINTS, POINTS, {"l2": "euclidean", "squared_l2": "sqeuclidean"}.get(metric, metric))
    same = POINT_LABELS[:, None] == POINT_LABELS
    largest, smallest = distance_range(POINTS, POINT_LABELS, metric)
    assert largest == pytest.approx(distances[~same].max(), rel=1e-6)
    assert smallest == pytest.approx(distances[same & ~np.eye(60, dtype=bool)].min(), rel=1e-6)
    if metric == "l2":
        assert interclass_distance(POINTS, POINT_LABELS) == pytest.approx(distances[~same].mean(), rel=1e-9)


def test_duplicates_are_at_distance_zero_and_lonely_classes_have_no_distance():
    far = np.repeat(np.random.default_rng(0).normal(size=(3, 128)), 2, axis=0)
    assert distance_range(far, [0, 0, 1, 1, 2, 2])[1] < 1e-6
    assert np.isnan(distance_range(far, np.arange(6))[1])
    assert np.isnan(distance_range(far, np.zeros(6, int))[0]) and np.isnan(interclass_distance(far, np.zeros(6, int)))
    with pytest.raises(ValueError, match="distance='l1'"):
        distance_range(far, np.arange(6), "l1")


def test_geometry_metrics_take_whole_classes_where_there_are_too_many_samples():
    whole = geometry_metrics(POINTS, POINT_LABELS)
    assert whole == {
        "mean_covering_radius": mean_covering_radius(POINTS, POINT_LABELS),
        "interclass_distance": interclass_distance(POINTS, POINT_LABELS),
        "class_spread": class_spread(POINTS, POINT_LABELS),
    }
    ends = POINT_LABELS != 7
    for max_samples in (1, 40, 59):
        assert geometry_metrics(POINTS, POINT_LABELS, max_samples) == geometry_metrics(
            POINTS[ends], POINT_LABELS[ends]
        )
    with pytest.raises(ValueError, match="max_samples=0"):
        geometry_metrics(POINTS, POINT_LABELS, 0)


def test_distances_keep_their_digits_far_from_the_origin():
    points = np.random.default_rng(3).normal(size=(40, 3))
    labels = np.arange(40) % 4
    differences = np.linalg.norm(points[:, None] - points, axis=-1)
    same = labels[:, None] == labels
    for offset in (0.0, 1e6):
        moved = points + offset
        largest, smallest = distance_range(moved, labels)
        assert largest == pytest.approx(differences[~same].max(), rel=1e-8)
        assert smallest == pytest.approx(differences[same & ~np.eye(40, dtype=bool)].min(), rel=1e-8)
        assert interclass_distance(moved, labels) == pytest.approx(differences[~same].mean(), rel=1e-8)
