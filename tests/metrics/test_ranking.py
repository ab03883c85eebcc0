"""Ranking metrics against loops over whole rankings and against scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from tfdml import metrics
from tfdml.ops.rankings import Similarities

KS = (1, 3, 10)


def similarity_of(x, y, similarity):
    if similarity == "l2":
        return -math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y)))
    dot = sum(a * b for a, b in zip(x, y))
    return dot if similarity == "dot" else dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def loop(queries, items, relevant, ks, similarity="cosine", exclude=None, gain="linear"):
    """Averages by definition, one query at a time."""
    totals, counted = {}, 0
    for number, query in enumerate(queries):
        grades = relevant[number] if isinstance(relevant[number], dict) else dict.fromkeys(relevant[number], 1.0)
        grades = {item: grade for item, grade in grades.items() if grade > 0}
        if not grades:
            continue
        counted += 1
        out = set() if exclude is None else set(exclude[number])
        scores = {item: similarity_of(query, vector, similarity) for item, vector in enumerate(items)}
        ranking = sorted((item for item in scores if item not in out), key=lambda item: (-scores[item], item))
        value_of = {item: grade if gain == "linear" else 2**grade - 1 for item, grade in grades.items()}
        hits = [item in grades for item in ranking]
        first = hits.index(True) + 1
        values = {"mrr": 1 / first}
        for k in ks:
            gained = sum(value_of.get(item, 0) / math.log2(place + 2) for place, item in enumerate(ranking[:k]))
            best = sorted(value_of.values(), reverse=True)[:k]
            values[f"ndcg_at_{k}"] = gained / sum(value / math.log2(place + 2) for place, value in enumerate(best))
            values[f"mrr_at_{k}"] = 1 / first if first <= k else 0
            precisions = [sum(hits[: place + 1]) / (place + 1) for place in range(min(k, len(hits))) if hits[place]]
            values[f"map_at_{k}"] = sum(precisions) / min(len(grades), k)
            values[f"recall_at_{k}"] = sum(hits[:k]) / len(grades)
            values[f"hit_rate_at_{k}"] = float(any(hits[:k]))
        for name, value in values.items():
            totals[name] = totals.get(name, 0) + value
    return {name: total / counted for name, total in totals.items()}


def sample(seed, queries=12, items=40, dim=4, graded=False, most=5):
    rng = np.random.default_rng(seed)
    relevant = [rng.choice(items, rng.integers(1, most + 1), replace=False).tolist() for _ in range(queries)]
    if graded:
        relevant = [{item: float(rng.integers(1, 4)) for item in entry} for entry in relevant]
    return rng.normal(size=(queries, dim)), rng.normal(size=(items, dim)), relevant


def check(found, expected, **options):
    assert {name: found[name] for name in expected} == pytest.approx(expected, **options)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("graded", [False, True])
@pytest.mark.parametrize("most", [5, 20])
def test_equals_the_loop(similarity, graded, most):
    queries, items, relevant = sample(0, graded=graded, most=most)
    found = metrics.ranking_metrics(queries, items, relevant, KS, similarity)
    check(found, loop(queries, items, relevant, KS, similarity), abs=1e-12)
    assert (found["queries"], found["queries_without_items"]) == (12, 0)


def test_exponential_gain():
    queries, items, relevant = sample(1, graded=True)
    found = metrics.ranking_metrics(queries, items, relevant, KS, gain="exponential")
    check(found, loop(queries, items, relevant, KS, gain="exponential"), abs=1e-12)


@pytest.mark.parametrize("similarity", ["dot", "l2"])
def test_ties_are_broken_by_index(similarity):
    """Small integers give many exact ties, also between different vectors."""
    rng = np.random.default_rng(2)
    queries, items = rng.integers(-1, 2, (10, 3)).astype(float), rng.integers(-1, 2, (60, 3)).astype(float)
    relevant = [rng.choice(60, 6, replace=False).tolist() for _ in range(10)]
    found = metrics.ranking_metrics(queries, items, relevant, KS, similarity)
    check(found, loop(queries, items, relevant, KS, similarity), abs=1e-12)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "l2"])
@pytest.mark.parametrize("most", [1, 12])
def test_equal_items_keep_their_order_in_every_block(similarity, most):
    rng = np.random.default_rng(3)
    distinct = rng.normal(size=(7, 33)) + 5
    items, queries = distinct[rng.integers(0, 7, 50)], rng.normal(size=(21, 33)) + 5
    relevant = [rng.choice(50, most, replace=False).tolist() for _ in range(21)]
    expected = loop(queries, items, relevant, KS, similarity)
    for block_bytes in (1, 16 * 50 * 4, 2**26):
        found = metrics.ranking_metrics(queries, items, relevant, KS, similarity, block_bytes=block_bytes)
        check(found, expected, abs=1e-12)


def test_excluded_items_leave_the_ranking():
    queries, items, relevant = sample(4)
    exclude = [[item for item in range(0, 40, 3) if item not in entry] for entry in relevant]
    found = metrics.ranking_metrics(queries, items, relevant, KS, exclude=exclude)
    check(found, loop(queries, items, relevant, KS, exclude=exclude), abs=1e-12)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_equals_scikit_learn(k):
    queries, items, relevant = sample(5, graded=True)
    truth = np.zeros((12, 40))
    for number, entry in enumerate(relevant):
        truth[number, list(entry)] = list(entry.values())
    scores = queries @ items.T
    found = metrics.ranking_metrics(queries, items, relevant, (k,), "dot")
    assert found[f"ndcg_at_{k}"] == pytest.approx(ndcg_score(truth, scores, k=k))
    average_precision = np.mean([average_precision_score(row > 0, of_row) for row, of_row in zip(truth, scores)])
    assert metrics.ranking_metrics(queries, items, relevant, (40,), "dot")["map_at_40"] == pytest.approx(
        average_precision
    )


def test_lists_equal_embeddings():
    queries, items, relevant = sample(6, graded=True)
    rankings = np.argsort(-(queries @ items.T), axis=1)
    expected = metrics.ranking_metrics(queries, items, relevant, KS, "dot")
    assert metrics.ranked_list_metrics(rankings, relevant, KS) == pytest.approx(expected)
    shortened = metrics.ranked_list_metrics(rankings[:, :10], relevant, KS)
    shortened.pop("mrr")
    assert shortened == pytest.approx({name: expected[name] for name in shortened})


def test_an_item_that_is_not_listed_is_not_found():
    found = metrics.ranked_list_metrics([[2, -1], []], [[7], [1]], ks=(2,))
    assert {value for name, value in found.items() if not name.startswith("queries")} == {0.0}


def test_values_of_single_queries():
    queries, items, relevant = sample(7)
    relevant[3] = []
    found = metrics.ranking_metrics(queries, items, relevant, KS, empty="skip", average=False)
    averages = metrics.ranking_metrics(queries, items, relevant, KS, empty="skip")
    assert (averages["queries"], averages["queries_without_items"]) == (11, 1)
    for name in ("ndcg_at_3", "mrr", "map_at_10"):
        assert found[name].shape == (12,) and np.isnan(found[name][3])
        assert np.nanmean(found[name]) == pytest.approx(averages[name])
    check(averages, loop(queries, items, relevant, KS), abs=1e-12)


def test_a_single_index_and_a_grade_of_0():
    queries, items, _ = sample(8, queries=2)
    one = metrics.ranking_metrics(queries, items, np.array([3, 5]))
    assert one == metrics.ranking_metrics(queries, items, [{3: 1.0, 4: 0.0}, [5]])
    assert one == metrics.ranking_metrics(queries, items, [{3}, frozenset([5])])


def test_no_block_exceeds_its_memory():
    similarities = Similarities(np.ones((100, 3)), np.ones((50, 3)), block_bytes=16 * 50 * 7)
    assert [len(block) for _, block in similarities.blocks()] == [7] * 14 + [2]


TWO, THREE = np.eye(3)[:2], np.eye(3)
MISTAKES = {
    "no items of a query": (dict(relevant=[[0], []]), "Queries have no items.*1 of 2 queries, the first with index 1"),
    "grade 0 only": (dict(relevant=[[0], {1: 0}]), "Queries have no items"),
    "entries": (dict(relevant=[[0]]), "1 entries for 2 queries"),
    "index": (dict(relevant=[[0], [3]]), r"relevant\[1\] with index 3. Expected: 0 <= index < 3"),
    "negative index": (dict(relevant=[[0], [-1]]), "index -1"),
    "twice": (dict(relevant=[[0], [1, 1]]), "named twice"),
    "grade": (dict(relevant=[[0], {1: -1.0}]), "Grades must be finite and not negative"),
    "no queries": (dict(queries=np.zeros((0, 3)), relevant=[]), r"queries of shape \(0, 3\)"),
    "no set of items": (dict(items=np.zeros((0, 3))), r"items of shape \(0, 3\)"),
    "sizes": (dict(items=np.eye(4)), r"Embeddings differ in size. Received: queries of shape \(2, 3\)"),
    "infinite": (dict(queries=[[np.nan] * 3, [1.0] * 3]), "queries with NaN or infinity in 1 of 2 rows"),
    "direction": (dict(items=np.zeros((3, 3))), "items with 3 vectors of norm 0, the first with index 0"),
    "both": (dict(exclude=[[0], []]), "both relevant and excluded. Received: item 0 for query 0"),
    "similarity": (dict(similarity="l1"), "similarity='l1'"),
    "gain": (dict(gain="square"), "gain='square'"),
    "empty": (dict(empty="ignore"), "empty='ignore'"),
    "k": (dict(ks=(0,)), "k in ks=0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        metrics.ranking_metrics(**{"queries": TWO, "items": THREE, "relevant": [[0], [1, 2]], **changes})


def test_wrong_types():
    with pytest.raises(TypeError, match=r"Items must be indices. Received: relevant\[0\]"):
        metrics.ranking_metrics(TWO, THREE, [["a"], [1]])
    with pytest.raises(TypeError, match=r"relevant as a dict. Expected: a list, such as \[relevant\[query\] for query"):
        metrics.ranking_metrics(TWO, THREE, {0: [1], 1: [0]})
    with pytest.raises(TypeError, match="ks is not a sequence"):
        metrics.ranking_metrics(TWO, THREE, [[0], [1]], ks=3)
    with pytest.raises(TypeError, match="not numbers"):
        metrics.ranking_metrics([["a"]], [["b"]], [[0]])
    with pytest.raises(TypeError, match=r"rankings\[0\]"):
        metrics.ranked_list_metrics([["a"]], [[0]])
    with pytest.raises(ValueError, match="no rankings"):
        metrics.ranked_list_metrics([], [])
    with pytest.raises(ValueError, match="names an item twice"):
        metrics.ranked_list_metrics([[1, 1]], [[0]])
