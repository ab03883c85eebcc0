"""Retrieval metrics by a relation, triplet accuracy and localization against loops."""

import numpy as np
import pytest

from tfdml import relations
from tfdml.metrics import localization_metrics, query_gallery_metrics, retrieval_metrics, triplet_metrics

RNG = np.random.default_rng(0)
KS = (1, 3, 20)


def brute_force(x, labels, others, other_labels, relation, grade, alone):
    """The definitions as loops. `relation` and `grade` are functions of two labels."""
    collected, left_out = [], 0
    for q in range(len(x)):
        ranking = sorted(
            (float(np.sum((np.float64(x[q]) - np.float64(others[r])) ** 2)), r)
            for r in range(len(others))
            if not (alone and r == q)
        )
        all_grades = [grade(labels[q], other_labels[r]) for _, r in ranking]
        right = [sign > 0 for sign in (relation(labels[q], other_labels[r]) for _, r in ranking) if sign]
        total = sum(right)
        if not total:
            left_out += 1
            continue
        row = [right[0], *(any(right[:k]) for k in KS), sum(right[:total]) / total]
        row.append(sum(sum(right[: i + 1]) / (i + 1) for i in range(total) if right[i]) / total)
        for k in KS:
            gains = [sum(g / np.log2(i + 2) for i, g in enumerate(order[:k]))
                     for order in (all_grades, sorted(all_grades, reverse=True))]  # fmt: skip
            row.append(gains[0] / gains[1])
        collected.append(row)
    names = [
        "precision_at_1",
        *(f"recall_at_{k}" for k in KS),
        "r_precision",
        "map_at_r",
        *(f"ndcg_at_{k}" for k in KS),
    ]
    return {
        **dict(zip(names, np.mean(collected, axis=0))),
        "queries": len(collected),
        "queries_without_reference": left_out,
    }


def near(a, b):
    distance = np.linalg.norm(np.subtract(a, b))
    return 1 if distance <= 1.0 else -1 if distance >= 2.0 else 0


def closeness(a, b):
    return max(0.0, 1.0 - np.linalg.norm(np.subtract(a, b)) / 2.0)


WITHIN = relations.Within(1.0, 2.0)


def test_thresholds_equal_loops():
    # Coordinates on a grid give ties of embeddings and of thresholds; many pairs count for nothing.
    x, places = RNG.integers(0, 4, (40, 2)) / 2, RNG.integers(0, 10, (40, 2)) / 2
    places[7] = 99.0
    found = retrieval_metrics(x, places, ks=KS, relation=WITHIN)
    expected = brute_force(x, places, x, places, near, closeness, True)
    assert list(found) == list(expected) and found["queries_without_reference"] >= 1
    assert found == pytest.approx(expected, abs=1e-6)
    small = retrieval_metrics(x, places, ks=KS, relation=WITHIN, block_bytes=9000)
    assert small == pytest.approx(found, abs=1e-12)
    parts = [retrieval_metrics(x, places, ks=KS, relation=WITHIN, part=(i, 3)) for i in range(3)]
    weights = [part["queries"] for part in parts]
    for name in ("map_at_r", "recall_at_1", "ndcg_at_3"):
        assert np.average([part[name] for part in parts], weights=weights) == pytest.approx(found[name])


def test_a_separate_gallery_equals_loops():
    x, places = RNG.normal(size=(30, 3)), RNG.uniform(0, 5, (30, 2))
    is_query = np.arange(30) % 3 == 0
    expected = brute_force(x[is_query], places[is_query], x[~is_query], places[~is_query], near, closeness, False)
    assert query_gallery_metrics(x, places, is_query, KS, relation=WITHIN) == pytest.approx(expected, abs=1e-6)


def test_neutral_pairs_between_a_query_and_its_neighbors_are_skipped():
    """A wider search is needed: the nearest 200 references count for nothing."""
    places = np.concatenate([[0.0], np.full(200, 1.5), [0.5, 3.0]])
    x = np.concatenate([[0.0], np.linspace(0.1, 0.2, 200), [1.0, 2.0]])[:, None]
    found = retrieval_metrics(x[:1], places[:1], x[1:], places[1:], ks=(1,), relation=WITHIN)
    assert (found["precision_at_1"], found["map_at_r"]) == (1.0, 1.0)


def test_graded_metrics_see_all_first_neighbors():
    """Few pairs count, but the gain at 100 is that of the nearest 100."""
    x, places = RNG.normal(size=(1, 2)), np.array([[0.0]])
    others, other_places = RNG.normal(size=(300, 2)), RNG.uniform(1.1, 1.9, (300, 1))
    other_places[:3] = [[0.5], [5.0], [6.0]]
    others[:3] = x + RNG.normal(size=(3, 2)) / 100
    found = retrieval_metrics(x, places, others, other_places, ks=(100,), relation=WITHIN)
    order = np.argsort(np.linalg.norm(others - x, axis=1))
    grades = np.maximum(1 - np.abs(other_places[:, 0]) / 2.0, 0)
    discounts = 1 / np.log2(np.arange(2, 102))
    assert found["ndcg_at_100"] == pytest.approx(
        grades[order][:100] @ discounts / (np.sort(grades)[::-1][:100] @ discounts), abs=1e-6
    )


def test_tags_equal_loops():
    x = RNG.normal(size=(30, 3))
    tags = np.maximum(RNG.random((30, 6)) < 0.25, np.eye(6, dtype=bool)[RNG.integers(0, 6, 30)]).astype(int)
    found = retrieval_metrics(x, tags, ks=KS, relation=relations.Overlap(2, 0))
    sign = lambda a, b: 1 if a @ b >= 2 else -1 if a @ b == 0 else 0  # noqa: E731
    assert found == pytest.approx(brute_force(x, tags, x, tags, sign, lambda a, b: a @ b, True), abs=1e-6)


def test_the_same_pairs_give_the_metrics_of_classes():
    x, labels = RNG.normal(size=(50, 3)), RNG.integers(0, 9, 50)
    expected = retrieval_metrics(x, labels)
    assert retrieval_metrics(x, labels, relation=relations.SameClass()) == expected
    assert retrieval_metrics(x, labels, relation="same_class") == expected
    given = relations.Pairs(np.equal.outer(labels, labels))
    assert retrieval_metrics(x, np.arange(50), relation=given) == pytest.approx(expected)


def test_no_query_has_a_positive():
    found = retrieval_metrics([[0.0], [1.0]], [0.0, 9.0], relation=WITHIN)
    assert np.isnan(found["map_at_r"]) and found["queries"] == 0 and found["queries_without_reference"] == 2


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0.0, np.nan, 1.0], {}, "labels: Labels must be finite.*sample 1"),
        ([0.0, 1.0], {}, "2 labels for 3 embeddings"),
        ([0.0, 1.0, 2.0], {"exclude": [0, 0, 1]}, "exact search among all references.*and exclude"),
        ([0.0, 1.0, 2.0], {"neighbors": "faiss"}, "neighbors='faiss'"),
    ],
)
def test_wrong_input(labels, options, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(np.eye(3), labels, relation=WITHIN, **options)


def loop_over_triplets(x, sign, distance):
    right = total = 0
    for a in range(len(x)):
        for p in range(len(x)):
            for n in range(len(x)):
                if p != a and n != a and sign(a, p) > 0 and sign(a, n) < 0:
                    total += 1
                    right += distance(x[a], x[p]) < distance(x[a], x[n])
    return {"triplet_accuracy": right / total, "triplets": total}


def test_triplets_equal_loops():
    x, places = RNG.integers(0, 3, (15, 2)).astype("float32"), RNG.uniform(0, 4, (15, 2))
    found = triplet_metrics(x, places, WITHIN, block_bytes=3000)
    assert found == loop_over_triplets(x, lambda a, b: near(places[a], places[b]), lambda a, b: np.sum((a - b) ** 2))
    labels = np.array(list("aabbc" * 3))
    angle = lambda a, b: 1 - (a @ b) / np.linalg.norm(a) / np.linalg.norm(b)  # noqa: E731
    y = RNG.normal(size=(15, 3))
    found = triplet_metrics(y, labels, distance="cosine")
    assert found == loop_over_triplets(y, lambda a, b: 1 if labels[a] == labels[b] else -1, angle)


def test_given_triplets():
    x = np.array([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0], [0.0, 1.0]])
    assert triplet_metrics(x, triplets=[(0, 3, 1), (0, 1, 3), (0, 3, 3)])["triplet_accuracy"] == pytest.approx(1 / 3)
    assert triplet_metrics(x, triplets=[(0, 2, 1), (1, 0, 2)], distance="cosine")["triplet_accuracy"] == 0.5
    # Without a direction, the cosine is 0, as for given triplets.
    x[2] = 0.0
    assert triplet_metrics(x, [0, 0, 0, 1], distance="cosine") == triplet_metrics(
        x, triplets=[(a, p, 3) for a in range(3) for p in range(3) if p != a], distance="cosine"
    )
    assert np.isnan(triplet_metrics(x, [0, 0, 0, 0])["triplet_accuracy"])
    assert triplet_metrics(np.ones((4, 2)), [0, 0, 1, 1])["triplet_accuracy"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither of labels and triplets"),
        ({"labels": [0, 1], "triplets": [(0, 1, 1)]}, "both of labels"),
        ({"triplets": [(0, 1)]}, "not triplets"),
        ({"triplets": np.zeros((0, 3), int)}, "not triplets"),
        ({"triplets": [(0, 1, 2)]}, "indices from 0 to 2 with 2 embeddings"),
        ({"labels": [0.0, 1.0, 2.0], "relation": WITHIN}, "3 labels for 2 embeddings"),
        ({"labels": [0, 1], "distance": "l1"}, "Expected: one of"),
    ],
)
def test_wrong_triplets(options, message):
    with pytest.raises(ValueError, match=message):
        triplet_metrics(np.eye(2), **options)


@pytest.mark.parametrize("k", [1, 3])
def test_localization_equals_a_loop(k):
    x, places = RNG.normal(size=(12, 3)), RNG.uniform(0, 5, (12, 2))
    y, other_places = RNG.normal(size=(20, 3)), RNG.uniform(0, 5, (20, 2))

    def errors(references, of_references, alone):
        for q in range(12):
            order = sorted(
                (np.linalg.norm(x[q] - references[r]), r) for r in range(len(references)) if not (alone and r == q)
            )
            yield np.linalg.norm(places[q] - np.mean([of_references[r] for _, r in order[:k]], axis=0))

    for given, expected in (((), (x, places, True)), ((y, other_places), (y, other_places, False))):
        found = localization_metrics(x, places, *given, k=k, thresholds=(2.0,))
        assert found == localization_metrics(x, places, *given, k=k, thresholds=2.0)
        loop = np.array(list(errors(*expected)))
        assert found == pytest.approx({
            "mean_error": loop.mean(), "median_error": np.median(loop), "p95_error": np.quantile(loop, 0.95),
            "within_2": (loop <= 2.0).mean(),
        })  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.eye(2), [0.0, np.nan]), "not finite.*first in row 1"),
        ((np.eye(2), [0.0]), "Positions must be one for each"),
        ((np.eye(2), [0.0, 1.0], np.eye(2)), "reference_embeddings alone"),
        ((np.eye(2), [0.0, 1.0], np.eye(2), np.eye(2)), "differ in size"),
        ((np.eye(2), [0.0, 1.0], None, None, 5), "too few references"),
        ((np.eye(2), [0.0, 1.0], None, None, 1, (-1.0,)), "thresholds > 0"),
    ],
)
def test_wrong_positions(arguments, message):
    with pytest.raises(ValueError, match=message):
        localization_metrics(*arguments)
