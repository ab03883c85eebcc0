"""Mining of hard negatives against a loop."""

import numpy as np
import pytest

from tfdml import data


def similarity_of(x, y, similarity):
    if similarity == "l2":
        return -np.linalg.norm(x - y)
    return x @ y if similarity == "dot" else x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def loop(queries, items, positives, count, rank_range=(0, 100), margin=None, relative_margin=None, guide=None,
         guide_margin=0.0, similarity="cosine", same=False):  # fmt: skip
    """The kept candidates of each query, most similar first, and the numbers of those skipped."""
    everything, skipped = [], {"positives": 0, "margin": 0, "relative_margin": 0, "guide": 0}
    for number, query in enumerate(queries):
        s = [similarity_of(query, item, similarity) for item in items]
        own, rank, kept, passed = positives[number], 0, [], 0
        least = min(s[item] for item in own)
        for item in sorted(range(len(items)), key=lambda item: (-s[item], item)):
            if item in own:
                passed += 1
                continue
            if same and item == number:
                continue
            if rank >= rank_range[1]:
                break
            skipped["positives"] += passed
            rank, passed = rank + 1, 0
            if rank <= rank_range[0]:
                continue
            if margin is not None and s[item] > least - margin:
                skipped["margin"] += 1
                continue
            if relative_margin is not None and s[item] > least - relative_margin * abs(least):
                skipped["relative_margin"] += 1
                continue
            if guide is not None:
                g = [similarity_of(guide[0][number], vector, similarity) for vector in guide[1]]
                if g[item] > min(g[one] for one in own) - guide_margin:
                    skipped["guide"] += 1
                    continue
            kept.append(item)
        everything.append(kept)
    missing = [count - min(count, len(kept)) for kept in everything]
    return everything, {**skipped, "missing": sum(missing), "queries_without_negatives": missing.count(count)}


def sample(seed=0, queries=15, items=40, dim=3):
    rng = np.random.default_rng(seed)
    positives = [rng.choice(items, rng.integers(1, 4), replace=False).tolist() for _ in range(queries)]
    vectors, of_items = rng.normal(size=(queries, dim)), rng.normal(size=(items, dim))
    # Positives are near their queries, so that margins matter.
    for query, own in zip(vectors, positives):
        of_items[own] = query + 0.6 * rng.normal(size=(len(own), dim))
    return vectors, of_items, positives


def guides(seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(15, 2)), rng.normal(size=(40, 2))


CASES = {
    "all": {},
    "several": {"count": 4},
    "ranks": {"count": 3, "rank_range": (5, 9)},
    "more than there are": {"count": 60},
    "margin": {"count": 2, "margin": 0.2},
    "relative margin": {"count": 2, "relative_margin": 0.1},
    "both margins": {"count": 3, "rank_range": (1, 12), "margin": 0.1, "relative_margin": 0.2},
    "dot": {"count": 3, "similarity": "dot", "margin": 0.3},
    "l2": {"count": 3, "similarity": "l2", "margin": 0.3},
    "guide": {"count": 3, "guide": guides()},
    "guide margin": {"count": 40, "rank_range": (2, 30), "guide": guides(), "guide_margin": 0.5, "margin": 0.01},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("block_bytes", [1, 2**26])
def test_equals_the_loop(case, block_bytes):
    queries, items, positives = sample()
    options = {"count": 1, **CASES[case]}
    found = data.mine_hard_negatives(queries, items, positives, **options, block_bytes=block_bytes)
    kept, skipped = loop(queries, items, positives, **options)
    assert found.skipped == skipped
    for row, of_query, values, query in zip(found.items, kept, found.similarities, queries):
        expected = of_query[: options["count"]]
        assert row.tolist() == expected + [-1] * (options["count"] - len(expected))
        exact = [similarity_of(query, items[item], options.get("similarity", "cosine")) for item in expected]
        np.testing.assert_allclose(values[: len(expected)], exact, atol=1e-12)
        assert np.isnan(values[len(expected) :]).all()


def test_equal_items_keep_their_order_in_every_block():
    """Products of equal vectors are rounded differently in different places of a block."""
    rng = np.random.default_rng(0)
    queries, distinct = rng.normal(size=(9, 7)), rng.normal(size=(3, 7))
    items = distinct[np.arange(40) % 3]
    expected = [
        [item for kind in np.argsort(-distinct @ query) for item in range(40) if item % 3 == kind and item]
        for query in queries
    ]
    for size in (1, 700, 2**20):
        found = data.mine_hard_negatives(queries, items, [0] * 9, 39, similarity="dot", block_bytes=size)
        assert found.items.tolist() == expected
        # Items equal to the positive are at its similarity, not above it.
        found = data.mine_hard_negatives(queries, items, [0] * 9, 39, similarity="dot", margin=0.0, block_bytes=size)
        assert all({3, 6, 39} <= set(row) for row in found.items.tolist())


def test_a_relative_margin_below_a_negative_similarity():
    found = data.mine_hard_negatives([[1.0, 0.0]], [[-0.2, 1.0], [-0.22, 1.0], [-0.5, 1.0]], [0], relative_margin=0.5)
    assert found.items.tolist() == [[2]]


def test_random_draws_are_seeded_and_kept_in_order():
    queries, items, positives = sample()
    options = {"rank_range": (2, 20), "margin": 0.05}
    found = [
        data.mine_hard_negatives(
            queries, items, positives, 4, sampling="random", seed=seed, block_bytes=size, **options
        ).items
        for seed, size in ((0, 1), (0, 2**26), (1, 2**26))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[1] != found[2]).any()
    kept, _ = loop(queries, items, positives, 4, **options)
    for row, of_query in zip(found[0], kept):
        drawn = row[row >= 0].tolist()
        assert len(drawn) == min(4, len(of_query)) and drawn == [item for item in of_query if item in drawn]


def test_random_draws_are_uniform():
    queries, items = np.ones((800, 1)), np.ones((6, 1))
    found = data.mine_hard_negatives(queries, items, [0] * 800, 2, sampling="random", similarity="dot")
    shares = np.bincount(found.items.ravel(), minlength=6) / 800
    np.testing.assert_allclose(shares, [0, 0.4, 0.4, 0.4, 0.4, 0.4], atol=0.08)


def test_a_query_among_the_items_is_not_its_own_negative():
    items = np.random.default_rng(0).normal(size=(8, 2))
    positives = [[(row + 1) % 8] for row in range(8)]
    found = data.mine_hard_negatives(items, items, positives, 7, same=True)
    kept, skipped = loop(items, items, positives, 7, same=True)
    assert [row[row >= 0].tolist() for row in found.items] == kept and found.skipped == skipped
    assert skipped["missing"] == 8


TWO, THREE = np.eye(3)[:2], np.eye(3)
MISTAKES = {
    "no positive": (dict(positives=[[0], []]), "Queries have no items. Received: positives without an item for 1 of 2"),
    "no queries": (dict(queries=np.zeros((0, 3)), positives=[]), r"queries of shape \(0, 3\)"),
    "no items": (dict(items=np.zeros((0, 3))), r"items of shape \(0, 3\)"),
    "sizes": (dict(items=np.eye(4)), "Embeddings differ in size"),
    "index": (dict(positives=[[0], [3]]), r"positives\[1\] with index 3"),
    "count": (dict(count=0), "count=0"),
    "reversed ranks": (dict(rank_range=(3, 3)), "The rank range is not valid"),
    "one rank": (dict(rank_range=5), "The rank range is not valid"),
    "ranks behind the items": (dict(rank_range=(3, 9)), "No item has such a rank"),
    "margin": (dict(margin=-0.1), "margin=-0.1"),
    "relative margin": (dict(relative_margin=1.5), "relative_margin=1.5"),
    "relative margin of distances": (dict(relative_margin=0.1, similarity="l2"), "with similarity='l2'"),
    "sampling": (dict(sampling="best"), "sampling='best'"),
    "guide": (dict(guide=TWO[0]), "The guide must be two matrices"),
    "other guide": (dict(guide=(THREE, THREE)), "Received: embeddings of 3 queries and 3 items. Expected: 2 and 3"),
    "guide size": (dict(guide=(TWO, np.eye(4))), r"guide\[0\] of shape \(2, 3\)"),
    "same": (dict(same=True), "same=True with 2 queries and 3 items"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        data.mine_hard_negatives(**{"queries": TWO, "items": THREE, "positives": [[0], [1]], **changes})
