import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from tfdml.metrics import query_gallery_metrics, retrieval_metrics
from tfdml.metrics.search import NeighborSearch


def brute_force(embeddings, labels, references, reference_labels, ks, alone):
    """The definitions as loops over queries and references."""
    collected, left_out = [], 0
    for query, label in enumerate(labels):
        ranking = []
        for index in range(len(references)):
            if not (alone and index == query):
                difference = np.asarray(embeddings[query], np.float64) - np.asarray(references[index], np.float64)
                ranking.append((float(np.sum(difference**2)), index))
        right = [reference_labels[index] == label for _, index in sorted(ranking)]
        total = sum(right)
        if total == 0:
            left_out += 1
            continue
        average = sum(sum(right[: i + 1]) / (i + 1) for i in range(total) if right[i]) / total
        collected.append([right[0], *(any(right[:k]) for k in ks), sum(right[:total]) / total, average])
    names = ["precision_at_1", *(f"recall_at_{k}" for k in ks), "r_precision", "map_at_r"]
    means = np.mean(collected, axis=0) if collected else np.full(len(names), np.nan)
    return {**dict(zip(names, means)), "queries": len(collected), "queries_without_reference": left_out}


def assert_same(received, expected):
    assert list(received) == list(expected)
    for name, value in expected.items():
        assert received[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name


# Coordinates on a coarse grid give duplicates, within and across classes, and many ties.
@st.composite
def labeled_sets(draw, dim, most_classes=5):
    count = draw(st.integers(1, 30))
    grid = draw(st.sampled_from([1, 2, 30]))
    coordinate = st.integers(-grid, grid).map(lambda value: value / 4)
    rows = st.lists(st.lists(coordinate, min_size=dim, max_size=dim), min_size=count, max_size=count)
    labels = draw(st.lists(st.integers(0, most_classes), min_size=count, max_size=count))
    return np.array(draw(rows), draw(st.sampled_from([np.float32, np.float64]))), np.array(labels)


ks_lists = st.lists(st.integers(1, 40), max_size=3, unique=True).map(tuple)
label_kinds = st.sampled_from([
    lambda labels: labels,
    lambda labels: labels.astype(np.int64) + 2**53,
    lambda labels: labels.astype(np.uint64) + np.uint64(2**63 + 2**53),
    lambda labels: [f"class {label}" for label in labels],
    lambda labels: tf.constant([f"class {label}" for label in labels]),
    lambda labels: tf.constant(labels - 3, tf.int32),
])  # fmt: skip
budgets = st.sampled_from([1, 10_000, 2**26])


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equals_brute_force(data):
    dim = data.draw(st.integers(1, 3))
    embeddings, labels = data.draw(labeled_sets(dim))
    ks, kind = data.draw(ks_lists), data.draw(label_kinds)
    received = retrieval_metrics(embeddings, kind(labels), ks=ks, block_bytes=data.draw(budgets))
    assert_same(received, brute_force(embeddings, labels, embeddings, labels, ks, alone=True))


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_equals_brute_force_with_a_gallery(data):
    dim = data.draw(st.integers(1, 3))
    embeddings, labels = data.draw(labeled_sets(dim, most_classes=8))
    references, reference_labels = data.draw(labeled_sets(dim, most_classes=4))
    ks, kind = data.draw(ks_lists), data.draw(label_kinds)
    received = retrieval_metrics(embeddings, kind(labels), references, kind(reference_labels), ks, data.draw(budgets))
    assert_same(received, brute_force(embeddings, labels, references, reference_labels, ks, alone=False))


@pytest.mark.parametrize("dim", [2, 24])
def test_equals_brute_force_on_unequal_classes(dim):
    # One class has a third of the points, the others one to twelve; a tenth are duplicates of other points.
    generator = np.random.default_rng(dim)
    labels = np.concatenate([np.zeros(100, int), np.repeat(np.arange(1, 38), generator.integers(1, 12, 37))])
    embeddings = generator.normal(size=(38, dim))[labels] + generator.normal(size=(len(labels), dim))
    copies = generator.permutation(len(labels))[: len(labels) // 10]
    embeddings[copies] = embeddings[generator.permutation(len(labels))[: len(copies)]]
    embeddings = embeddings.astype(np.float32)
    expected = brute_force(embeddings, labels, embeddings, labels, (1, 2, 4, 8), alone=True)
    for block_bytes in (1, 2**17, 2**26):
        assert_same(retrieval_metrics(embeddings, labels, block_bytes=block_bytes), expected)
    assert 0.02 < expected["map_at_r"] < expected["r_precision"] < 0.95


def test_blocks_change_nothing_at_all():
    generator = np.random.default_rng(0)
    embeddings, labels = generator.normal(size=(300, 5)).astype(np.float32), generator.integers(20, size=300)
    assert retrieval_metrics(embeddings, labels, block_bytes=1) == retrieval_metrics(embeddings, labels)


def test_columns_of_labels():
    generator = np.random.default_rng(0)
    embeddings, labels = generator.normal(size=(30, 5)), generator.integers(4, size=30)
    column, expected = labels[:, None], retrieval_metrics(embeddings, labels)
    assert retrieval_metrics(embeddings, column) == expected
    assert retrieval_metrics(embeddings, tf.constant(column)) == expected
    assert retrieval_metrics(embeddings, column.astype(str)) == expected
    of_references = retrieval_metrics(embeddings[:9], labels[:9], embeddings[9:], labels[9:])
    assert retrieval_metrics(embeddings[:9], column[:9], embeddings[9:], column[9:]) == of_references


def test_by_hand():
    # Seen from 0 the references rank a b a b a: R = 3, P(1) = 1, P(3) = 2/3, and the last correct one is beyond R.
    metrics = retrieval_metrics([[0.0]], ["a"], [[1.0], [2.0], [3.0], [4.0], [5.0]], list("ababa"), ks=(1, 3))
    assert metrics["precision_at_1"] == metrics["recall_at_1"] == metrics["recall_at_3"] == 1.0
    assert metrics["r_precision"] == pytest.approx(2 / 3)
    assert metrics["map_at_r"] == pytest.approx((1 + 2 / 3) / 3)


@pytest.mark.parametrize(
    "ranking, map_at_r, r_precision, recall_at_2",
    [
        # With ten references of the class, only the first ten count.
        ("1" * 10 + "0" * 10, 1.0, 1.0, 1.0),
        ("1" + "0" * 9 + "1" * 9, 0.1, 0.1, 1.0),
        ("0" * 9 + "1" + "1" * 9, 0.01, 0.1, 0.0),
        ("11" + "0" * 8 + "1" * 8, 0.2, 0.2, 1.0),
        ("0" * 10 + "1" * 10, 0.0, 0.0, 0.0),
    ],
)
def test_only_the_first_r_count(ranking, map_at_r, r_precision, recall_at_2):
    references = np.arange(1.0, len(ranking) + 1)[:, None]
    metrics = retrieval_metrics([[0.0]], [1], references, [int(right) for right in ranking], ks=(2,))
    assert metrics["map_at_r"] == pytest.approx(map_at_r)
    assert metrics["r_precision"] == pytest.approx(r_precision)
    assert metrics["recall_at_2"] == recall_at_2


def test_one_neighbor_equals_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.integers(6, size=400)
    embeddings = generator.normal(size=(6, 3))[labels] + generator.normal(size=(400, 3))
    classifier = KNeighborsClassifier(1).fit(embeddings[:250], labels[:250])
    metrics = retrieval_metrics(embeddings[250:], labels[250:], embeddings[:250], labels[:250])
    assert metrics["precision_at_1"] == pytest.approx(classifier.score(embeddings[250:], labels[250:]))


def test_map_at_r_follows_from_scikit_learns_average_precision():
    # Average precision over the first R only, times the share of correct ones among them.
    generator = np.random.default_rng(1)
    labels = generator.integers(5, size=80)
    embeddings = generator.normal(size=(5, 3))[labels] + generator.normal(size=(80, 3))
    expected = []
    for query, label in enumerate(labels):
        others = np.delete(np.arange(80), query)
        distances = np.linalg.norm(embeddings[others] - embeddings[query], axis=1)
        right = (labels[others] == label)[np.argsort(distances)]
        first = right[: right.sum()]
        precision = label_ranking_average_precision_score(first[None], -np.arange(len(first))[None])
        expected.append(precision * first.mean())
    assert retrieval_metrics(embeddings, labels)["map_at_r"] == pytest.approx(np.mean(expected))


def test_duplicates_of_another_class_rank_by_index():
    # All embeddings are equal: each query sees the others in order of their indices.
    metrics = retrieval_metrics(np.ones((4, 8), np.float32), [0, 1, 1, 0], ks=(1, 2, 3))
    # 0: 1 1 0 → miss at R = 1; 1: 0 1 0 → miss; 2: 0 1 0 → miss; 3: 0 1 1 → hit.
    assert metrics["precision_at_1"] == metrics["map_at_r"] == metrics["r_precision"] == 0.25
    assert metrics["recall_at_2"] == 0.75
    assert metrics["recall_at_3"] == 1.0


def test_an_equal_embedding_is_no_self_match():
    # The only other image of each class has the same embedding as the query.
    embeddings = np.repeat(np.random.default_rng(0).normal(size=(50, 4)), 2, axis=0)
    assert retrieval_metrics(embeddings, np.repeat(np.arange(50), 2))["map_at_r"] == 1.0


def test_queries_without_reference_are_counted_and_left_out():
    metrics = retrieval_metrics([[0.0], [0.1], [5.0], [9.0]], [3, 3, 4, 5])
    assert metrics["map_at_r"] == metrics["recall_at_8"] == 1.0
    assert (metrics["queries"], metrics["queries_without_reference"]) == (2, 2)


@pytest.mark.parametrize("count", [1, 3])
def test_no_query_with_a_reference(count):
    metrics = retrieval_metrics(np.eye(count), np.arange(count))
    assert all(np.isnan(value) for value in metrics.values() if isinstance(value, float))
    assert (metrics["queries"], metrics["queries_without_reference"]) == (0, count)


def test_gallery_without_the_queries_classes():
    metrics = retrieval_metrics(np.eye(2), [7, 8], np.eye(2), [0, 1])
    assert (metrics["queries"], metrics["queries_without_reference"]) == (0, 2)
    assert np.isnan(metrics["map_at_r"])


def test_the_gallery_may_be_the_queries_themselves():
    # If the queries are also passed as a gallery, a query's own embedding is a reference.
    embeddings, labels = np.arange(3.0)[:, None], [0, 1, 2]
    assert retrieval_metrics(embeddings, labels, embeddings, labels)["precision_at_1"] == 1.0


def test_k_beyond_all_references():
    assert retrieval_metrics([[0.0], [1.0], [0.4]], [0, 0, 1], ks=(1, 100))["recall_at_100"] == 1.0


def test_a_k_that_is_given_twice_counts_once():
    embeddings, labels = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 5
    assert retrieval_metrics(embeddings, labels, ks=(1, 1, 4)) == retrieval_metrics(embeddings, labels, ks=(1, 4))


def test_result_types():
    metrics = retrieval_metrics(np.eye(4), [0, 0, 1, 1], ks=[np.int64(2)])
    assert list(metrics) == [
        "precision_at_1", "recall_at_2", "r_precision", "map_at_r", "queries", "queries_without_reference"
    ]  # fmt: skip
    assert [type(value) for value in metrics.values()] == [float] * 4 + [int] * 2


def test_large_ids_do_not_collide():
    # These two are the same number in float32 and in float64.
    labels = np.array([2**60, 2**60 + 1] * 2)
    metrics = retrieval_metrics([[0.0], [0.1], [5.0], [5.1]], labels)
    assert metrics["precision_at_1"] == 0.0
    assert metrics["queries"] == 4


@pytest.mark.parametrize(
    "labels",
    [[2**70, 2**70 + 1] * 2, np.array(["a", "b"] * 2, object), np.array([b"a", b"b"] * 2), [True, False] * 2],
)  # fmt: skip
def test_kinds_of_labels(labels):
    assert retrieval_metrics([[0.0], [5.0], [0.1], [5.1]], labels)["map_at_r"] == 1.0


def test_query_and_reference_labels_of_different_widths():
    metrics = retrieval_metrics(np.eye(2), np.array(["a", "bb"]), np.eye(2), tf.constant(["a", "bb"]))
    assert metrics["precision_at_1"] == 1.0
    unsigned = np.array([1, 2**63], np.uint64)
    assert retrieval_metrics(np.eye(2), unsigned, np.eye(2), np.array([1, -5]))["queries"] == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int32"])
def test_types_of_embeddings(dtype):
    embeddings = tf.cast([[0.0], [5.0], [1.0], [6.0]], dtype)
    assert retrieval_metrics(embeddings, [0, 1, 0, 1])["map_at_r"] == 1.0


def test_values_between_the_floats_of_float32():
    # In float32 the first three are equal.
    embeddings = np.array([[1.0], [1.0 + 2e-12], [1.0 + 1e-12], [3.0]])
    assert retrieval_metrics(embeddings, [0, 1, 0, 1])["precision_at_1"] == 0.5


def test_the_arguments_are_not_changed():
    embeddings = np.array([[-0.0, 1.0], [0.0, 1.0], [2.0, 2.0]], np.float32)
    labels = np.array([5, 5, 7])
    before = embeddings.tobytes(), labels.tobytes()
    retrieval_metrics(embeddings, labels)
    assert (embeddings.tobytes(), labels.tobytes()) == before


EYE = np.eye(3)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((EYE[0], [0, 0, 1]), r"Received: embeddings of shape \(3,\). Expected: \(n, d\)"),
        ((EYE[None], [0]), r"Received: embeddings of shape \(1, 3, 3\)"),
        ((np.zeros((0, 3)), []), r"Received: embeddings of shape \(0, 3\)"),
        ((np.zeros((3, 0)), [0, 0, 1]), r"Received: embeddings of shape \(3, 0\)"),
        ((EYE, [0, 1]), r"Received: labels of shape \(2,\). Expected: \(3,\) or \(3, 1\)"),
        ((EYE, [[0], [0]]), r"Received: labels of shape \(2, 1\)"),
        ((EYE, EYE.astype(int)), r"Received: labels of shape \(3, 3\)"),
        ((EYE, [0, 0, 1], EYE), "Received: reference_embeddings alone"),
        ((EYE, [0, 0, 1], None, [0, 0, 1]), "Received: reference_labels alone"),
        ((EYE, [0, 0, 1], EYE[:, :2], [0, 0, 1]), r"\(3, 3\) and reference_embeddings of shape \(3, 2\)"),
        ((EYE, [0, 0, 1], EYE[0], [0, 0, 1]), r"Received: reference_embeddings of shape \(3,\)"),
        ((EYE, [0, 0, 1], EYE, [0, 0]), r"Received: reference_labels of shape \(2,\). Expected: \(3,\)"),
        ((EYE, [0, 0, 1], np.zeros((0, 3)), []), r"Received: reference_embeddings of shape \(0, 3\)"),
        ((np.array([[1.0], [np.nan], [np.inf]]), [0, 0, 1]), "with NaN or infinity in 2 of 3 rows"),
        ((EYE, [0, 0, 1], EYE - np.diag([0, 0, np.inf]), [0, 0, 1]), "reference_embeddings with NaN or inf"),
        ((EYE, [0, 0, 1], None, None, (1, 0)), "Received: k in ks=0. Expected: an integer >= 1"),
        ((EYE, [0, 0, 1], None, None, (1, 2.5)), "Received: k in ks=2.5. Expected: an integer >= 1"),
        ((EYE, [0, 0, 1], None, None, (True,)), "Received: k in ks=True. Expected: an integer >= 1"),
        ((EYE, [0, 0, 1], None, None, (1,), 1.5), "Received: block_bytes=1.5. Expected: an integer >= 1"),
    ],
)  # fmt: skip
def test_wrong_values(arguments, message):
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(*arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((EYE.astype(complex), [0, 0, 1]), "Received: embeddings of type complex128"),
        ((EYE.astype(str), [0, 0, 1]), "Received: embeddings of type <U"),
        ((EYE, [0.0, 0.0, 1.0]), "labels of type float64. Expected: integers or strings"),
        ((EYE, ["a", 1, None]), "Received: labels of type (object|<U)"),
        ((EYE, [0, 0, 1], EYE, ["0", "0", "1"]), "Expected: integers in both or strings in both"),
        ((EYE, [0, 0, 1], None, None, 5), "Received: ks=5. Expected: a sequence"),
    ],
)
def test_wrong_types(arguments, message):
    with pytest.raises(TypeError, match=message):
        retrieval_metrics(*arguments)


@pytest.mark.parametrize("seed", range(3))
def test_queries_in_a_gallery_by_loops(seed):
    generator = np.random.default_rng(seed)
    embeddings, labels = generator.normal(size=(40, 3)), generator.integers(0, 4, 40)
    is_query = generator.random(40) < 0.4
    first_right, average_precisions = [], []
    for query in np.flatnonzero(is_query):
        distances = np.linalg.norm(embeddings - embeddings[query], axis=1)
        gallery = sorted(np.flatnonzero(~is_query), key=lambda other: distances[other])
        right = [labels[other] == labels[query] for other in gallery]
        relevant = sum(right)
        first_right.append(right[0])
        average_precisions.append(
            sum(sum(right[: rank + 1]) / (rank + 1) for rank in range(relevant) if right[rank]) / relevant
        )
    metrics = query_gallery_metrics(embeddings, labels, is_query, ks=(1,))
    assert metrics["queries"] == is_query.sum()
    assert metrics["precision_at_1"] == pytest.approx(np.mean(first_right))
    assert metrics["map_at_r"] == pytest.approx(np.mean(average_precisions))
    assert query_gallery_metrics(embeddings, labels[:, None], is_query, ks=(1,)) == metrics
    assert query_gallery_metrics(embeddings, labels[:, None], is_query[:, None], ks=(1,)) == metrics
    assert query_gallery_metrics(embeddings, labels) == retrieval_metrics(embeddings, labels)


@pytest.mark.parametrize("is_query", [[True, True], [False, False], [True]])
def test_queries_need_a_gallery(is_query):
    with pytest.raises(ValueError, match="some of them queries and some not"):
        query_gallery_metrics([[0.0], [1.0]], [0, 0], is_query)


def test_one_class_needs_no_search(monkeypatch):
    monkeypatch.setattr(NeighborSearch, "_neighbors", None)
    embeddings = np.random.default_rng(0).normal(size=(9, 2))
    found = retrieval_metrics(embeddings, np.zeros(9, int), ks=(1, 20))
    assert_same(found, brute_force(embeddings, np.zeros(9, int), embeddings, np.zeros(9, int), (1, 20), alone=True))
