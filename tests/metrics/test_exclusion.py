"""Retrieval metrics without the references of a query's camera, session or product, compared with loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml.metrics import query_gallery_metrics, retrieval_metrics, retrieval_metrics_from_distances
from tfdml.metrics.exclusion import FilteredSearch, first_kept
from tfdml.metrics.search import NeighborSearch

EYE = np.eye(3)


def by_loops(distances, labels, reference_labels, groups, reference_groups, rule, ks, alone):
    """The definitions as loops: leave out, rank, count."""
    collected, without = [], 0
    for query, row in enumerate(distances):
        ranking = []
        for index, distance in enumerate(row):
            same_group = groups[query] == reference_groups[index]
            same_class = labels[query] == reference_labels[index]
            left_out = same_group and (same_class or rule == "group")
            if not left_out and not (alone and index == query):
                ranking.append((distance, index))
        right = [reference_labels[index] == labels[query] for _, index in sorted(ranking)]
        total = sum(right)
        if total == 0:
            without += 1
            continue
        average = sum(sum(right[: i + 1]) / (i + 1) for i in range(total) if right[i]) / total
        collected.append([right[0], *(any(right[:k]) for k in ks), sum(right[:total]) / total, average])
    names = ["precision_at_1", *(f"recall_at_{k}" for k in ks), "r_precision", "map_at_r"]
    means = np.mean(collected, axis=0) if collected else np.full(len(names), np.nan)
    return {**dict(zip(names, means)), "queries": len(collected), "queries_without_reference": without}


def squared_distances(queries, references):
    return np.square(queries[:, None].astype(np.float64) - references[None]).sum(axis=-1)


def make(generator, count, dim=2, classes=3, groups=3):
    # Integers, so that ties and duplicates are frequent.
    points = generator.integers(-2, 3, (count, dim)).astype(np.float32)
    return points, generator.integers(0, classes, count), generator.integers(0, groups, count)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equals_loops(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    alone, rule = data.draw(st.booleans()), data.draw(st.sampled_from(["class_and_group", "group"]))
    groups_count = data.draw(st.integers(1, 6))
    points, labels, groups = make(generator, data.draw(st.integers(1, 25)), groups=groups_count)
    references, reference_labels, reference_groups = points, labels, groups
    exclude, further = [f"camera {group}" for group in groups], ()
    if not alone:
        references, reference_labels, reference_groups = make(generator, data.draw(st.integers(1, 25)), groups=4)
        exclude, further = (groups, reference_groups), (references, reference_labels)
    ks = (1, 3, 40)
    distances = squared_distances(points, references)
    expected = by_loops(distances, labels, reference_labels, groups, reference_groups, rule, ks, alone)
    received = retrieval_metrics(
        points, labels, *further, ks=ks, exclude=exclude, exclude_rule=rule, block_bytes=data.draw(
            st.sampled_from([1, 2**26])
        )
    )  # fmt: skip
    of_matrix = retrieval_metrics_from_distances(
        distances, labels, None if alone else reference_labels, ks, exclude, rule
    )
    for name, value in expected.items():
        assert received[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
        assert of_matrix[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_market_1501_by_hand():
    # Query of person 1, camera 0. The reference at 1 is junk, the one at 2 a distractor of the same camera.
    labels, cameras = [1, 2, 1, 3, 1], [0, 0, 1, 1, 2]
    points = np.arange(1.0, 6.0)[:, None]
    found = retrieval_metrics([[0.0]], [1], points, labels, ks=(1, 2), exclude=([0], cameras))
    # The ranking is 2 1 3 1: R = 2, and only the second is right.
    assert (found["precision_at_1"], found["recall_at_2"], found["r_precision"], found["map_at_r"]) == (0, 1, 0.5, 0.25)
    found = retrieval_metrics([[0.0]], [1], points, labels, exclude=([0], cameras), exclude_rule="group")
    # The ranking is 1 3 1.
    assert (found["precision_at_1"], found["r_precision"], found["map_at_r"]) == (1, 0.5, 0.5)


@pytest.mark.parametrize("rule", ["class_and_group", "group"])
def test_each_sample_as_its_own_group_changes_nothing(rule):
    points, labels, _ = make(np.random.default_rng(0), 40)
    own = np.arange(40)
    expected = retrieval_metrics(points, labels)
    assert retrieval_metrics(points, labels, exclude=own, exclude_rule=rule) == expected
    # The same with queries among separate references.
    both = retrieval_metrics(points, labels, points, labels, exclude=(own, own), exclude_rule=rule)
    assert both == expected
    assert retrieval_metrics_from_distances(squared_distances(points, points), labels) == pytest.approx(expected)


def test_one_group_leaves_nothing():
    points, labels, _ = make(np.random.default_rng(0), 10)
    for rule in ("class_and_group", "group"):
        found = retrieval_metrics(points, labels, exclude=np.zeros(10, int), exclude_rule=rule)
        assert (found["queries"], found["queries_without_reference"]) == (0, 10)
        assert np.isnan(found["map_at_r"])


def test_a_group_around_the_query_is_searched_in_several_rounds(monkeypatch):
    # The 600 nearest references of each query are of its group.
    generator = np.random.default_rng(0)
    groups = np.repeat([0, 1], 600)
    points = generator.normal(size=(1200, 4)) + 20.0 * groups[:, None]
    rounds = []
    blocks = NeighborSearch.blocks
    monkeypatch.setattr(NeighborSearch, "blocks", lambda *args: rounds.append(args[2].max()) or blocks(*args))
    queries = np.array([0, 1, 700])
    counts = np.array([5, 0, 7])
    found = {}
    for rows, near in FilteredSearch(NeighborSearch(points), groups).blocks(points[queries], counts, groups[queries]):
        found.update(zip(rows, near))
    assert sorted(found) == [0, 2] and len(rounds) > 1 and max(rounds) <= 607
    for row in found:
        distances = squared_distances(points[queries[row]][None], points)[0]
        distances[groups == groups[queries[row]]] = np.inf
        assert found[row][: counts[row]].tolist() == np.argsort(distances)[: counts[row]].tolist()


def test_approximate_search_leaves_out_the_same():
    pytest.importorskip("faiss")
    points, labels, groups = make(np.random.default_rng(0), 80, dim=3)
    exact = retrieval_metrics(points, labels, exclude=groups)
    found = retrieval_metrics(points, labels, exclude=groups, neighbors="faiss", probes=1)
    assert found.pop("neighbor_recall") == 1.0
    assert found == pytest.approx(exact, abs=1e-12)
    assert 0 < retrieval_metrics(points, labels, exclude=groups, neighbors="faiss", probes=0.1)["neighbor_recall"] < 1


def test_parts_of_the_queries_make_the_whole():
    points, labels, groups = make(np.random.default_rng(0), 41)
    whole = retrieval_metrics(points, labels, exclude=groups)
    parts = [retrieval_metrics(points, labels, exclude=groups, part=(index, 2)) for index in range(2)]
    assert sum(part["queries"] for part in parts) == whole["queries"]
    mean = np.average([part["map_at_r"] for part in parts], weights=[part["queries"] for part in parts])
    assert mean == pytest.approx(whole["map_at_r"], abs=1e-12)


def test_queries_in_a_gallery():
    points, labels, groups = make(np.random.default_rng(0), 40)
    mask = np.arange(40) % 3 == 0
    expected = retrieval_metrics(
        points[mask], labels[mask], points[~mask], labels[~mask], exclude=(groups[mask], groups[~mask])
    )
    assert query_gallery_metrics(points, labels, mask, exclude=groups) == expected
    alone = retrieval_metrics(points, labels, exclude=groups, exclude_rule="group")
    assert query_gallery_metrics(points, labels, exclude=groups, exclude_rule="group") == alone
    with pytest.raises(ValueError, match=r"exclude of shape \(39,\). Expected: \(40,\)"):
        query_gallery_metrics(points, labels, mask, exclude=groups[1:])


def test_first_kept():
    found = first_kept(np.array([[5, 6, 7], [8, 9, 4]]), np.array([[0, 1, 1], [0, 0, 1]], bool), 2)
    assert found.tolist() == [[6, 7], [4, -1]]


def test_infinite_and_half_precision_distances():
    found = retrieval_metrics_from_distances([[np.inf, 1.0, 2.0]], ["a"], ["a", "b", "a"], ks=(2,))
    assert (found["recall_at_2"], found["map_at_r"]) == (1.0, 0.25)
    assert retrieval_metrics_from_distances(np.float16([[1, 2]]), [0], [0, 1])["precision_at_1"] == 1.0


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"exclude": [0, 1]}, ValueError, r"exclude of shape \(2,\). Expected: \(3,\)"),
        ({"exclude": [0.5, 1.0, 2.0]}, TypeError, "exclude of type float64"),
        ({"exclude": [0, 1, 2], "exclude_rule": "camera"}, ValueError, "exclude_rule='camera'"),
        ({"exclude_rule": "camera"}, ValueError, "exclude_rule='camera'"),
    ],
)
def test_bad_groups(options, error, message):
    with pytest.raises(error, match=message):
        retrieval_metrics(EYE, [0, 0, 1], **options)
    with pytest.raises(error, match=message):
        retrieval_metrics_from_distances(EYE, [0, 0, 1], **options)


@pytest.mark.parametrize(
    "exclude, error, message",
    [
        ([0, 1, 2], ValueError, "Received: list. Expected: a pair"),
        (np.zeros((2, 3), int), ValueError, "Received: ndarray. Expected: a pair"),
        (([0, 1, 2], [0, 1]), ValueError, r"exclude\[1\] of shape \(2,\). Expected: \(3,\)"),
        (([0, 1, 2], ["0", "1", "2"]), TypeError, r"exclude\[0\] of type int64 and exclude\[1\] of type"),
    ],
)
def test_bad_pairs_of_groups(exclude, error, message):
    with pytest.raises(error, match=message):
        retrieval_metrics(EYE, [0, 0, 1], EYE, [0, 0, 1], exclude=exclude)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((EYE[:2], [0, 1]), ValueError, r"shape \(2, 3\) without reference_labels. Expected: a square"),
        ((EYE[0], [0]), ValueError, r"Received: \(3,\)"),
        ((np.zeros((0, 3)), [], [0, 1, 2]), ValueError, r"Received: \(0, 3\)"),
        (([[np.nan, 1.0]], [0], [0, 1]), ValueError, "NaN in 1 of 1 rows"),
        ((EYE.astype(str), [0, 0, 1]), TypeError, "Distances are not numbers"),
        ((EYE, [0, 0]), ValueError, r"labels of shape \(2,\)"),
        ((EYE, [0, 0, 1], [0, 0]), ValueError, r"reference_labels of shape \(2,\)"),
        ((EYE, [0, 0, 1], None, (0,)), ValueError, "k in ks=0"),
    ],
)
def test_bad_distances(arguments, error, message):
    with pytest.raises(error, match=message):
        retrieval_metrics_from_distances(*arguments)
