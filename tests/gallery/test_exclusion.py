"""Searches that leave out items, compared with a loop over all items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml import Gallery
from tfdml.gallery import SearchResult, exclusion
from tfdml.gallery.items import Items


def by_loops(vectors, queries, k, is_left_out):
    """Rows and distances; -1 and infinity where fewer than k items remain."""
    rows, distances = np.full((len(queries), k), -1), np.full((len(queries), k), np.inf)
    for number, query in enumerate(queries):
        squared = [float(np.sum(np.square(query.astype(np.float64) - vector))) for vector in vectors]
        left = [row for row in range(len(vectors)) if not is_left_out(number, row)]
        for place, row in enumerate(sorted(left, key=lambda row: (squared[row], row))[:k]):
            rows[number, place], distances[number, place] = row, np.sqrt(squared[row])
    return rows, distances


def make(generator, count, queries):
    # Integers, so that ties are frequent.
    draw = generator.integers
    labels, cameras = draw(0, 3, count).tolist(), draw(0, 3, count).tolist()
    gallery, vectors = Gallery(), draw(-2, 3, (count, 2)).astype(np.float32)
    # Some items have other metadata, or none.
    metadata = [
        [None, "text", {"shop": 1}][row % 3] if row % 5 == 4 else {"camera": cameras[row]} for row in range(count)
    ]
    gallery.add(vectors, ids=[f"item {row}" for row in range(count)], labels=labels, metadata=metadata)
    cameras = [camera if row % 5 != 4 else None for row, camera in enumerate(cameras)]
    return gallery, vectors, labels, cameras, draw(-2, 3, (queries, 2)).astype(np.float32)


def check(result, gallery, labels, rows, distances):
    np.testing.assert_array_equal(result.distances, distances)
    np.testing.assert_array_equal(result.found, rows >= 0)
    ids = [[None if row < 0 else f"item {row}" for row in of_query] for of_query in rows]
    assert result.ids.tolist() == ids
    assert result.labels.tolist() == [[None if row < 0 else labels[row] for row in of_query] for of_query in rows]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_fields_equal_loops(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    gallery, vectors, labels, cameras, queries = make(generator, data.draw(st.integers(1, 30)), 4)
    wanted = {"camera": [0, 1, None, 7], "label": [0, 1, 2, np.int64(0)]}
    if not any(camera is not None for camera in cameras):
        wanted.pop("camera")
    wanted = {field: wanted[field] for field in data.draw(st.lists(st.sampled_from(sorted(wanted)), min_size=1))}
    columns = {"camera": cameras, "label": labels}

    def is_left_out(query, row):
        return all(
            entries[query] is not None and columns[field][row] == entries[query] for field, entries in wanted.items()
        )

    k = data.draw(st.integers(1, len(gallery)))
    rows, distances = by_loops(vectors, queries, k, is_left_out)
    check(gallery.search(queries, k, exclude=wanted), gallery, labels, rows, distances)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_ids_equal_loops(data):
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count = data.draw(st.integers(1, 30))
    gallery, vectors, labels, _, queries = make(generator, count, 4)
    some = [f"item {row}" for row in generator.permutation(count)[: data.draw(st.integers(0, count))]]
    wanted = [None, "item 0", some, np.array(["item 0"] * 2)]
    sets = [set(), {"item 0"}, set(some), {"item 0"}]
    k = data.draw(st.integers(1, count))
    rows, distances = by_loops(vectors, queries, k, lambda query, row: f"item {row}" in sets[query])
    check(gallery.search(queries, k, exclude=wanted), gallery, labels, rows, distances)


@pytest.mark.parametrize("k", [3, 300])
def test_searches_are_widened_only_where_needed(k):
    # The nearest 900 items are left out by the first query, and nothing by the second.
    vectors = np.arange(1200, dtype=np.float32)[:, None]
    gallery = Gallery()
    gallery.add(vectors, metadata=[{"near": row < 900} for row in range(1200)])
    widths, search = [], gallery.search(vectors[:1], 1) and gallery._search

    def counted(queries, width):
        widths.append((len(queries), width))
        return search(queries, width)

    excluded = exclusion.excluded_items({"near": [True, 5]}, gallery._items, 2)
    rows, squared = exclusion.search_without(counted, vectors[:2], k, excluded, 1200)
    np.testing.assert_array_equal(rows, [range(900, 900 + k), [1, 0, *range(2, k)]])
    np.testing.assert_array_equal(squared[0], np.arange(900.0, 900 + k) ** 2)
    assert widths[0][0] == 2 and len(widths) > 1
    assert all(queries == 1 and width <= 900 + k for queries, width in widths[1:])


def test_many_queries_are_searched_in_parts(monkeypatch):
    gallery, vectors, labels, cameras, queries = make(np.random.default_rng(0), 200, 9)
    exclude = {"camera": [0, 1, 2, None, 0, 1, 2, 0, 1]}
    expected = gallery.search(queries, 150, exclude=exclude)
    monkeypatch.setattr(exclusion, "parts", lambda count, _: [slice(at, at + 2) for at in range(0, count, 2)])
    result = gallery.search(queries, 150, exclude=exclude)
    assert result.ids.tolist() == expected.ids.tolist()
    check(result, gallery, labels, *by_loops(
        vectors, queries, 150,
        lambda query, row: exclude["camera"][query] is not None and cameras[row] == exclude["camera"][query],
    ))  # fmt: skip


def test_nothing_remains():
    gallery = Gallery()
    gallery.add(np.eye(3), labels=["a"] * 3)
    result = gallery.search(np.eye(3)[:2], k=2, exclude={"label": ["a", "b"]})
    assert result.ids.tolist() == [[None, None], [1, 0]]
    assert result.labels.tolist() == [[None, None], ["a", "a"]]
    assert result.found.tolist() == [[False, False], [True, True]]
    # Without missing items, ids are what they are in other searches.
    assert gallery.search(np.eye(3), k=2, exclude=[0, 1, 2]).ids.dtype == np.int64


def test_cosine_distances():
    vectors = np.random.default_rng(0).normal(size=(9, 3))
    gallery = Gallery(distance="cosine")
    gallery.add(vectors)
    result = gallery.search(vectors, k=8, exclude=range(9))
    everything = gallery.search(vectors, k=9)
    np.testing.assert_array_equal(result.ids, everything.ids[:, 1:])
    np.testing.assert_array_equal(result.distances, everything.distances[:, 1:])


def test_an_index_may_return_missing_rows():
    items = Items(range(4), [0, 0, 1, 1], [None] * 4)
    found = np.array([[2, 0, -1]]), np.array([[1.0, 2.0, np.inf]])
    excluded = exclusion.excluded_items({"label": [1]}, items, 1)
    rows, squared = exclusion.search_without(lambda queries, width: found, np.zeros((1, 2)), 2, excluded, 4)
    assert rows.tolist() == [[0, -1]] and squared.tolist() == [[2.0, np.inf]]


@pytest.mark.parametrize(
    "exclude, error, message",
    [
        ([0], ValueError, "Received: 1 entries for 2 queries"),
        ("ab", TypeError, "exclude is not a list. Received: 'ab'"),
        (7, TypeError, "exclude is not a list. Received: 7"),
        ([0, 9], KeyError, "not in the gallery. Received: 9"),
        ([0, 0.5], TypeError, "Ids have the wrong type"),
        ([0, ["0"]], KeyError, "not in the gallery. Received: '0'"),
        ({}, ValueError, "exclude has no fields"),
        ({"shop": [1]}, ValueError, r"exclude\['shop'\] does not fit the queries. Received: 1 entries"),
        ({"shop": "ab"}, TypeError, r"exclude\['shop'\] is not a list"),
        ({"shop": [1, [2]]}, TypeError, r"wrong type. Received: \[2\] for 'shop'"),
        ({"camera": [1, 2]}, ValueError, "No item has the field. Received: exclude with 'camera'"),
        ({"label": [1, 2]}, ValueError, "No item has the field. Received: exclude with 'label'"),
    ],
)
def test_bad_values(exclude, error, message):
    gallery = Gallery()
    gallery.add(np.eye(3), metadata=[{"shop": 1}, None, 5])
    with pytest.raises(error, match=message):
        gallery.search(np.eye(3)[:2], k=1, exclude=exclude)


def test_items_of_a_result_at_positions():
    result = SearchResult(np.array([[5, 6], [7, 8]]), np.array([["a", "b"], ["c", None]], object), np.eye(2))
    taken = result.take([[1, -1, 0], [0, 0, -1]])
    assert taken.ids.tolist() == [[6, None, 5], [7, 7, None]]
    assert taken.labels.tolist() == [["b", None, "a"], ["c", "c", None]]
    assert taken.distances.tolist() == [[0, np.inf, 1], [0, 0, np.inf]]
    assert result.take([[0], [1]]).ids.dtype == np.int64
    for positions, message in (
        ([[0]], "shape"),
        ([0, 1], "shape"),
        ([[0.5], [0.5]], "type"),
        ([[2], [0]], "0 to 2. Expected: -1 to 1"),
        ([[-2], [0]], "-2 to 0"),
    ):
        with pytest.raises(ValueError, match=message):
            result.take(positions)
