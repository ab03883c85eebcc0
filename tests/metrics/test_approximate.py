"""Approximate search with Faiss compared with exact search."""

import sys

import numpy as np
import pytest

from tfdml.metrics import retrieval_metrics
from tfdml.metrics.approximate import ApproximateSearch, neighbor_recall
from tfdml.metrics.retrieval import query_gallery_metrics
from tfdml.metrics.search import NeighborSearch

FLOATS = ("precision_at_1", "recall_at_1", "recall_at_4", "r_precision", "map_at_r")


def samples(count=600, classes=40, dim=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    points = rng.normal(size=(classes, dim))[labels] + 0.8 * rng.normal(size=(count, dim))
    return points.astype("float32"), labels


def brute_force(queries, references, count, own=None):
    """Indices of the nearest references; for ties, the lower index comes first."""
    distances = np.square(queries[:, None].astype(float) - references[None].astype(float)).sum(axis=2)
    if own is not None:
        distances[np.arange(len(queries)), own] = np.inf
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


@pytest.mark.parametrize("with_gallery", [False, True])
@pytest.mark.parametrize("duplicates", [False, True])
def test_with_all_lists_it_is_exact(with_gallery, duplicates):
    pytest.importorskip("faiss")
    points, labels = samples()
    if duplicates:
        points[100:104] = points[:4]
    is_query = np.arange(len(labels)) % 3 == 0 if with_gallery else None
    exact = query_gallery_metrics(points, labels, is_query, ks=(1, 4))
    if with_gallery:
        points_and_labels = points[is_query], labels[is_query], points[~is_query], labels[~is_query]
    else:
        points_and_labels = points, labels
    found = retrieval_metrics(*points_and_labels, ks=(1, 4), neighbors="faiss", probes=1)
    assert found.pop("neighbor_recall") == 1.0
    assert found == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("probes", [0.05, 0.25])
def test_the_recall_is_that_of_brute_force(probes):
    pytest.importorskip("faiss")
    points, _ = samples()
    counts, own = np.full(len(points), 5), np.arange(len(points))
    search = ApproximateSearch(points, probes)
    found = np.empty((len(points), 5), int)
    for rows, near in search.blocks(points, counts, own):
        found[rows] = near
    expected = brute_force(points, points, 5, own)
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(found, expected)]
    measured = neighbor_recall(search, NeighborSearch(points), points, counts, own, sample=len(points))
    assert measured == pytest.approx(np.mean(shares))
    assert 0.1 < measured < 1.0


def test_it_is_the_same_each_time_and_leaves_out_the_own_sample():
    pytest.importorskip("faiss")
    points, labels = samples(seed=1)
    first, second = (retrieval_metrics(points, labels, neighbors="faiss", probes=0.1) for _ in range(2))
    assert first == second
    search = ApproximateSearch(points, 0.1)
    for rows, near in search.blocks(points, np.full(len(points), 3), np.arange(len(points))):
        assert not (near == rows[:, None]).any()


def test_neighbors_that_the_lists_do_not_contain_are_missing():
    pytest.importorskip("faiss")
    points, _ = samples(count=100)
    search = ApproximateSearch(points, 0.01)
    ((_, near),) = search.blocks(points[:1], np.array([99]))
    assert (near[0] == -1).any() and near[0, 0] == 0
    there = near[0][near[0] >= 0]
    assert len(set(there)) == len(there)


def test_without_faiss_the_error_says_how_to_have_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    points, labels = samples(count=20)
    with pytest.raises(ImportError, match=r"Received: neighbors='faiss'. Expected: .*pip install 'tfdml\[faiss\]'"):
        retrieval_metrics(points, labels, neighbors="faiss")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"neighbors": "annoy"}, "Received: neighbors='annoy'"),
        ({"probes": 0.0}, "Received: probes=0.0. Expected: 0 < probes <= 1"),
        ({"probes": 1.5}, "Received: probes=1.5"),
        ({"part": (3, 3)}, r"Received: part=\(3, 3\). Expected: \(index, count\) with 0 <= index < count"),
    ],
)
def test_refuses(options, message):
    points, labels = samples(count=20)
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(points, labels, **options)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_parts_of_the_queries_make_the_whole(count):
    points, labels = samples(count=101, classes=50, seed=2)
    whole = retrieval_metrics(points, labels, ks=(1, 4))
    parts = [retrieval_metrics(points, labels, ks=(1, 4), part=(index, count)) for index in range(count)]
    for name in ("queries", "queries_without_reference"):
        assert sum(part[name] for part in parts) == whole[name]
    for name in FLOATS:
        mean = np.average([part[name] for part in parts], weights=[part["queries"] for part in parts])
        assert mean == pytest.approx(whole[name], abs=1e-12)
