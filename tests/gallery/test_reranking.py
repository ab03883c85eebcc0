"""Re-rankers compared with sets and loops, and their invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import Gallery, metrics
from tfdml.gallery import (
    KReciprocal,
    LabelLimit,
    MarginalRelevance,
    QueryExpansion,
    expand_queries,
    k_reciprocal,
    k_reciprocal_distances,
    k_reciprocal_from_distances,
    limit_per_label,
    marginal_relevance,
)


def squared_distances(points, others):
    return np.square(np.asarray(points, np.float64)[:, None] - np.asarray(others, np.float64)[None]).sum(axis=-1)


def k_reciprocal_by_sets(squared, count, first, k1, k2, weight):
    """The formulas of the paper with sets and dicts."""
    total = len(squared)
    relative = squared / np.maximum(squared.max(axis=1, keepdims=True), 1e-300)

    def nearest(p, k):
        return [p, *sorted((q for q in range(total) if q != p), key=lambda q: (squared[p, q], q))[:k]]

    def reciprocal(p, k):
        return {q for q in nearest(p, k) if p in nearest(q, k)}

    half = round(k1 / 2)
    vectors = []
    for p in range(total):
        own = reciprocal(p, k1)
        extended = set(own)
        for q in own:
            theirs = reciprocal(q, half)
            if len(own & theirs) >= len(theirs) * 2 / 3 - 1e-9:
                extended |= theirs
        weights = {q: np.exp(-relative[p, q]) for q in extended}
        vectors.append({q: value / sum(weights.values()) for q, value in weights.items()})
    averaged = []
    for p in range(total):
        near = nearest(p, k1)[:k2]
        averaged.append([sum(vectors[q].get(r, 0.0) for q in near) / len(near) for r in range(total)])
    averaged = np.array(averaged)
    result = np.empty((count, total - first))
    for p in range(count):
        for q in range(first, total):
            shared = np.minimum(averaged[p], averaged[q]).sum() / np.maximum(averaged[p], averaged[q]).sum()
            result[p, q - first] = (1 - weight) * (1 - shared) + weight * relative[p, q]
    return result


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_k_reciprocal_distances_equal_sets(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, others = data.draw(st.integers(1, 8)), data.draw(st.integers(0, 12))
    k1, weight = data.draw(st.integers(1, 8)), data.draw(st.sampled_from([0.0, 0.3, 1.0]))
    k2 = data.draw(st.integers(1, k1 + 1))
    # Integers, so that ties and duplicates are frequent.
    queries, references = generator.integers(-3, 4, (count, 2)), generator.integers(-3, 4, (others, 2))
    items = np.concatenate([queries, references])
    squared = squared_distances(items, items)
    expected = k_reciprocal_by_sets(squared, count, count if others else 0, k1, k2, weight)
    options = {"k1": k1, "k2": k2, "weight": weight}
    received = k_reciprocal_distances(queries, references if others else None, **options)
    np.testing.assert_allclose(received, expected, atol=1e-12)
    blocks = [squared[:count, count:], squared[:count, :count], squared[count:, count:]] if others else [squared]
    received = k_reciprocal_from_distances(*map(np.sqrt, blocks), **options)
    np.testing.assert_allclose(received, expected, atol=1e-12)


def make(count=60, dim=4, seed=0):
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 6
    return (2 * generator.normal(size=(6, dim))[labels] + generator.normal(size=(count, dim))).astype(
        np.float32
    ), labels


def test_many_items_need_no_matrix(monkeypatch):
    points, _ = make(150)
    expected = [k_reciprocal_distances(points, k1=7, k2=3), k_reciprocal_distances(points[:20], points[20:])]
    monkeypatch.setattr(k_reciprocal, "_MATRIX_ITEMS", 10)
    # A few rows at a time.
    monkeypatch.setattr(
        k_reciprocal, "parts", lambda count, _: [slice(start, start + 13) for start in range(0, count, 13)]
    )
    received = [k_reciprocal_distances(points, k1=7, k2=3), k_reciprocal_distances(points[:20], points[20:])]
    for one, other in zip(received, expected):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_invariants_of_k_reciprocal_distances():
    points, _ = make()
    queries, references = points[:10], points[10:]
    found = k_reciprocal_distances(queries, references, k1=8, k2=3)
    assert (found >= 0).all() and (found <= 1).all()
    # The order and the scale of the references do not matter.
    order = np.random.default_rng(0).permutation(len(references))
    np.testing.assert_allclose(k_reciprocal_distances(queries, references[order], k1=8, k2=3), found[:, order])
    np.testing.assert_allclose(k_reciprocal_distances(4 * queries, 4 * references, k1=8, k2=3), found)
    # λ = 1 ranks by distance.
    by_distance = k_reciprocal_distances(queries, references, weight=1)
    np.testing.assert_array_equal(by_distance.argsort(axis=1), squared_distances(queries, references).argsort(axis=1))
    among = k_reciprocal_distances(points, k1=8, k2=3, weight=0)
    np.testing.assert_allclose(among, among.T, atol=1e-12)
    np.testing.assert_allclose(np.diag(among), 0, atol=1e-12)
    # k1 beyond the number of items compares all.
    np.testing.assert_allclose(k_reciprocal_distances(points, k1=59), k_reciprocal_distances(points, k1=1000))


@pytest.mark.parametrize("points", [[[1.0, 2.0]], [[1.0, 2.0]] * 5])
def test_equal_items(points):
    np.testing.assert_allclose(k_reciprocal_distances(points, k1=2, k2=1), k_reciprocal_by_sets(
        np.zeros((len(points),) * 2), len(points), 0, 2, 1, 0.3
    ))  # fmt: skip


def test_re_ranking_helps_chains():
    # Each class is a chain, along which neighbors are nearer than across.
    steps = np.arange(20.0)
    points = np.concatenate([np.stack([steps, np.full(20, height)], axis=1) for height in (0.0, 3.0)])
    labels = np.repeat([0, 1], 20)
    before = metrics.retrieval_metrics(points, labels)["map_at_r"]
    after = metrics.retrieval_metrics_from_distances(k_reciprocal_distances(points, k1=4, k2=3), labels)["map_at_r"]
    assert after > before + 0.05


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_expanded_queries_equal_loops(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    alone, alpha = data.draw(st.booleans()), data.draw(st.sampled_from([0, 0.5, 3]))
    queries, references = generator.normal(size=(6, 3)), generator.normal(size=(7, 3))
    if alone:
        references = queries
    k = data.draw(st.integers(1, 5))
    expected = []
    for number, query in enumerate(queries):
        near = [row for row in np.argsort(squared_distances(query[None], references)[0]) if not alone or row != number]
        total, weights = query.copy(), 1.0
        for row in near[:k]:
            cosine = query @ references[row] / np.linalg.norm(query) / np.linalg.norm(references[row])
            weight = max(cosine, 0.0) ** alpha
            total, weights = total + weight * references[row], weights + weight
        expected.append(total / weights)
    received = expand_queries(queries, None if alone else references, k, alpha)
    np.testing.assert_allclose(received, expected, atol=1e-12)


def test_alpha_zero_is_the_average_of_query_and_neighbors():
    points, _ = make()
    near, _ = metrics.nearest_neighbors(points[:9], 4, points[9:])
    expected = (points[:9] + points[9:][near].sum(axis=1)) / 5
    received = expand_queries(points[:9], points[9:], neighbors=4, alpha=0)
    np.testing.assert_allclose(received, expected, rtol=1e-5)
    assert received.dtype == np.float32
    # A large α trusts only neighbors in the direction of the query.
    np.testing.assert_allclose(expand_queries(points, points[::-1] * 2, 1, alpha=1e4)[0], points[0] * 1.5, rtol=0.4)


def test_expansion_of_extreme_vectors():
    assert np.isfinite(expand_queries(np.zeros((2, 3)), np.eye(3), 2)).all()
    huge = np.float64(1e200) * np.eye(3)
    np.testing.assert_allclose(expand_queries(huge, huge, 1), huge)


labels_rows = st.integers(0, 8).flatmap(
    lambda count: st.lists(st.lists(st.sampled_from("abc"), min_size=count, max_size=count), min_size=1, max_size=3)
)


@settings(max_examples=60, deadline=None)
@given(labels_rows, st.integers(1, 3), st.none() | st.integers(1, 10))
def test_limits_per_label_equal_loops(labels, per_label, k):
    labels = np.array(labels, object).reshape(len(labels), -1)
    labels[labels == "c"] = None
    received = limit_per_label(labels, per_label, k)
    for row, found in zip(labels, received):
        expected = []
        for place, label in enumerate(row):
            if label is None or [row[other] for other in expected].count(label) < per_label:
                expected.append(place)
        width = len(row) if k is None else k
        assert found.tolist() == (expected + [-1] * width)[:width]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.sampled_from([0, 0.4, 1]))
def test_marginal_relevance_equals_loops(seed, k, balance):
    generator = np.random.default_rng(seed)
    queries, candidates = generator.normal(size=(2, 3)), generator.normal(size=(2, 6, 3))
    for query, some, received in zip(queries, candidates, marginal_relevance(queries, candidates, k, balance)):
        chosen = []
        for _ in range(k):
            costs = []
            for row in range(6):
                apart = min((np.linalg.norm(some[row] - some[other]) for other in chosen), default=0)
                costs.append(balance * np.linalg.norm(query - some[row]) - (1 - balance) * apart)
            chosen.append(min(set(range(6)) - set(chosen), key=costs.__getitem__))
        assert received.tolist() == chosen


def test_relevance_alone_is_the_order_of_distances():
    generator = np.random.default_rng(0)
    queries, candidates = generator.normal(size=(3, 4)), generator.normal(size=(3, 9, 4))
    order = np.linalg.norm(candidates - queries[:, None], axis=2).argsort(axis=1)
    np.testing.assert_array_equal(marginal_relevance(queries, candidates, 9, balance=1), order)


def make_gallery(count=50, **options):
    points, labels = make(count + 5)
    gallery = Gallery(**options)
    gallery.add(points[5:], labels=labels[5:], metadata=[{"half": row % 2} for row in range(count)])
    return gallery, points[:5], points[5:], labels[5:]


def distances_of(queries, points, ids):
    return np.sqrt(np.take_along_axis(squared_distances(queries, points), ids, axis=1))


def test_k_reciprocal_search():
    gallery, queries, points, _ = make_gallery()
    result = gallery.search(queries, k=20, rerank=KReciprocal(k1=6, k2=2, candidates=15))
    plain = gallery.search(queries, k=20)
    for query, ids, nearest in zip(queries, result.ids, plain.ids):
        near = nearest[:15]
        distances = k_reciprocal_distances(query[None], points[near], k1=6, k2=2)[0]
        assert ids[:15].tolist() == near[np.argsort(distances, kind="stable")].tolist()
        assert ids[15:].tolist() == nearest[15:].tolist()
    assert not np.array_equal(result.ids, plain.ids)
    np.testing.assert_allclose(result.distances, distances_of(queries, points, result.ids))
    # The relative distance alone changes nothing.
    unchanged = gallery.search(queries, k=20, rerank=KReciprocal(weight=1))
    np.testing.assert_array_equal(unchanged.ids, plain.ids)
    np.testing.assert_array_equal(unchanged.distances, plain.distances)


def test_query_expansion_searches_again():
    gallery, queries, points, _ = make_gallery()
    result = gallery.search(queries, k=7, rerank=QueryExpansion(neighbors=5, alpha=2))
    expected = gallery.search(expand_queries(queries, points, 5, 2), k=7)
    np.testing.assert_array_equal(result.ids, expected.ids)
    np.testing.assert_allclose(result.distances, distances_of(queries, points, result.ids))
    everything = gallery.search(queries, k=3, rerank=QueryExpansion(neighbors=500, alpha=2))
    expected = gallery.search(expand_queries(queries, points, 50, 2), k=3)
    np.testing.assert_array_equal(everything.ids, expected.ids)


def test_diverse_searches():
    gallery, queries, points, labels = make_gallery()
    plain = gallery.search(queries, k=50)
    result = gallery.search(queries, k=8, rerank=LabelLimit(per_label=2))
    expected = plain.take(limit_per_label(plain.labels, 2, 8))
    assert result.ids.tolist() == expected.ids.tolist()
    np.testing.assert_array_equal(result.distances, expected.distances)
    assert max(np.bincount(labels[row]).max() for row in result.ids.astype(int)) == 2
    # 12 items remain of 6 labels.
    short = gallery.search(queries, k=20, rerank=LabelLimit(per_label=2))
    assert short.found.sum(axis=1).tolist() == [12] * 5 and short.ids[0, 12] is None
    result = gallery.search(queries, k=8, rerank=MarginalRelevance(balance=0.5, candidates=20))
    near = plain.ids[:, :20]
    expected = np.take_along_axis(near, marginal_relevance(queries, points[near], 8, 0.5), axis=1)
    np.testing.assert_array_equal(result.ids, expected)


@pytest.mark.parametrize(
    "rerank", [KReciprocal(k1=5, k2=2), QueryExpansion(), LabelLimit(per_label=50), MarginalRelevance()]
)
def test_re_ranking_of_what_is_not_excluded(rerank):
    gallery, queries, points, labels = make_gallery(20)
    exclude = {"half": [0, 1, 0, 1, None]}
    result = gallery.search(queries, k=12, exclude=exclude, rerank=rerank)
    for query, half in enumerate(exclude["half"]):
        kept = [row for row in range(20) if half is None or row % 2 != half]
        other = Gallery()
        other.add(points[kept], ids=kept, labels=labels[kept])
        expected = other.search(queries[query : query + 1], k=min(12, len(kept)), rerank=rerank)
        assert result.ids[query, : len(kept)].tolist() == expected.ids[0].tolist()
        assert result.found[query].sum() == min(12, len(kept))


def test_re_rankers_are_applied_in_order():
    gallery, queries, points, labels = make_gallery()
    steps = [QueryExpansion(neighbors=4), KReciprocal(k1=5, k2=2, candidates=30), LabelLimit()]
    result = gallery.search(queries, k=6, rerank=steps)
    moved = expand_queries(queries, points, 4)
    near = gallery.search(moved, k=50).ids
    for query, row, received in zip(queries, near, result.ids):
        order = np.argsort(k_reciprocal_distances(query[None], points[row[:30]], k1=5, k2=2)[0], kind="stable")
        row = np.concatenate([row[:30][order], row[30:]])
        assert received.tolist() == row[limit_per_label(labels[row][None], 1, 6)[0]].tolist()


def test_a_function_may_re_rank():
    gallery, queries, _, _ = make_gallery(distance="cosine")
    result = gallery.search(queries, k=3, rerank=lambda items, queries, k: items.nearest(queries, k)[:, ::-1])
    plain = gallery.search(queries, k=3)
    np.testing.assert_array_equal(result.ids, plain.ids[:, ::-1])
    np.testing.assert_array_equal(result.distances, plain.distances[:, ::-1])


@pytest.mark.parametrize(
    "rerank, error, message",
    [
        ("k-reciprocal", TypeError, "Received: 'k-reciprocal'. Expected: KReciprocal()"),
        (KReciprocal, TypeError, "cannot be called. Received: <class"),
        ([LabelLimit(), None], TypeError, "Received: None"),
        (lambda items, queries, k: np.zeros((5, k - 1), int), ValueError, r"shape \(5, 1\). Expected: .*\(5, 2\)"),
        (lambda items, queries, k: np.zeros((5, k)), ValueError, "Received: float64"),
        (lambda items, queries, k: np.full((5, k), 99), ValueError, "from -1 to 49"),
    ],
)
def test_bad_re_rankers(rerank, error, message):
    gallery, queries, _, _ = make_gallery()
    with pytest.raises(error, match=message):
        gallery.search(queries, k=2, rerank=rerank)


class Lists:
    """A backend that does not return vectors."""

    def __init__(self):
        self.vectors = np.empty((0, 4), np.float32)

    def add(self, keys, vectors):
        self.vectors = np.concatenate([self.vectors, vectors])

    def remove(self, keys):
        raise NotImplementedError

    def search(self, queries, k):
        squared = squared_distances(queries, self.vectors)
        keys = squared.argsort(axis=1)[:, :k]
        return keys, np.sqrt(np.take_along_axis(squared, keys, 1))

    def __len__(self):
        return len(self.vectors)


def test_indexes_and_backends():
    exact, queries, points, labels = make_gallery()
    exclude, rerank = {"label": labels[:5]}, [QueryExpansion(), KReciprocal(k1=5, k2=2)]
    gallery = Gallery(backend=Lists())
    gallery.add(points, labels=labels)
    expected = exact.search(queries, k=9, exclude=exclude)
    np.testing.assert_array_equal(gallery.search(queries, k=9, exclude=exclude).ids, expected.ids)
    with pytest.raises(ValueError, match="The backend does not return vectors"):
        gallery.search(queries, k=9, rerank=rerank)
    pytest.importorskip("faiss")
    gallery = Gallery(index="hnsw")
    gallery.add(points, labels=labels)
    found, expected = (some.search(queries, k=9, exclude=exclude, rerank=rerank) for some in (gallery, exact))
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.distances, expected.distances)


EYE = np.eye(3)
BAD_CALLS = {
    "k1": (lambda: k_reciprocal_distances(EYE, k1=0), ValueError, "k1=0"),
    "k2": (lambda: KReciprocal(k1=3, k2=5), ValueError, "k2=5 and k1=3. Expected: k2 <= k1"),
    "weight": (lambda: KReciprocal(weight=1.5), ValueError, "weight=1.5"),
    "candidates": (lambda: KReciprocal(candidates=0), ValueError, "candidates=0"),
    "NaN": (lambda: k_reciprocal_distances(EYE * np.nan), ValueError, "not finite"),
    "sizes": (lambda: k_reciprocal_distances(EYE, EYE[:, :2]), ValueError, "differ in size"),
    "not square": (lambda: k_reciprocal_from_distances(EYE[:2]), ValueError, "Expected: a square matrix"),
    "one alone": (lambda: k_reciprocal_from_distances(EYE, EYE), ValueError, "query_distances alone"),
    "shape": (lambda: k_reciprocal_from_distances(EYE[:2], EYE, EYE), ValueError, r"Expected: \(2, 2\)"),
    "rank": (lambda: k_reciprocal_from_distances(EYE[0]), ValueError, r"shape \(3,\)"),
    "negative": (lambda: k_reciprocal_from_distances(-EYE), ValueError, "negative, infinite or NaN"),
    "type": (lambda: k_reciprocal_from_distances(EYE.astype(str)), TypeError, "not numbers"),
    "alpha": (lambda: expand_queries(EYE, alpha=-1), ValueError, "alpha=-1"),
    "alpha of a re-ranker": (lambda: QueryExpansion(alpha=np.nan), ValueError, "alpha=nan"),
    "neighbors": (lambda: expand_queries(EYE, neighbors=3), ValueError, "at most 2"),
    "neighbors of a re-ranker": (lambda: QueryExpansion(neighbors=0), ValueError, "neighbors=0"),
    "labels": (lambda: limit_per_label(["a", "b"]), ValueError, r"labels of shape \(2,\)"),
    "per label": (lambda: LabelLimit(per_label=0), ValueError, "per_label=0"),
    "k": (lambda: limit_per_label([["a"]], k=0), ValueError, "k=0"),
    "limit of candidates": (lambda: LabelLimit(candidates=0), ValueError, "candidates=0"),
    "too few": (lambda: marginal_relevance(EYE, np.ones((3, 2, 3)), 3), ValueError, "k=3. Expected: at most 2"),
    "candidates of others": (lambda: marginal_relevance(EYE, np.ones((2, 2, 3)), 1), ValueError, r"\(2, 2, 3\) for 3"),
    "dimension": (lambda: marginal_relevance(EYE, np.ones((3, 2, 4)), 1), ValueError, "differ in size"),
    "balance": (lambda: MarginalRelevance(balance=-0.1), ValueError, "balance=-0.1"),
    "candidates of relevance": (lambda: MarginalRelevance(candidates=0), ValueError, "candidates=0"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_CALLS)
def test_bad_calls(case):
    call, error, message = BAD_CALLS[case]
    with pytest.raises(error, match=message):
        call()
