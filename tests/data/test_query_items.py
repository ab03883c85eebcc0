"""Batches of queries and items: what they contain, and errors."""

import numpy as np
import pytest

from tfdml import data

QUERIES, ITEMS = np.arange(5.0)[:, None], {"a": np.arange(7) * 10, "b": np.arange(14).reshape(7, 2)}
POSITIVES = [[0], [1, 2], {3: 2.0, 4: 0.0}, [4], [5]]


def collected(batches):
    """Rows (query, item, item id, query id) of all batches."""
    rows = []
    for query, item, extras in batches.as_numpy_iterator():
        np.testing.assert_array_equal(item["b"][:, 0], item["a"] // 5)
        rows += zip(query[:, 0], item["a"], extras["item_ids"], extras["query_ids"])
    return rows


def test_an_epoch_has_each_pair_once():
    batches = data.query_item_batches(QUERIES, ITEMS, POSITIVES, batch_size=4)
    first, second = collected(batches), collected(batches)
    expected = sorted([(0, 0, 0, 0), (1, 10, 1, 1), (1, 20, 2, 1), (2, 30, 3, 2), (3, 40, 4, 3), (4, 50, 5, 4)])
    assert sorted(first) == sorted(second) == expected
    assert first != second
    assert collected(data.query_item_batches(QUERIES, ITEMS, POSITIVES, batch_size=4)) == first
    assert collected(data.query_item_batches(QUERIES, ITEMS, POSITIVES, shuffle=False)) == expected
    assert len(data.query_item_batches(QUERIES, ITEMS, POSITIVES, batch_size=4, drop_remainder=True)) == 1


def test_negatives_and_ids():
    negatives = np.array([[6, 1], [3, -1], [-1, -1], [0, 0], [1, 2]])
    batches = data.query_item_batches(
        QUERIES, ITEMS, POSITIVES, negatives, shuffle=False, item_ids=np.arange(7) + 100, query_ids=np.arange(5) + 50
    )
    _, _, extras = next(batches.as_numpy_iterator())
    assert extras["negative_ids"].tolist() == [[106, 101], [103, -1], [103, -1], [-1, -1], [100, 100], [101, 102]]
    assert extras["item_ids"].tolist() == [100, 101, 102, 103, 104, 105]
    assert extras["query_ids"].tolist() == [50, 51, 51, 52, 53, 54]
    there = extras["negative_ids"] >= 0
    assert (extras["negatives"]["a"][there] == (extras["negative_ids"][there] - 100) * 10).all()
    assert extras["negatives"]["b"].shape == (6, 2, 2)


def test_lists_are_arrays():
    batches = data.query_item_batches(["how", "what"], ([1, 2, 3], ["a", "b", "c"]), [0, 2], [[1], [1]], shuffle=False)
    query, (numbers, texts), extras = next(batches.as_numpy_iterator())
    assert query.tolist() == [b"how", b"what"]
    assert numbers.tolist() == [1, 3] and texts.tolist() == [b"a", b"c"]
    assert extras["negatives"][1].tolist() == [[b"b"], [b"b"]]


def test_negatives_as_they_are_mined():
    vectors = np.random.default_rng(0).normal(size=(7, 2)).astype("float32")
    mined = data.mine_hard_negatives(vectors[:5], vectors, POSITIVES, count=2)
    batches = data.query_item_batches(vectors[:5], vectors, POSITIVES, mined, shuffle=False)
    _, _, extras = next(batches.as_numpy_iterator())
    np.testing.assert_array_equal(extras["negative_ids"], mined.items[[0, 1, 1, 2, 3, 4]])
    np.testing.assert_array_equal(extras["negatives"], vectors[extras["negative_ids"]])


def test_negatives_of_different_numbers_are_filled_up():
    given = [[6], [3, 5], [], [0, 1], [2]]
    batches = data.query_item_batches(QUERIES, ITEMS, POSITIVES, given, shuffle=False)
    _, _, extras = next(batches.as_numpy_iterator())
    assert extras["negative_ids"].tolist() == [[6, -1], [3, 5], [3, 5], [-1, -1], [0, 1], [2, -1]]


def test_equal_items_may_share_an_id():
    items = np.array([[1.0], [2.0], [1.0]])
    batches = data.query_item_batches(QUERIES[:2], items, [[0], [2]], item_ids=[7, 8, 7], shuffle=False)
    assert next(batches.as_numpy_iterator())[2]["item_ids"].tolist() == [7, 7]


def test_shared_ids_name_the_same_things():
    things = np.array([[5.0], [6.0], [7.0]])
    batches = data.query_item_batches(things[1:], things, [[0], [1]], query_ids=[1, 2], shared_ids=True, shuffle=False)
    assert next(batches.as_numpy_iterator())[2]["query_ids"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="1 for query 0 and the different item 1"):
        data.query_item_batches(things[:1], things, [[0]], query_ids=[1], shared_ids=True)
    with pytest.raises(ValueError, match="same form"):
        data.query_item_batches(things, {"a": things}, [[0], [1], [2]], shared_ids=True)


MISTAKES = {
    "no queries": (dict(queries=np.zeros((0, 1)), positives=[]), "queries of lengths"),
    "no items": (dict(items=np.zeros((0, 1))), "items of lengths"),
    "lengths": (dict(items={"a": np.arange(7), "b": np.arange(6)}), r"items of lengths \[6, 7\]"),
    "a query without items": (dict(positives=[[0], [], [1], [2], [3]]), "Queries have no items.*index 1"),
    "index": (dict(positives=[[0], [7], [1], [2], [3]]), r"positives\[1\] with index 7"),
    "entries": (dict(positives=[[0]]), "1 entries for 5 queries"),
    "an id of two items": (dict(item_ids=[0, 1, 2, 3, 4, 5, 0]), "item_ids with 0 at the indices 0 and 6"),
    "an id of two queries": (dict(query_ids=[0, 1, 2, 3, 1]), "query_ids with 1 at the indices 1 and 4"),
    "negative id": (dict(item_ids=np.arange(-1, 6)), "item_ids with -1"),
    "number of ids": (dict(item_ids=[0, 1]), "item_ids of shape"),
    "negatives": (dict(negatives=[[0, 1]]), r"negatives of shape \(1, 2\)"),
    "negative index": (dict(negatives=[[7]] * 5), "negatives from 7 to 7"),
    "both": (dict(negatives=[[6], [2], [6], [6], [6]]), "both positive and negative. Received: item 2 for query 1"),
    "batch size": (dict(batch_size=0), "batch_size=0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        data.query_item_batches(**{"queries": QUERIES, "items": ITEMS, "positives": POSITIVES, **changes})


def test_ids_are_integers():
    with pytest.raises(TypeError, match="item_ids of type"):
        data.query_item_batches(QUERIES, ITEMS, POSITIVES, item_ids=list("abcdefg"))
