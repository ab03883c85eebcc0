"""The search must agree with a full sort of exact distances, for any effect of the data on rounding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdml.metrics import nearest_neighbors, search

KINDS = {
    "general": lambda generator, shape: generator.normal(size=shape),
    "binary codes": lambda generator, shape: generator.integers(0, 2, size=shape),
    "far from the origin": lambda generator, shape: generator.integers(0, 3, size=shape) * 0.5 + 1000,
    "one point": lambda generator, shape: np.full(shape, 3.3),
    "tight clusters": lambda generator, shape: (
        generator.integers(0, 2, size=shape) * 10 + 1e-7 * generator.normal(size=shape)
    ),
    "outliers": lambda generator, shape: (
        generator.normal(size=shape) * np.where(generator.random(shape[:1]) < 0.1, 1e6, 1.0)[:, None]
    ),
    "huge": lambda generator, shape: generator.normal(size=shape) * 1e30,
    "tiny": lambda generator, shape: generator.normal(size=shape) * 1e-30,
    "signed zeros": lambda generator, shape: np.where(generator.random(shape) < 0.5, 0.0, -0.0),
}


def full_sort(queries, references, k, alone):
    differences = queries[:, None].astype(np.float64) - references[None].astype(np.float64)
    squared = np.square(differences).sum(axis=-1)
    if alone:
        np.fill_diagonal(squared, np.inf)
    return np.array([np.lexsort((np.arange(len(references)), row))[:k] for row in squared])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_equals_a_full_sort(kind, data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    count, other_count = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 250))
    dim = data.draw(st.integers(1, 8))
    alone = data.draw(st.booleans())
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    queries = KINDS[kind](generator, (count, dim)).astype(dtype)
    references = queries if alone else KINDS[kind](generator, (other_count, dim)).astype(dtype)
    if data.draw(st.booleans()):
        references = references[generator.integers(len(references), size=len(references))]
        queries = references if alone else queries
    k = data.draw(st.integers(1, len(references) - alone))
    block_bytes = data.draw(st.sampled_from([1, 20_000, 2**26]))
    indices, distances = nearest_neighbors(queries, k, None if alone else references, block_bytes)
    np.testing.assert_array_equal(indices, full_sort(queries, references, k, alone))
    differences = queries[:, None].astype(np.float64) - references[indices].astype(np.float64)
    np.testing.assert_allclose(distances, np.sqrt(np.square(differences).sum(-1)), rtol=1e-6)


def test_large_sets_take_the_first_selection_by_cells():
    generator = np.random.default_rng(0)
    references = generator.normal(size=(5_000, 16)).astype(np.float32)
    references[3_000:3_050] = references[10]
    assert search._depth(4_950, 3 + 8) > 4
    indices, _ = nearest_neighbors(references[:40], 3, references)
    np.testing.assert_array_equal(indices, full_sort(references[:40], references, 3, alone=False))


@pytest.mark.parametrize("kind", ["general", "binary codes", "far from the origin"])
@pytest.mark.parametrize("copies", [0, 30, 600])
def test_wide_searches_sort_whole_rows(kind, copies, monkeypatch):
    generator = np.random.default_rng(0)
    references = KINDS[kind](generator, (700, 5)).astype(np.float32)
    references[generator.permutation(700)[:copies]] = references[:copies] if copies < 100 else references[0]
    widths = []
    first = search._first_of_sorted
    monkeypatch.setattr(search, "_first_of_sorted", lambda *args: widths.append(args[1]) or first(*args))
    for k in (60, 400, 699):
        indices, _ = nearest_neighbors(references, k)
        np.testing.assert_array_equal(indices, full_sort(references, references, k, alone=True))
    assert widths


def test_sorted_rows_give_the_places_of_the_greatest():
    scores = np.random.default_rng(0).normal(size=(20, 1000))
    expected = np.argsort(-scores, axis=1)
    np.testing.assert_array_equal(search._first_of_sorted(scores, 30), expected[:, :30])


def test_rounding_that_hides_the_order_is_resolved(monkeypatch):
    # In a cluster of radius 1e-4, squared distances of 1e-8 are lost in products of about 1.
    generator = np.random.default_rng(0)
    cluster = 1e-4 * generator.normal(size=(100, 4))
    references = np.concatenate([cluster + 1.0, generator.normal(size=(900, 4))]).astype(np.float32)
    used = []
    attempts = search.NeighborSearch._attempts

    def record(self, count):
        for attempt in attempts(self, count):
            used.append(attempt[1])
            yield attempt

    monkeypatch.setattr(search.NeighborSearch, "_attempts", record)
    indices, _ = nearest_neighbors(references[:100], 5, references)
    np.testing.assert_array_equal(indices, full_sort(references[:100], references, 5, alone=False))
    assert used[:2] == [np.float32, np.float64]


def test_ties_go_by_index():
    references = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.5, 0.0]])
    indices, distances = nearest_neighbors([[0.0, 0.0]], 6, references)
    assert indices.tolist() == [[5, 0, 1, 2, 3, 4]]
    assert distances.tolist() == [[0.5, 1, 1, 1, 1, 1]]


def test_own_index_is_left_out_and_not_the_first():
    embeddings = np.zeros((4, 3), np.float32)
    indices, distances = nearest_neighbors(embeddings, 2)
    assert indices.tolist() == [[1, 2], [0, 2], [0, 1], [0, 1]]
    assert not distances.any()


def test_collapsed_embeddings_stay_quick(monkeypatch):
    # The product has only one column for 20,000 equal references.
    widths = []
    best = search._Products.best
    monkeypatch.setattr(search._Products, "best", lambda *args: widths.append(args[2]) or best(*args))
    embeddings = np.full((20_000, 32), 0.1, np.float32)
    indices, _ = nearest_neighbors(embeddings, 3)
    assert set(widths) == {1}
    np.testing.assert_array_equal(indices[:4], [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    np.testing.assert_array_equal(indices[4:], np.tile([0, 1, 2], (19_996, 1)))


@pytest.mark.parametrize("references", [100, 60_000])
@pytest.mark.parametrize("width", [1, 20, 100])
@pytest.mark.parametrize("itemsize", [4, 8])
def test_block_rows_stay_in_the_budget(references, width, itemsize):
    for block_bytes in (1, 10**6, 2**26):
        rows = search.block_rows(references, width, block_bytes, itemsize)
        assert rows >= 1
        assert rows == 1 or rows * references * itemsize <= block_bytes
        # At least a third of the budget is used by the products of a wide search.
        assert references < 60_000 or rows == 1 or 3 * (rows + 1) * references * itemsize > block_bytes


def test_no_product_is_larger_than_the_budget(monkeypatch):
    sizes = []
    best = search._Products.best

    def record(self, centered, width):
        sizes.append(len(centered) * self.matrix.shape[1] * np.dtype(self.dtype).itemsize)
        return best(self, centered, width)

    monkeypatch.setattr(search._Products, "best", record)
    embeddings = np.random.default_rng(0).normal(size=(2_000, 8)).astype(np.float32)
    nearest_neighbors(embeddings, 5, block_bytes=10**6)
    assert max(sizes) <= 10**6
    assert len(sizes) >= 16


def test_one_compiled_function_serves_all_sizes():
    generator = np.random.default_rng(0)
    nearest_neighbors(generator.normal(size=(50, 3)).astype(np.float32), 2)
    traced = search._BEST[np.float32].experimental_get_tracing_count()
    for count, dim, k in ((70, 5, 1), (300, 2, 4), (1_000, 7, 9)):
        nearest_neighbors(generator.normal(size=(count, dim)).astype(np.float32), k)
    assert search._BEST[np.float32].experimental_get_tracing_count() == traced == 1


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 60),
    dim=st.integers(1, 4),
    values=st.integers(1, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_equal_rows_are_those_of_a_sort(seed, count, dim, values, dtype):
    generator = np.random.default_rng(seed)
    rows = (generator.integers(values, size=(count, dim)) * 0.1).astype(dtype)
    _, expected, sizes = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    found = search._equal_rows(rows)
    if sizes.max() == 1:
        assert found is None
        return
    expected = expected.reshape(-1)
    np.testing.assert_array_equal(found[:, None] == found, expected[:, None] == expected)
    # Each row has the number of the first row equal to it.
    np.testing.assert_array_equal(found, np.argmax(expected[:, None] == expected, axis=1))


def test_rows_with_equal_sums_of_their_bits_are_compared(monkeypatch):
    class NoWeights:
        def integers(self, *args, size, dtype):
            return np.zeros(size, dtype)

    # With all weights 1, rows with the same numbers in another order are suspects, but not equal.
    monkeypatch.setattr(np.random, "default_rng", lambda seed: NoWeights())
    rows = np.array([[1, 2], [2, 1], [1, 2], [3, 4]], np.float32)
    np.testing.assert_array_equal(search._equal_rows(rows), [0, 1, 0, 3])
    assert search._equal_rows(rows[[0, 1, 3]]) is None
